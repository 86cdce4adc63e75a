"""Folders that a benchmark is pointed at."""

from __future__ import annotations

import numpy as np
import pytest

from basicsr_ext.config.protocols import PROTOCOLS
from basicsr_ext.config.published_sets import deviations, published_name
from basicsr_ext.data.benchmark_sets import find_set
from basicsr_ext.data.images import write_image

SR, RAIN, GREY_JPEG = PROTOCOLS["sr_x2"], PROTOCOLS["derain_y"], PROTOCOLS["jpeg_gray_10"]


@pytest.fixture
def images(tmp_path):
    """images("Set5/HR/a.png", ...): files of 8 x 6 pixels below a folder, which is returned."""

    def write(*names, channels=3):
        for name in names:
            write_image(tmp_path / name, np.zeros((8, 6, channels), np.uint8))
        return tmp_path

    return write


def test_ground_truth_is_what_lies_in_the_folder_or_in_the_one_that_is_named_so(images):
    folder = images("plain/a.png", "set/HR/a.png", "set/LR_bicubic/X2/ax2.png", "nested/one/a.png")
    assert find_set(folder / "plain", SR).option == {"dataroot_gt": str(folder / "plain")}
    assert find_set(folder / "nested", SR).option == {"dataroot_gt": str(folder / "nested")}
    found = find_set(folder / "set", SR)
    assert found.option == {"dataroot_gt": str(folder / "set/HR")}
    assert found.name == "set"
    assert found.remarks == ("LR_bicubic beside the ground truth is not read: low quality is made of it",)
    assert find_set(folder / "set/HR", SR) == found


def test_low_quality_given_by_the_user_is_read_and_that_is_said(images):
    folder = images("HR/a.png", "X2/a.png")
    found = find_set(folder / "HR", SR, folder / "X2", "{}x2")
    assert found.option["dataroot_lq"] == str(folder / "X2")
    assert found.option["filename_tmpl"] == "{}x2"
    assert found.remarks == (f"low quality is read from {folder / 'X2'}, not made of the ground truth",)


def test_inputs_that_cannot_be_made_are_found_or_asked_for(images):
    folder = images("a/target/1.png", "a/input/1.png", "b/GT/1.png", "b/other/1.png")
    assert find_set(folder / "a", RAIN).option["dataroot_lq"] == str(folder / "a/input")
    with pytest.raises(ValueError, match="name the inputs with --lq"):
        find_set(folder / "b", RAIN)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a.png", "more/b.png"], r"holds images, and folders of images \(more\)"),
        (["HR/a.png", "GT/a.png"], r"which folder of .* is the ground truth\? It has GT, HR"),
        (["LR_x2/a.png"], r"which folder of .* is the ground truth\? It has LR_x2"),
        (["a.png", "ax2.png"], "low-quality images beside their ground truth: ax2"),
        (["i_SRF_4_HR.png", "i_SRF_4_LR.png"], "low-quality images beside their ground truth: i_SRF_4_LR"),
    ],
)
def test_folders_that_leave_open_what_is_ground_truth_are_refused(images, files, words):
    with pytest.raises(ValueError, match=words):
        find_set(images(*files), SR)


def test_a_published_name_with_other_images_is_said(images):
    found = find_set(images("set5/a.png", "set5/b.png") / "set5", SR)
    assert found.name == "Set5"
    assert found.remarks == (
        "Set5 has 5 images, here are 2",
        "images of Set5 have sides of 228 to 512 pixels, these of 6 to 8",
    )


def test_published_sets_are_known_cut_to_a_multiple_of_the_scale_and_under_their_other_name():
    assert published_name("/data/BSD100/HR") == "B100"
    assert published_name("/data/mine") is None
    assert deviations("B100", [(480, 320)] * 100) == []
    assert deviations("B100", [(160, 107)] * 100) != []


def test_unreadable_files_are_named_before_anything_is_run(images):
    folder = images("Set5/a.png") / "Set5"
    (folder / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.png"):
        find_set(folder, SR)


def test_the_files_decide_which_grey_is_published(images):
    folder = images("colour/a.png")
    images("grey/a.png", channels=1)
    assert find_set(folder / "colour", GREY_JPEG).option["color"] == "matlab_gray"
    assert find_set(folder / "grey", GREY_JPEG).option["color"] == "gray"
    images("colour/b.png", channels=1)
    with pytest.raises(ValueError, match="1 grey files and others in colour"):
        find_set(folder / "colour", GREY_JPEG)
