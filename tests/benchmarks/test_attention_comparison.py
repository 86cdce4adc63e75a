"""Like is compared with like, by the package's trainer, and the page concludes what the records say."""

from __future__ import annotations

import json
import subprocess
import sys

import attention_comparison as comparison
import cv2
import numpy as np
import pytest
from attention_report import Difference, answers, at_time, build_page, load, of_task, plot
from helpers import ENVIRONMENT, ROOT

from basicsr_ext.registry import MIXERS


@pytest.mark.parametrize("mixer", MIXERS.names())
def test_networks_have_equally_many_parameters(mixer):
    wanted = comparison.Settings().parameters
    opt = comparison.network(mixer, "sr_x2", wanted)
    assert comparison.count(opt) == pytest.approx(wanted, rel=comparison.TOLERANCE)
    assert opt["depths"] == comparison.DEPTHS
    assert opt["mixer"] == mixer  # with the arguments it comes with


def test_runs_differ_in_mixer_task_and_seed_alone(tmp_path):
    settings = comparison.Settings()
    one, other = (comparison.options(m, "denoise_25", 1, settings, tmp_path) for m in ("swin", "mswin"))
    for opt in (one, other):
        del opt["network_g"], opt["name"]
    assert one == other


@pytest.mark.slow
def test_a_run_leaves_a_record_and_is_not_repeated(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (104, 112, 3), np.uint8)
    (tmp_path / "images").mkdir()
    assert cv2.imwrite(str(tmp_path / "images/a.png"), image)
    command = [sys.executable, "benchmarks/attention_comparison.py", "all", "--mixers", "swin"]
    command += ["--tasks", "sr_x2", "--seeds", "1", "--iterations", "8", "--batch", "1"]
    for name in ("data", "val-data"):
        command += [f"--{name}", str(tmp_path / "images")]
    command += ["--records", str(tmp_path / "records"), "--work", str(tmp_path / "work")]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    first, again = (
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True) for _ in range(2)
    )
    assert first.returncode == 0, first.stdout
    assert again.stdout == ""
    [record] = load(tmp_path / "records")
    assert [point["iteration"] for point in record["curve"]] == list(range(1, 9))
    assert record["seconds_per_iteration"] > 0
    assert record["parameters"] == pytest.approx(comparison.Settings().parameters, rel=0.05)
    assert record["multiply_adds"] > 48 * 48 * record["parameters"] / 2


def record(mixer, seed, psnr, cost=1.0, **settings):
    return {
        "mixer": mixer,
        "task": "sr_x2",
        "seed": seed,
        "settings": {**comparison.asdict(comparison.Settings(iterations=10)), **settings},
        "network": {"dim": 32, "feed_forward": {"ratio": 2.0}},
        "parameters": 110_000,
        "multiply_adds": 400_000_000,
        "seconds_per_iteration": cost,
        "peak_megabytes": 100.0,
        "device": "CPU",
        "torch": "2",
        "curve": [{"iteration": 5, "psnr": psnr - 1}, {"iteration": 10, "psnr": psnr}],
    }


RECORDS = [
    record(mixer, seed, psnr + seed, cost)
    for seed in range(3)
    for mixer, psnr, cost in (("mswin", 30.0, 1.0), ("mswin_deformable_branch", 30.5 + seed / 100, 2.0))
]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.1, 0.11, 0.12], "it gains: +0.110 ± 0.025 dB (95 % interval, 3 seeds)"),
        ([-0.1, -0.11, -0.12], "it loses: -0.110 ± 0.025 dB (95 % interval, 3 seeds)"),
        ([0.1, -0.1, 0.2], "no difference that these seeds show: +0.067 ± 0.379 dB (95 % interval, 3 seeds)"),
        ([0.1], "+0.100 dB with one seed, from which nothing follows"),
    ],
)
def test_a_difference_counts_where_its_interval_leaves_zero_out(values, verdict):
    assert Difference(values).verdict() == verdict


def test_psnr_at_a_time_lies_between_evaluations():
    assert at_time(7.0, cost=1.0)(record("swin", 0, 30.0)) == pytest.approx(29.4)


def test_the_answer_is_that_of_the_records():
    lines = answers(of_task(RECORDS, "sr_x2"))
    assert "takes 2.00 times as long" in lines[0]
    assert "it gains: +0.510" in lines[1]
    # In the time of ten iterations of the faster one, the slower one has done five.
    assert "(10 s of forward and backward passes), it loses: -0.490" in lines[2]


def test_the_page_has_a_row_for_each_mixer_best_first(tmp_path):
    page = build_page(RECORDS, {})
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["mswin_deformable_branch", "mswin"]
    assert "31.510 ± 1.010 | 3 | 110,000 | 400 M | 2.000 | 100 MB | 32, 2.00 |" in rows[0]
    assert "Bicubic" not in page
    assert "Bicubic enlargement has 29.500 dB" in build_page([{**RECORDS[0], "bicubic": 29.5}], {})


def test_plots_are_drawn_where_matplotlib_is(tmp_path):
    pytest.importorskip("matplotlib")
    assert plot(of_task(RECORDS, "sr_x2"), "sr_x2", tmp_path / "plot.png")
    assert cv2.imread(str(tmp_path / "plot.png")) is not None


def test_records_of_different_settings_are_not_mixed(tmp_path):
    for name, content in (("a", RECORDS[0]), ("b", record("swin", 0, 30.0, batch=2))):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"records of different settings: .*swin, sr_x2, seed 0"):
        load(tmp_path)
    with pytest.raises(ValueError, match="no records in"):
        load(tmp_path / "nowhere")
