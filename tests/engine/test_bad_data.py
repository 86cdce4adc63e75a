"""An image that cannot be used ends the run in one line, or is replaced and counted."""

import json
import re

import cv2
import numpy as np
import pytest
from helpers import tiny_options

from basicsr_ext import load_options, train


@pytest.fixture
def options(tmp_path):
    """Options of a run on six images, of which 3.bmp is cut short behind a sound header.

    In this format, as libpng would print words of its own between ours.
    """
    rng = np.random.default_rng(0)
    (tmp_path / "gt").mkdir()
    for number in range(6):
        picture = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
        assert cv2.imwrite(str(tmp_path / f"gt/{number}.bmp"), picture)
    broken = tmp_path / "gt/3.bmp"
    broken.write_bytes(broken.read_bytes()[:-1000])
    options = tiny_options(tmp_path / "run")
    options["datasets"]["train"] |= {"type": "PairedImageDataset", "dataroot_gt": str(tmp_path / "gt")}
    return options


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_stop_ends_the_run_with_one_line_naming_sample_and_file(options, tmp_path, train_command, workers):
    options["datasets"]["train"]["num_worker_per_gpu"] = workers
    done = train_command(options)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    path = re.escape(f"{tmp_path}/gt/3.bmp")
    assert re.fullmatch(rf"SampleError: sample \d+, {path}: cannot be decoded.*", line)


def counts(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["replaced_samples"] for line in lines if line["kind"] == "train"]


def test_skip_replaces_counts_and_goes_on_counting_after_a_resume(options, tmp_path):
    options["datasets"]["train"]["on_bad_sample"] = "skip"
    train(load_options(options))
    whole = counts(tmp_path / "run")
    assert whole == sorted(whole)
    assert whole[3] > 0

    options["path"]["resume_state"] = str(tmp_path / "run/training_states/4.state")
    train(load_options(options))
    assert counts(tmp_path / "run") == whole


def test_images_that_the_headers_give_away_are_warned_of_and_replaced(options, tmp_path, capsys):
    (tmp_path / "gt/4.bmp").write_bytes(b"")
    options["datasets"]["train"]["on_bad_sample"] = "skip"
    assert train(load_options(options)).iteration == 8
    assert "4.bmp: cannot be decoded" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["pad", "skip"])
def test_images_smaller_than_the_largest_patch_are_padded_or_skipped_where_asked_for(
    options, tmp_path, capsys, mode
):
    for number, side in ((3, 64), (4, 40)):  # the last stage's patch is 48
        picture = np.full((side, 60, 3), number, np.uint8)
        assert cv2.imwrite(str(tmp_path / f"gt/{number}.bmp"), picture)
    options["datasets"]["train"]["on_small_image"] = mode
    assert train(load_options(options)).iteration == 8
    assert capsys.readouterr().out.count("1 image smaller than the largest patch, 48 pixels, ") == 1
    assert (counts(tmp_path / "run")[-1] > 0) is (mode == "skip")
