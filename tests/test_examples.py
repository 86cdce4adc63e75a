"""The plug-ins in ``examples`` train, score, and are what the pages show."""

import json
import re

import numpy as np
import pytest
from helpers import ROOT

from basicsr_ext import load_options, train
from basicsr_ext.data.images import write_image
from basicsr_ext.data.resize import downscale
from basicsr_ext.data.sampling import SampleRequest
from basicsr_ext.inference.description import describe, open_network, open_reader
from basicsr_ext.inference.files import pictures, results_of
from basicsr_ext.inference.reading import ReadingWorker

EXAMPLES = ROOT / "examples"


def shortened(name, folder, *overrides):
    """Return the options of an example for ten iterations."""
    fewer = ("train:total_iter=10", "val:val_freq=1000")
    quiet = ("logger:print_freq=1", "logger:use_tb_logger=false", f"path:experiments_root={folder}")
    return load_options(EXAMPLES / name, [*fewer, *quiet, *overrides])


def test_a_network_a_loss_a_metric_a_schedule_and_a_degradation_train(tmp_path):
    options = shortened("restoration.yml", tmp_path, "train:scheduler:period=5")
    summary = train(options)
    lines = [json.loads(line) for line in (summary.folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["lr"] for line in trained] == [1e-3] * 5 + [5e-4] * 5
    assert trained[-1]["l_pix"] < trained[0]["l_pix"]
    assert "l_light" in trained[0]
    assert (
        summary.best["photographs"]["worst"]["value"]
        > summary.baselines["bicubic"]["photographs"]["worst"] / 2
    )
    sample = options.datasets.train.train_set(2, 0)[SampleRequest(0, 32, 0)]
    assert 0.65 < float(sample["lq"].mean() / sample["gt"].mean()) < 1


def test_a_data_set_finds_the_pairs_of_a_scene(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        sharp = rng.integers(0, 256, (36, 40, 3)).astype(np.uint8)
        write_image(tmp_path / f"scenes/first/sharp/{name}.png", sharp)
        write_image(tmp_path / f"scenes/first/blurred/{name}.png", downscale(sharp, 2))
    keys = f"root: {tmp_path}/scenes, scene: first"
    loading = "num_worker_per_gpu: 0, gt_size: 32, batch_size_per_gpu: 2"
    options = shortened(
        "restoration.yml",
        tmp_path,
        "plugins=[examples.network, examples.dataset, examples.loss, examples.metric, examples.schedule]",
        f"datasets:train={{type: ScenesOfPairs, {keys}, {loading}}}",
        f"datasets:val={{type: ScenesOfPairs, {keys}}}",
    )
    assert train(options).iteration == 10
    opened = options.datasets.train.pairs(2)
    assert list(opened.gt.names) == ["a", "b"]
    assert opened.lq.path(0) == f"{tmp_path}/scenes/first/blurred/a.png"


@pytest.fixture(scope="module")
def meter(tmp_path_factory):
    """Train what tells the strength of noise."""
    folder = tmp_path_factory.mktemp("noise")
    return train(shortened("noise_level.yml", folder, "train:total_iter=100", "logger:print_freq=25"))


def test_a_kind_of_training_learns_and_scores(meter):
    lines = [json.loads(line) for line in (meter.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["l_noise"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < losses[0]
    assert meter.best["photographs"]["error"]["value"] >= 0
    assert meter.baselines["always_25"]["photographs"]["error"] >= 0


def test_a_kind_of_training_says_what_it_finds_in_pictures(meter, tmp_path):
    rng = np.random.default_rng(0)
    for name, sigma in (("clean", 0), ("noisy", 50)):
        image = np.clip(128 + sigma * rng.standard_normal((40, 50, 3)), 0, 255).astype(np.uint8)
        write_image(tmp_path / f"{name}.png", image if name == "noisy" else image[..., :1])
    weights = meter.folder / "models/net_g_latest.pth"
    described = describe(weights)
    network = open_network(weights, described)
    worker = ReadingWorker(open_reader(weights, described, network), next(network.parameters()).device)
    clean, noisy = (made.result for made in results_of(pictures([str(tmp_path)]), worker))
    assert clean.row["noise"] < noisy.row["noise"]
    assert noisy.text == f"noise {noisy.row['noise']:.1f} of 255"


def test_the_page_shows_the_examples_as_they_are():
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```python\n# (examples/\w+\.py)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(shown) >= 2
    for name, content in shown:
        assert content.strip() == (ROOT / name).read_text(encoding="utf-8").strip(), name
    assert not [path.name for path in EXAMPLES.glob("*.py") if f"examples/{path.name}" not in page]
