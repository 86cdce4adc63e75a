"""The index of a large folder: what a later start does not do again, and what it notices."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from basicsr_ext import load_options
from basicsr_ext.config import paths
from basicsr_ext.data import exclusion, folder_index, opening
from basicsr_ext.data.datasets import check_sizes
from basicsr_ext.data.folder_index import index_path, measured
from basicsr_ext.data.images import write_image
from basicsr_ext.data.opening import open_source
from basicsr_ext.data.sources import open_folder


@pytest.fixture(autouse=True)
def small_index(monkeypatch, tmp_path):
    """Let folders of three images have an index, in a cache of the test's own."""
    monkeypatch.setattr(folder_index, "LEAST", 3)
    monkeypatch.setattr(exclusion, "_ASKED_EVERY", 0.01)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(paths.LOG, "propagate", True)  # to caplog


@pytest.fixture
def opened(monkeypatch):
    """Collect the files whose headers are read for their sizes."""
    files = []
    real = folder_index.image_size
    monkeypatch.setattr(
        folder_index, "image_size", lambda path: (files.append(Path(path).name), real(path))[1]
    )
    return files


@pytest.fixture
def folder(tmp_path):
    """Six images of sides 16 to 21 in three folders that changed an hour ago."""
    for number in range(6):
        write(tmp_path / f"set/{'abc'[number % 3]}/{number}.png", 16 + number)
    age(tmp_path / "set")
    return str(tmp_path / "set")


def write(path, side):
    write_image(path, np.zeros((side, side + 1, 3), np.uint8))


def age(root):
    for place, _, _ in os.walk(root):
        os.utime(place, (time.time() - 3600,) * 2)


def start(folder):
    source = measured(open_source(folder, "dataroot_gt"))
    assert list(source.names) == list(open_folder(folder, "dataroot_gt").names)
    return source


def sides(source):
    return source.recorded_sizes()[:, 0].tolist()


def train_set(folder, **keys):
    section = {"type": "PairedImageDataset", "dataroot_gt": folder, "gt_size": 16, "batch_size_per_gpu": 1}
    written = {
        "name": "run",
        "scale": 2,
        "datasets": {"train": {**section, **keys}},
        "network_g": {"type": "EDT", "scales": [2]},
        "train": {"total_iter": 1, "optim_g": {"type": "Adam", "lr": 1}, "pixel_opt": {"type": "L1Loss"}},
    }
    return load_options(written).datasets.train.train_set(2, 0)


def test_a_later_start_lists_no_folder_and_opens_no_file(folder, opened, monkeypatch):
    first = start(folder)
    assert sides(first) == [16, 19, 17, 20, 18, 21]
    assert len(opened) == 6
    monkeypatch.setattr(paths.os, "scandir", lambda path: pytest.fail(f"listed {path}"))
    again = measured(open_source(folder, "dataroot_gt"))
    assert list(again.names) == list(first.names) == ["a/0", "a/3", "b/1", "b/4", "c/2", "c/5"]
    assert sides(again) == sides(first)
    assert len(opened) == 6


@pytest.mark.parametrize(
    ("change", "read"),
    [
        (lambda root: write(root / "b/9.png", 30), ["9.png"]),
        (lambda root: (root / "b/1.png").unlink(), []),
        (lambda root: (root / "b/1.png").rename(root / "c/1.png"), ["1.png"]),
        (lambda root: write(root / "d/e/9.png", 30), ["9.png"]),
        (lambda root: (root / "a").rename(root / "z"), ["0.png", "3.png"]),
        # write_image puts a new file in the place of the old one.
        (lambda root: write(root / "b/1.png", 30), ["1.png"]),
        (lambda root: (root / "d").symlink_to(root.parent / "elsewhere"), ["9.png"]),
    ],
    ids=["added", "removed", "moved", "new folder", "renamed folder", "replaced", "link"],
)
def test_what_has_changed_is_noticed_and_only_that_is_read(folder, tmp_path, opened, change, read):
    write(tmp_path / "elsewhere/9.png", 30)
    start(folder)
    opened.clear()
    change(Path(folder))
    source = start(folder)
    assert sorted(opened) == read
    assert [tuple(size) for size in source.recorded_sizes().tolist()] == [
        source.size(index) for index in range(len(source))
    ]


def test_a_folder_that_has_just_changed_is_read_again(folder):
    (Path(folder) / "b/7.txt").touch()
    now = os.stat(Path(folder, "b")).st_mtime_ns
    start(folder)
    write(Path(folder, "b/8.png"), 20)
    os.utime(Path(folder, "b"), ns=(now, now))  # a second change within one tick of the clock
    assert "b/8" in list(start(folder).names)


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"nonsense", lambda _: b""]
)
def test_a_damaged_index_is_made_anew_with_one_line(folder, opened, caplog, damage):
    start(folder)
    path = index_path(folder)
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level("WARNING"):
        start(folder)
    (line,) = caplog.messages
    assert line.startswith(f"{path} is made anew: it cannot be read")
    caplog.clear()
    opened.clear()
    start(folder)
    assert not caplog.messages
    assert not opened


def test_an_index_of_another_version_is_made_anew(folder, caplog, monkeypatch):
    start(folder)
    monkeypatch.setattr(folder_index, "_FORMAT", 2)
    with caplog.at_level("WARNING"):
        start(folder)
    assert caplog.messages == [f"{index_path(folder)} is made anew: it is of format 1, not 2"]


def test_where_the_cache_cannot_be_written_a_start_does_without(folder, tmp_path, caplog):
    (tmp_path / "cache").touch()
    with caplog.at_level("WARNING"):
        assert sides(start(folder)) == [16, 19, 17, 20, 18, 21]
    assert {message.partition(" cannot be written")[0] for message in caplog.messages} == {
        str(index_path(folder))
    }


def test_a_small_folder_has_no_index_and_its_files_are_read_once(folder, opened, monkeypatch):
    monkeypatch.setattr(folder_index, "LEAST", 7)
    assert check_sizes(train_set(folder), 16) == []
    assert len(opened) == 6
    assert not index_path(folder).parent.exists()


def test_of_several_that_start_at_once_one_reads(folder, opened):
    with ThreadPoolExecutor(4) as pool:
        sources = list(pool.map(start, [folder] * 4))
    assert [sides(source) for source in sources] == [[16, 19, 17, 20, 18, 21]] * 4
    assert len(opened) == 6


def test_two_images_of_one_name_are_an_error_every_time(folder):
    write(Path(folder, "a/0.bmp"), 16)
    for _ in range(2):
        with pytest.raises(ValueError, match="several images called a/0"):
            open_source(folder, "dataroot_gt")


def test_nothing_is_said_against_a_file_that_was_overwritten_by_a_good_one(folder, tmp_path):
    write(Path(folder, "a/0.png"), 8)
    age(folder)
    assert "0.png (8x9)" in str(check_sizes(train_set(folder), 16))
    write(tmp_path / "good.png", 32)
    Path(folder, "a/0.png").write_bytes((tmp_path / "good.png").read_bytes())
    assert sides(measured(open_source(folder, "dataroot_gt")))[0] == 8  # what the index cannot know
    assert check_sizes(train_set(folder), 16) == []


def test_an_unreadable_file_is_looked_at_every_time(folder, opened):
    Path(folder, "a/0.png").write_bytes(b"nothing")
    age(folder)
    for _ in range(2):
        (problem,) = check_sizes(train_set(folder), 16)
        assert "1 image that cannot be read" in problem.found
    assert len(opened) == 6


def test_small_images_are_left_out_by_the_index_alone(folder, opened):
    start(folder)
    opened.clear()
    chosen = train_set(folder, min_size=19)
    assert list(chosen.pairs.names) == ["a/3", "b/4", "c/5"]
    assert list(train_set(folder, min_size=19, range=[1, 3]).pairs.names) == ["b/4", "c/5"]
    assert not opened
    with pytest.raises(ValueError, match="min_size: all 6 images are smaller than 99 pixels"):
        train_set(folder, min_size=99)


def test_a_list_with_sizes_leaves_files_closed_but_for_a_few(folder, tmp_path, opened, monkeypatch):
    monkeypatch.setattr(opening, "_LOOKED_AT", 2)
    looked = []
    real = opening.FileSource.size
    monkeypatch.setattr(
        opening.FileSource, "size", lambda s, index: (looked.append(index), real(s, index))[1]
    )
    listing = tmp_path / "list.txt"
    listing.write_text("".join(f"{'abc'[n % 3]}/{n}.png ({16 + n},{17 + n},3)\n" for n in (4, 0, 2, 5)))
    chosen = train_set(folder, meta_info_file=str(listing))
    assert list(chosen.pairs.names) == ["b/4", "a/0", "c/2", "c/5"]
    assert sides(chosen.pairs.gt) == [20, 16, 18, 21]
    assert check_sizes(chosen, 16) == []
    assert not opened
    assert len(looked) == 2


def test_a_list_with_the_sizes_of_other_files_is_not_believed(folder, tmp_path, caplog):
    listing = tmp_path / "list.txt"
    listing.write_text("a/0.png (480,480,3)\nb/1.png (480,480,3)\n")
    with caplog.at_level("WARNING"):
        chosen = train_set(folder, meta_info_file=str(listing))
    assert f"{folder}/a/0.png has 16x17 pixels, not 480x480; its sizes are not used" in caplog.text
    assert sides(chosen.pairs.gt) == [16, 17]
