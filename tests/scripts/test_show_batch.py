"""scripts/show_batch.py, run as a user runs it."""

import numpy as np
import pytest
import yaml
from helpers import tiny_options

from basicsr_ext.data.images import read_image


@pytest.fixture
def options_path(tmp_path):
    path = tmp_path / "tiny.yml"
    path.write_text(yaml.safe_dump(tiny_options(tmp_path)))
    return path


def test_the_sheet_shows_every_sample_of_every_stage(script, options_path, tmp_path):
    target = tmp_path / "new/sheet.png"
    result = script("show_batch", "-opt", options_path, "--output", target, "--samples", 4)
    assert result.returncode == 0, result.stderr
    sheet = read_image(target)
    assert f"{sheet.shape[1]}x{sheet.shape[0]} pixels" in result.stdout
    # The upper border of a frame is a red line; each of the three stages has two rows of two samples.
    red = np.abs(sheet.astype(int) - (0xE5, 0x48, 0x4D)).max(axis=2) == 0
    assert red.any(axis=0)[: sheet.shape[1] // 2].any()
    assert red.any(axis=0)[sheet.shape[1] // 2 :].any()
    rows = np.flatnonzero(red.any(axis=1))
    assert 1 + np.count_nonzero(np.diff(rows) > 20) >= 6


def test_overrides_change_what_is_drawn(script, options_path, tmp_path):
    target = tmp_path / "sheet.png"
    overrides = (
        "datasets:train:degradation=[{type: rain, kind: heavy}, {type: downsample}]",
        "datasets:train:stages=[{iters: 8, gt_size: 64, batch_size_per_gpu: 1}]",
    )
    arguments = ("--samples", 1, "--columns", 1, "--force_yml", *overrides)
    result = script("show_batch", "-opt", options_path, "--output", target, *arguments)
    assert result.returncode == 0, result.stderr
    height, width = read_image(target).shape[:2]
    assert height < 400
    assert width < 800


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("datasets:train:degradation=[{type: blurr}]", "did you mean 'blur'?"),
        (
            "datasets:train:stages=[{iters: 8, gt_size: 600, batch_size_per_gpu: 1}]",
            "smaller than the largest",
        ),
    ],
)
def test_options_that_cannot_run_are_explained(script, options_path, override, message):
    result = script("show_batch", "-opt", options_path, "--force_yml", override)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr
