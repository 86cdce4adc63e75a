"""Classification: data as a function of the sample's number, accuracy, resumes, wrong numbers of classes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ENVIRONMENT, ROOT, run_command, same_bits

from basicsr_ext import load_options, train
from basicsr_ext.config import OptionError
from basicsr_ext.data.classes import batch_mixer, draw_crop
from basicsr_ext.data.images import write_image
from basicsr_ext.data.opening import open_source
from basicsr_ext.data.sampling import SampleRequest, sample_rng
from basicsr_ext.engine.checkpoint import Checkpointer
from basicsr_ext.engine.signals import StoppedError
from basicsr_ext.metrics.topk_metric import TopKAccuracy
from basicsr_ext.models.classification_model import ClassificationModel

AUGMENTED = {
    "rand_augment": {"num_ops": 2, "magnitude": 9},
    "color_jitter": 0.4,
    "random_erasing": 0.5,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Three classes of two images of different sizes."""
    root, rng = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog", "emu")):
        for number in range(2):
            shape = (40 + 6 * number, 50 - 4 * label, 3)
            image = rng.integers(80 * label, 80 * label + 60, shape).astype(np.uint8)
            write_image(root / name / f"{number}.png", image)
    return root


def options(folder, run, **changes):
    return {
        "name": run.name,
        "model_type": "ClassificationModel",
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {
            "train": {
                "type": "ImageFolder",
                "dataroot": str(folder),
                "num_worker_per_gpu": 0,
                "stages": [
                    {"iters": 4, "gt_size": 16, "batch_size_total": 4},
                    {"iters": 4, "gt_size": 24, "batch_size_total": 4},
                ],
                **AUGMENTED,
            },
            "val": {
                "type": "ImageFolder",
                "name": "animals",
                "dataroot": str(folder),
                "resize": 28,
                "size": 24,
                "batch_size": 4,
                "num_worker_per_gpu": 0,
            },
        },
        "network_g": {
            "type": "SwinTransformer",
            "img_size": 24,
            "num_classes": 3,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "window_size": 3,
            "patch_size": 2,
            "drop_path_rate": 0.2,
            **changes.pop("network", {}),
        },
        "path": {"experiments_root": str(run.parent)},
        "train": {
            "total_iter": 8,
            "optim_g": {"type": "AdamW", "lr": 1e-2, "weight_decay": 0.05},
            "filter_bias_and_norm": True,
            "scheduler": {"type": "CosineLRScheduler", "t_initial": 8, "warmup_t": 2},
            "label_smoothing": 0.1,
            "mixup": 0.8,
            "cutmix": 1.0,
            "ema_decay": 0.9,
        },
        "val": {"val_freq": 4, "metrics": {"top1": {"type": "TopKAccuracy"}}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 4, "use_tb_logger": False, "report": False},
        **changes,
    }


def test_a_sample_depends_on_its_number_alone(folder):
    dataset = load_options(options(folder, folder / "run")).datasets.train.train_set(1, 7)
    sample = dataset[SampleRequest(3, 16, 11)]
    torch.rand(5)
    again = dataset[SampleRequest(3, 16, 11)]
    assert torch.equal(sample["image"], again["image"])
    assert not torch.equal(sample["image"], dataset[SampleRequest(3, 16, 12)]["image"])
    assert sample["label"].tolist() == [0, 1, 0]
    assert sample["image"].shape == (3, 16, 16)


def test_a_store_gives_the_samples_of_the_folder(folder, tmp_path):
    made = run_command(sys.executable, "scripts/make_store.py", folder)
    assert made.returncode == 0, made.stderr
    store = folder.with_name(f"{folder.name}.store")
    of_files, of_store = (
        load_options(options(root, tmp_path / "run")).datasets.train.train_set(1, 7)
        for root in (folder, store)
    )
    assert of_store.classes == ("cat", "dog", "emu")
    for k in range(6):
        one, other = (dataset[SampleRequest(k, 20, k)] for dataset in (of_files, of_store))
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])


@pytest.mark.parametrize("extent", [(40, 50), (3, 900), (900, 3), (1, 1)])
def test_crops_lie_inside_images_of_every_shape(extent):
    for k in range(100):
        top, left, height, width = draw_crop(sample_rng(0, k), extent, (0.08, 1.0), (0.75, 4 / 3))
        assert 0 <= top <= top + height <= extent[0]
        assert 0 <= left <= left + width <= extent[1]
        assert min(height, width) > 0


def test_areas_of_crops_are_spread_as_asked_for():
    crops = [draw_crop(sample_rng(0, k), (200, 300), (0.2, 0.5), (0.75, 4 / 3)) for k in range(500)]
    areas = np.array([height * width for *_, height, width in crops]) / 60000
    assert 0.19 < areas.min() < 0.22
    assert 0.48 < areas.max() < 0.51
    assert areas.mean() == pytest.approx(0.35, abs=0.02)


def test_mixing_blends_labels_as_it_blends_images():
    images = torch.stack([torch.full((3, 8, 8), float(value)) for value in (0, 1, 2, 3)])
    labels = torch.eye(4)
    mix = batch_mixer(0.8, 1.0, 0.5)
    for k in range(20):
        mixed, shares = mix(images, labels, 3, k)
        values = torch.tensor([0.0, 1.0, 2.0, 3.0])
        torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ values)
        assert torch.equal(mixed, mix(images, labels, 3, k)[0])


def test_a_guess_counts_if_the_class_is_among_the_likeliest():
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.9, 0.05, 0.05], [0.3, 0.2, 0.5]])
    target = torch.tensor([2, 0, 1])
    for k, expected in ((1, 100 / 3), (2, 200 / 3), (3, 100.0), (5, 100.0)):
        metric, other = TopKAccuracy(k), TopKAccuracy(k)
        metric.update(0, metric.statistic(scores[:2], target[:2]))
        other.update(1, other.statistic(scores[2:], target[2:]))
        metric.merge(other)
        assert metric.result() == pytest.approx(expected)


def test_a_resumed_run_ends_with_the_same_bits(folder, tmp_path):
    train(load_options(options(folder, tmp_path / "run")))
    whole = Checkpointer(tmp_path / "run").load(8)
    for kind in ("training_states/8.json", "training_states/8.state", "models/net_g_8.pth"):
        (tmp_path / "run" / kind).unlink(missing_ok=True)
    train(load_options(options(folder, tmp_path / "run")), auto_resume=True)
    resumed = Checkpointer(tmp_path / "run").load(8)
    assert same_bits(resumed.networks, whole.networks)
    assert same_bits(resumed.state["optimizers"], whole.state["optimizers"])
    assert resumed.state["best"] == whole.state["best"]


KILLER = """
import os, signal
from pathlib import Path
from basicsr_ext.models.classification_model import ClassificationModel

healthy, calls = ClassificationModel.losses, 0

def losses(self, *arguments):
    global calls
    calls += 1
    marker = Path(os.environ["MARKER"])
    if calls == 10 and os.environ.get("RANK", "0") == "0" and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return healthy(self, *arguments)

ClassificationModel.losses = losses
"""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [0, 2])
def test_a_killed_run_goes_on_to_the_same_bits(folder, tmp_path, train_command, monkeypatch, ranks):
    (tmp_path / "killer.py").write_text(KILLER)
    monkeypatch.setitem(ENVIRONMENT, "MARKER", str(tmp_path / "marker"))
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", f"{tmp_path}:{ROOT}")
    written = {name: options(folder, tmp_path / name, plugins=["killer"]) for name in ("killed", "whole")}
    for run in written.values():
        run["logger"]["save_checkpoint_freq"] = 2
        for section in run["datasets"].values():
            section["num_worker_per_gpu"] = 2
    assert train_command(written["killed"], ranks=ranks).returncode != 0
    before = Checkpointer(tmp_path / "killed").newest()[0]
    assert before is not None
    assert before.iteration < 8
    for run in written.values():
        done = train_command(run, "--auto_resume", ranks=ranks)
        assert done.returncode == 0, done.stderr
    killed, whole = (Checkpointer(tmp_path / name).load(8) for name in written)
    assert same_bits(killed.networks, whole.networks)
    for key in ("optimizers", "random", "best"):
        assert same_bits(killed.state[key], whole.state[key]), key


@pytest.mark.slow
def test_two_ranks_score_what_one_does(folder, tmp_path, train_command):
    for name, ranks in (("one", 0), ("two", 2)):
        written = options(folder, tmp_path / name)
        # Batches are blended within a rank; all else is the same whatever the number of ranks.
        written["train"] |= {"mixup": 0, "cutmix": 0}
        written["network_g"]["drop_path_rate"] = 0.0
        written["datasets"]["val"] |= {"batch_size": 2, "num_worker_per_gpu": ranks}
        finished = train_command(written, ranks=ranks)
        assert finished.returncode == 0, finished.stderr
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    scores = [[line["top1"] for line in run if line["kind"] == "val/animals"] for run in lines]
    losses = [[line["l_cls"] for line in run if line["kind"] == "train"] for run in lines]
    assert scores[0] == scores[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_network_of_another_number_of_classes_is_refused_before_the_run(folder, tmp_path):
    written = options(folder, tmp_path / "run", network={"num_classes": 10})
    with pytest.raises(OptionError, match="network_g gives 10 classes, the data set has 3: set network_g"):
        train(load_options(written))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["cat", "dog"]}, "holds 'emu', which classes does not name"),
        ({"dataroot": "cat"}, "a folder for each class was expected"),
    ],
)
def test_folders_that_are_no_classes_are_named(folder, tmp_path, change, message):
    written = options(folder, tmp_path / "run")
    if "dataroot" in change:
        change = {"dataroot": os.path.join(folder, change["dataroot"])}
    written["datasets"]["train"] |= change
    with pytest.raises(OptionError, match=message):
        train(load_options(written))


def test_images_in_order_of_their_names_make_classes_in_order_of_theirs(folder):
    assert [name.partition("/")[0] for name in open_source(str(folder), "dataroot").names] == [
        "cat", "cat", "dog", "dog", "emu", "emu",
    ]  # fmt: skip


def test_scores_do_not_depend_on_the_number_of_processes(folder, tmp_path, monkeypatch):
    seen = []

    def record(self, networks, item, dataset, index, draw):
        seen[-1].append((index, item))
        return evaluate(self, networks, item, dataset, index, draw)

    evaluate = ClassificationModel.evaluate
    monkeypatch.setattr(ClassificationModel, "evaluate", record)
    scores = []
    for workers in (0, 2):
        seen.append([])
        written = options(folder, tmp_path / f"run{workers}")
        written["datasets"]["val"] |= {"num_worker_per_gpu": workers, "batch_size": 2}
        scores.append(train(load_options(written)).best)
    assert len(seen[0]) == 6
    assert same_bits(*seen)
    assert same_bits(*scores)


def test_a_signal_between_images_ends_the_processes_that_make_them(folder, tmp_path, monkeypatch):
    written = options(folder, tmp_path / "run")
    written["datasets"]["val"] |= {"num_worker_per_gpu": 2, "batch_size": 1}
    evaluate, evaluated = ClassificationModel.evaluate, []

    def stop_at_the_third(self, networks, item, dataset, index, draw):
        evaluated.append(len(multiprocessing.active_children()))
        if len(evaluated) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, networks, item, dataset, index, draw)

    monkeypatch.setattr(ClassificationModel, "evaluate", stop_at_the_third)
    with pytest.raises(StoppedError, match="before its validation was complete"):
        train(load_options(written))
    assert evaluated == [2, 2, 2]
    assert multiprocessing.active_children() == []
    monkeypatch.setattr(ClassificationModel, "evaluate", evaluate)
    train(load_options(written), auto_resume=True)
    train(load_options(options(folder, tmp_path / "whole")))
    stopped, whole = (Checkpointer(tmp_path / name).load(8) for name in ("run", "whole"))
    assert same_bits(stopped.networks, whole.networks)
    assert stopped.state["best"] == whole.state["best"]
