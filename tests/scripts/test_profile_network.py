"""scripts/profile_network.py: what a network costs, and what bounds a run."""

from __future__ import annotations

import json

import profile_network
import pytest

from basicsr_ext.engine.preflight import footprint

FILE = """\
name: NAME
scale: 2
datasets: {val: {type: SampleImages}}
network_g: {type: EDT, scales: [2], window_size: [2, 8], num_feat: 4, embed_dim: WIDTH, depths: [2],
            num_heads: [2], upsampler: pixelshuffledirect}
"""


def run_folder(folder, lines, waits, validated=()):
    """Write the log of a run: (second, iteration) of each line; all iterations took 0.5 s."""
    text = "".join(f"2026-01-01 00:{s // 60:02}:{s % 60:02} INFO: iter {i}/99 | x\n" for s, i in lines)
    (folder / "train_tiny_20260101_000000.log").write_text(text)
    entries = [
        {"iteration": i, "kind": "train", "iterations_per_second": 2.0, "data_wait": waits} for _, i in lines
    ]
    entries += [{"iteration": i, "kind": "val/Set5", "psnr": 1.0} for i in validated]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def test_two_networks_stand_beside_each_other(tmp_path, capsys):
    for name, width in {"narrow": "12", "wide": "24"}.items():
        (tmp_path / f"{name}.yml").write_text(FILE.replace("NAME", name).replace("WIDTH", width))
    arguments = ["-opt", tmp_path / "narrow.yml", "--compare", tmp_path / "wide.yml", "--size", 16]
    arguments += ["--repeats", 1, "--device", "cpu"]
    assert profile_network.main(list(map(str, arguments))) == []
    told = capsys.readouterr().out
    assert "narrow: EDT, x2, patch 16 x 16, on cpu" in told
    for label in ("parameters", "multiply-adds of a 1280 x 720 result", "activations of the patch"):
        row = next(line for line in told.splitlines() if label in line)
        assert float(row.split("│")[4]) > 1
    assert "body.layers.0" in told


@pytest.mark.parametrize(
    ("lines", "waits", "validated", "shares", "words"),
    [
        ([(0, 10), (10, 30), (20, 50)], 0.05, (), [0.05, 0.95, 0, 0], "device bound"),
        ([(0, 10), (10, 30), (20, 50)], 0.6, (), [0.6, 0.4, 0, 0], "data bound"),
        ([(0, 10), (40, 30), (50, 50)], 0.0, (10,), [0, 0.4, 0.6, 0], "bound by validation"),
        ([(0, 10), (20, 30), (40, 50)], 0.0, (), [0, 0.5, 0, 0.5], "bound by logging or saving"),
    ],
)
def test_what_a_run_spent_its_time_on_is_read_off_its_log(
    tmp_path, capsys, lines, waits, validated, shares, words
):
    folder = run_folder(tmp_path, lines, waits, validated)
    assert list(profile_network.shares_of(folder).values()) == pytest.approx(shares)
    assert profile_network.main(["--run", str(folder)]) == []
    assert words in capsys.readouterr().out


def test_a_folder_without_a_run_and_a_run_without_a_log_are_said(tmp_path):
    with pytest.raises(ValueError, match=r"holds no metrics\.jsonl"):
        profile_network.main(["--run", str(tmp_path)])
    run_folder(tmp_path, [(0, 10)], 0.0)
    with pytest.raises(ValueError, match="two lines of iterations are needed"):
        profile_network.main(["--run", str(tmp_path)])


def test_memory_is_estimated_from_the_tensors_that_are_kept_for_the_backward_pass():
    import torch
    from torch import nn

    from basicsr_ext.archs.counting import without_values
    from basicsr_ext.config import load_options

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return self.conv(x).square()

    plane = 2 * 8 * 8 * 4
    peak = footprint.peak_bytes(without_values(Square()), (2, 3, 8, 8))
    # Input and both results are kept; the backward pass makes the gradient of the second.
    assert 11 * plane <= peak <= 25 * plane
    options = {
        "name": "tiny",
        "datasets": {"train": {"type": "SampleImages", "gt_size": 8, "batch_size_per_gpu": 1}},
        "network_g": {"type": "EDT"},
        "train": {
            "total_iter": 1,
            "ema_decay": 0.9,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "pixel_opt": {"type": "L1Loss"},
        },
    }
    options["datasets"]["train"]["degradation"] = [{"type": "gaussian_noise", "sigma": 5}]
    train = load_options(options).train
    needs = footprint.footprint(Square(), train, [8, 16], 1, 2, torch.device("cpu"))
    learned = 4 * 16
    assert needs.fixed == learned * (1 + 1 + 2 + 1 + 1)
    assert needs.sample[8] == peak // 2
    assert needs.sample[16] > 3 * needs.sample[8]
    assert needs.largest_batch(8, needs.fixed + 5.5 * needs.sample[8]) == 5
    assert needs.largest_batch(8, 1) == 0
