"""scripts/benchmark.py: published numbers from weights and a folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark import main
from helpers import ROOT

import basicsr_ext as bx
from basicsr_ext.archs.weights import DESCRIPTION
from basicsr_ext.data.images import write_image
from basicsr_ext.data.resize import downscale
from basicsr_ext.inference.description import Description

DATA = ROOT.parent / "shared/data"
EDT = {"window_size": [2, 8], "num_feat": 4, "embed_dim": 12, "depths": [2], "num_heads": [2]}


@pytest.fixture
def benchmark(capsys):
    """benchmark(arguments ...): what it prints, after a run in this process; errors are raised."""

    def run(*arguments: object) -> str:
        assert main(["--device", "cpu", *map(str, arguments)]) == []
        return capsys.readouterr().out

    return run


def weights(folder: Path, network: dict, **description: object) -> Path:
    """Write a file of weights as a run leaves it."""
    torch.manual_seed(0)
    file = folder / "net.pth"
    entry = Description(network, **description).entry()
    torch.save({"params": bx.build_network(network).state_dict(), DESCRIPTION: entry}, file)
    return file


def photographs(folder: Path, *names: str, channels: int = 3) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        write_image(folder / name, rng.integers(0, 256, (33, 26, channels), np.uint8))
    return folder


def test_scores_are_those_of_the_protocol_worked_out_by_hand(benchmark, tmp_path):
    network = {"type": "EDT", "scales": [2], "upsampler": "pixelshuffledirect", **EDT}
    file = weights(tmp_path, network)
    photographs(tmp_path / "set", "HR/a.png", "HR/b.png", channels=1)
    told = benchmark(
        "--weights", file, "--protocol", "sr_x2", "--data", tmp_path / "set", "--out", tmp_path / "out",
        "--save_images",
    )  # fmt: skip
    net = bx.build_network(network)
    bx.load_weights(net, file)
    rows = list(csv.DictReader((tmp_path / "out/images.csv").open()))
    assert [row["image"] for row in rows] == ["a", "b"]
    for row in rows:
        gt = bx_read(tmp_path / f"set/HR/{row['image']}.png")[:32, :26]
        restored = bx.restore(net, downscale(gt, 2), 2)
        saved = bx_read(tmp_path / f"out/images/set/{row['image']}_sr_x2.png")
        np.testing.assert_array_equal(saved, restored)
        luma = [
            16 + (65.481 * x[..., 0] + 128.553 * x[..., 1] + 24.966 * x[..., 2]) / 255
            for x in (restored[2:-2, 2:-2].astype(np.float64), gt[2:-2, 2:-2].astype(np.float64))
        ]
        psnr = 10 * np.log10(255**2 / np.mean((luma[0] - luma[1]) ** 2))
        assert float(row["psnr"]) == pytest.approx(psnr, abs=1e-4)
        assert (row["height"], row["width"]) == ("32", "26")
        assert float(row["seconds"]) > 0
        assert int(row["peak_bytes"]) > 32 * 26 * 3 * 4
    report = json.loads((tmp_path / "out/benchmark.json").read_text())
    mean = np.mean([float(row["psnr"]) for row in rows])
    assert report["sets"]["set"]["psnr"] == pytest.approx(mean)
    assert f"| set | 2 | {mean:.2f} |" in (tmp_path / "out/benchmark.md").read_text()
    assert f"{mean:.2f}" in told


def bx_read(path: Path) -> np.ndarray:
    from basicsr_ext.data.images import read_image

    return read_image(path)


def test_self_ensemble_is_the_mean_over_eight_orientations(benchmark, tmp_path):
    network = {"type": "EDT", "scales": [2], "upsampler": "pixelshuffledirect", **EDT}
    file = weights(tmp_path, network)
    photographs(tmp_path / "set", "a.png")
    benchmark(
        "--weights", file, "--protocol", "sr_x2", "--data", tmp_path / "set", "--out", tmp_path / "out",
        "--save_images", "--self_ensemble",
    )  # fmt: skip
    net = bx.build_network(network)
    bx.load_weights(net, file)
    gt = bx_read(tmp_path / "set/a.png")[:32, :26]
    expected = bx.restore(net, downscale(gt, 2), 2, self_ensemble=True)
    found = bx_read(tmp_path / "out/images/set/a_sr_x2.png").astype(int)
    assert abs(found - expected).max() <= 1
    assert (found != bx.restore(net, downscale(gt, 2), 2)).any()


def test_of_a_network_for_several_tasks_the_one_of_the_protocol_is_scored(benchmark, tmp_path):
    network = {"type": "EDT", "noise_levels": [15, 25], "full_resolution": True, **EDT}
    file = weights(tmp_path, network)
    folder = photographs(tmp_path / "set", "a.png")
    out = tmp_path / "out"
    benchmark(
        "--weights", file, "--protocol", "denoise_color_25", "--data", folder, "--out", out, "--save_images"
    )
    net = bx.build_network({**network, "noise_levels": [25]})
    bx.load_weights(net, file)
    gt = torch.from_numpy(bx_read(folder / "a.png")).double() / 255
    noisy = gt.numpy() + np.random.RandomState(0).normal(0, 25 / 255, gt.shape)
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(noisy).permute(2, 0, 1)[None].float())
    saved = bx_read(out / "images/set/a_denoise_color_25.png").astype(int)
    assert abs(saved - (expected[0].permute(1, 2, 0).clamp(0, 1) * 255).round().numpy()).max() <= 1
    with pytest.raises(ValueError, match="the weights are for dn_g15, dn_g25; choose one with --task"):
        benchmark("--weights", file, "--protocol", "denoise_color_50", "--data", folder)


def test_what_cannot_be_scored_is_said_in_the_users_words(benchmark, tmp_path):
    file = weights(tmp_path, {"type": "EMT", "upscale": 2, "dim": 12, "n_blocks": 1, "n_layers": 3})
    folder = photographs(tmp_path / "set", "a.png")
    with pytest.raises(
        ValueError, match=r"network_g\.upscale: found 2, expected the file's scale, which is 4"
    ):
        benchmark("--weights", file, "--protocol", "sr_x4", "--data", folder)
    with pytest.raises(Exception, match="--lq names 2 folders for the 1 of --data"):
        benchmark("--weights", file, "--protocol", "sr_x2", "--data", folder, "--lq", folder, folder)


def test_a_plug_ins_network_is_scored(benchmark, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "plugin_of_benchmark.py").write_text(
        "from torch import nn\nfrom basicsr_ext.registry import NETWORKS\n"
        "@NETWORKS.register()\n"
        "class BenchmarkedPlugin(nn.Conv2d):\n"
        "    def __init__(self):\n        super().__init__(3, 3, 3, padding=1)\n"
    )
    opt = {
        "name": "mine",
        "plugins": ["plugin_of_benchmark"],
        "datasets": {"test": {"type": "SampleImages", "degradation": [{"type": "jpeg", "quality": 10}]}},
        "network_g": {"type": "BenchmarkedPlugin"},
    }
    (tmp_path / "my.yml").write_text(json.dumps(opt))
    torch.save({"params": torch.nn.Conv2d(3, 3, 3).state_dict()}, tmp_path / "net.pth")
    photographs(tmp_path, "rain/target/a.png", "rain/input/a.png")
    told = benchmark(
        "--weights", tmp_path / "net.pth", "--opt", tmp_path / "my.yml", "--protocol", "derain_y",
        "--data", tmp_path / "rain",
    )  # fmt: skip
    assert "BenchmarkedPlugin, 84 parameters" in told


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not on this machine")
def test_official_weights_of_emt_give_the_numbers_stated_beside_the_data(benchmark, tmp_path):
    benchmark(
        "--weights", DATA / "emt/EMT_LSR_x4.pth", "--protocol", "lsr_x4", "--data", DATA / "set5",
        DATA / "set14_small/HR", "--out", tmp_path,
    )  # fmt: skip
    rows = {row["image"]: row for row in csv.DictReader((tmp_path / "images.csv").open())}
    stated = {
        "baby": (33.9445, 0.89636),
        "bird": (35.3724, 0.94909),
        "butterfly": (29.5484, 0.93597),
        "head": (33.0109, 0.79926),
        "woman": (31.3172, 0.92066),
        "bridge": (25.5481, 0.64889),
        "comic": (23.8280, 0.74911),
        "face": (33.0281, 0.79842),
        "zebra": (28.0678, 0.79132),
    }
    assert rows.keys() == stated.keys()
    for image, (psnr, ssim) in stated.items():
        assert float(rows[image]["psnr"]) == pytest.approx(psnr, abs=0.001)
        assert float(rows[image]["ssim"]) == pytest.approx(ssim, abs=0.00005)
    scores = json.loads((tmp_path / "benchmark.json").read_text())["sets"]["Set5"]
    assert scores["psnr"] == pytest.approx(32.6387, abs=0.001)
    assert scores["ssim"] == pytest.approx(0.90027, abs=0.00005)
    assert scores["bicubic_psnr"] == pytest.approx(28.4290, abs=0.001)
