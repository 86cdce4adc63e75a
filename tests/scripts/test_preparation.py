"""Sub-images, lists and splits, made by processes as users make them."""

import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from sections import PairedTrain

from basicsr_ext.data import build_train_dataset
from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.data.resize import downscale
from basicsr_ext.data.sampling import SampleRequest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def large(tmp_path):
    """A folder HR of two images, 100x132 and 64x64, and a small one; LR/X2 is half of each, named 0x2, ..."""
    rng = np.random.default_rng(1)
    for index, size in enumerate(((100, 132), (64, 64), (30, 90))):
        image = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
        write_image(tmp_path / f"HR/{index}.png", image)
        write_image(tmp_path / f"LR/X2/{index}x2.png", downscale(image, 2))
    return tmp_path


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


SIZES = ("--size", 64, "--step", 32)


def test_sub_images_cover_the_image_to_its_borders(script, large):
    result = script("crop_subimages", large / "HR", *SIZES)
    assert result.returncode == 0, result.stderr
    image = read_image(large / "HR/0.png")
    corners = [(top, left) for top in (0, 32, 36) for left in (0, 32, 64, 68)]
    assert names(large / "HR_sub") == [*(f"0_s{number:03d}.png" for number in range(1, 13)), "1_s001.png"]
    for number, (top, left) in enumerate(corners, 1):
        found = read_image(large / f"HR_sub/0_s{number:03d}.png")
        np.testing.assert_array_equal(found, image[top : top + 64, left : left + 64])
    assert "1 of 3 images are smaller and were left out: 2.png (30x90)" in result.stdout


def test_last_sub_images_can_be_left_out_where_little_remains(script, large):
    assert script("crop_subimages", large / "HR", *SIZES, "--threshold", 4).returncode == 0
    assert len(names(large / "HR_sub")) == 2 * 3 + 1


def test_both_sides_get_sub_images_that_correspond(script, large):
    assert script("crop_subimages", large / "HR", *SIZES).returncode == 0
    result = script("crop_subimages", large / "LR/X2", *SIZES, "--scale", 2, "--filename_tmpl", "{}x2")
    assert result.returncode == 0, result.stderr
    assert names(large / "LR/X2_sub") == names(large / "HR_sub")
    option = PairedTrain(
        type="PairedImageDataset",
        dataroot_gt=str(large / "HR_sub"),
        dataroot_lq=str(large / "LR/X2_sub"),
    )
    sample = build_train_dataset(option, 2, 0)[SampleRequest(4, 64, 0)]
    gt = sample["gt"].numpy().transpose(1, 2, 0)
    # Away from the border, where the whole image's low quality saw beyond the sub-image.
    expected = downscale(np.rint(gt * 255).astype(np.uint8), 2)[4:-4, 4:-4]
    found = np.rint(sample["lq"].numpy().transpose(1, 2, 0) * 255)[4:-4, 4:-4]
    assert np.abs(found - expected).max() <= 2


def test_an_interrupted_cut_goes_on(script, large):
    assert script("crop_subimages", large / "HR", *SIZES).returncode == 0
    (large / "HR_sub/0_s005.png").unlink()
    result = script("crop_subimages", large / "HR", *SIZES)
    assert "1 sub-images of 64x64 pixels written" in result.stdout
    assert "12 kept" in result.stdout
    assert len(names(large / "HR_sub")) == 13


def test_files_that_are_no_images_are_named(script, large):
    (large / "HR/bad.png").write_bytes(b"bad")
    for name, arguments in (("crop_subimages", SIZES), ("make_meta_info", ())):
        result = script(name, large / "HR", *arguments)
        assert result.returncode == 1
        assert result.stderr.startswith("error: ")
        assert "bad.png" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", 65, "--scale", 2), "--size 65 is not divisible by --scale 2"),
        (("--filename_tmpl", "{}x4"), "0 is not of the form '{}x4'"),
    ],
)
def test_wrong_arguments_for_cutting_are_one_line(script, large, arguments, message):
    result = script("crop_subimages", large / "HR", *arguments)
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_meta_info_file_lists_names_and_sizes_and_limits_a_data_set(script, large):
    result = script("make_meta_info", large / "HR", "--min_size", 64)
    assert result.returncode == 0, result.stderr
    lines = (large / "HR_meta_info.txt").read_text().splitlines()
    assert lines == ["0.png (100,132,3)", "1.png (64,64,3)"]
    option = PairedTrain(
        type="PairedImageDataset",
        dataroot_gt=str(large / "HR"),
        meta_info_file=str(large / "HR_meta_info.txt"),
    )
    assert len(build_train_dataset(option, 2, 0)) == 2


def test_names_that_a_list_cannot_hold_are_refused(script, large):
    (large / "HR/0.png").rename(large / "HR/0 old.png")
    result = script("make_meta_info", large / "HR")
    assert result.returncode == 1
    assert "rename 0 old.png" in result.stderr


@pytest.fixture
def scenes(tmp_path):
    """A folder with three sub-images of each of twenty scenes."""
    for scene in range(20):
        for part in range(1, 4):
            (tmp_path / "photos").mkdir(exist_ok=True)
            (tmp_path / f"photos/{scene:02d}_s{part:03d}.png").touch()
    return tmp_path / "photos"


def lists(folder):
    return {
        path.stem.removeprefix("photos_"): path.read_text().split() for path in folder.glob("photos_*.txt")
    }


def test_a_split_is_complete_and_keeps_sub_images_together(script, scenes):
    result = script("split_dataset", scenes, "--val", 6, "--test", 0.1)
    assert result.returncode == 0, result.stderr
    sets = lists(scenes.parent)
    assert {name: len(files) for name, files in sets.items()} == {"train": 48, "val": 6, "test": 6}
    assert sorted(chain(*sets.values())) == sorted(path.name for path in scenes.iterdir())
    groups = [{file[:2] for file in files} for files in sets.values()]
    assert sum(map(len, groups)) == 20


def test_the_seed_decides_a_split(script, scenes, tmp_path):
    results = []
    for number, seed in enumerate((1, 1, 2)):
        output = tmp_path / f"split{number}"
        assert script("split_dataset", scenes, "--val", 9, "--seed", seed, "--output", output).returncode == 0
        results.append(lists(output)["val"])
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--val", 60), "nothing of 60 images is left to train on"),
        (("--val", 1.5), "1.5 is neither a number of images nor a share below 1"),
        (("--val", 3, "--group", "("), "--group: '(' is not a regular expression"),
    ],
)
def test_a_split_that_makes_no_sense_is_refused(script, scenes, arguments, message):
    result = script("split_dataset", scenes, *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert lists(scenes.parent) == {}


@pytest.mark.parametrize(
    "name", ["make_lr", "crop_subimages", "make_meta_info", "split_dataset", "download_data", "show_batch"]
)
def test_every_command_explains_itself(script, name):
    result = script(name, "--help")
    assert result.returncode == 0
    assert f"scripts/{name}.py" in result.stdout


def test_a_killed_worker_ends_a_command_with_one_line(tmp_path):
    (tmp_path / "fails.py").write_text(
        f"""
import os, sys
sys.path.insert(0, {str(SCRIPTS)!r})
from _command import run, run_jobs

def die(job):
    os._exit(9)

def main(arguments):
    return list(run_jobs(die, range(16), 2, "dying"))

if __name__ == "__main__":
    raise SystemExit(run(main))
"""
    )
    command = [sys.executable, str(tmp_path / "fails.py")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "error: a worker process was killed, perhaps for want of memory; try fewer --workers"
    ]
