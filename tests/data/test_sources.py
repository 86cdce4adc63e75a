"""Folders, LMDBs, meta-info files and pairing by name."""

import pickle
import shutil
from multiprocessing import get_context
from pathlib import Path

import lmdb
import numpy as np
import pytest
from basicsr.utils.lmdb_util import make_lmdb_from_imgs

from basicsr_ext.config import paths
from basicsr_ext.data.images import ImageError, grey, write_image
from basicsr_ext.data.opening import match, open_source, select
from basicsr_ext.data.sources import GreySource


@pytest.fixture
def folder(tmp_path, texture) -> Path:
    for index, name in enumerate(["b.png", "a.jpg", "deep/er/c.tif", "deep/a.v2.bmp"]):
        write_image(tmp_path / "images" / name, texture(20, 30, index))
    return tmp_path / "images"


@pytest.fixture
def database(tmp_path, texture) -> Path:
    """Made by basicsr's own tool."""
    for index in range(3):
        write_image(tmp_path / "files" / f"im{index}.png", texture(120, 150, index))
    target = tmp_path / "gt.lmdb"
    names = [f"im{index}" for index in range(3)]
    make_lmdb_from_imgs(str(tmp_path / "files"), str(target), [f"{name}.png" for name in names], names)
    return target


def touch(folder: Path, *names: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return str(folder)


def test_a_folder_is_searched_at_any_depth_in_order_of_names(folder):
    source = open_source(str(folder), "dataroot_gt")
    assert list(source.names) == ["a", "b", "deep/a.v2", "deep/er/c"]
    assert source.path(3) == str(folder / "deep/er/c.tif")
    assert [source.size(index) for index in range(len(source))] == [(20, 30)] * 4
    assert source.read(1).shape == (20, 30, 3)


def test_hidden_files_and_other_files_are_ignored(folder):
    for name in (".hidden.png", "notes.txt", ".trash/x.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert len(open_source(str(folder), "dataroot_gt")) == 4


def test_linked_folders_are_searched(folder, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/part").symlink_to(folder)
    assert len(open_source(str(tmp_path / "set"), "dataroot_gt")) == 4


def test_each_folder_is_read_once_however_many_links_lead_to_it(folder, caplog, monkeypatch):
    monkeypatch.setattr(paths.LOG, "propagate", True)  # to caplog
    expected = open_source(str(folder), "dataroot_gt").names
    (folder / "deep/er/loop").symlink_to(folder)
    (folder / "again").symlink_to(folder / "deep")
    (folder / "self").symlink_to("self")
    with caplog.at_level("WARNING", paths.LOG.name):
        assert open_source(str(folder), "dataroot_gt").names == expected
    assert sorted(caplog.messages) == [
        f"{folder}/{link} is left out: it leads to a folder that has been read already"
        for link in ("again", "deep/er/loop")
    ]


def test_a_missing_folder_is_an_error_with_key_and_path(tmp_path):
    with pytest.raises(ValueError, match=r"dataroot_lq: .*nowhere is not a folder"):
        open_source(str(tmp_path / "nowhere"), "dataroot_lq")


def test_an_empty_folder_is_an_error_that_says_which_files_count(tmp_path):
    with pytest.raises(ValueError, match=r"dataroot_gt: .* holds no images \(\.png, \.jpg, "):
        open_source(str(tmp_path), "dataroot_gt")


def test_two_files_of_one_name_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="several images called a"):
        open_source(touch(tmp_path, "a.png", "a.jpg", "b.png"), "dataroot_gt")


def test_an_lmdb_gives_the_pictures_it_was_made_from(database, texture):
    source = open_source(str(database), "dataroot_gt")
    assert list(source.names) == ["im0", "im1", "im2"]
    assert source.size(2) == (120, 150)
    np.testing.assert_array_equal(source.read(1), texture(120, 150, 1))


def test_an_lmdb_can_be_opened_twice_and_pickled(database):
    first, second = (open_source(str(database), key) for key in ("dataroot_gt", "dataroot_lq"))
    expected = first.read(0)
    np.testing.assert_array_equal(second.read(0), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(first)).read(0), expected)


def test_an_lmdb_in_use_can_be_read_in_a_forked_process(database):
    source = open_source(str(database), "dataroot_gt")
    expected = source.read(0)
    with get_context("fork").Pool(2) as pool:
        for found in pool.map(source.read, [0, 0]):
            np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(source.read(0), expected)


def test_an_lmdb_without_meta_info_is_an_error(database):
    (database / "meta_info.txt").unlink()
    with pytest.raises(ValueError, match=r"dataroot_gt: .* has no readable meta_info\.txt"):
        open_source(str(database), "dataroot_gt")


def test_a_bad_line_of_meta_info_is_named(database):
    with (database / "meta_info.txt").open("a") as file:
        file.write("im9.png\n")
    with pytest.raises(ValueError, match=r"meta_info\.txt:4: found 'im9\.png'"):
        open_source(str(database), "dataroot_gt")


def test_a_key_that_the_database_lacks_is_named(tmp_path):
    with lmdb.open(str(tmp_path / "a.lmdb")):
        (tmp_path / "a.lmdb/meta_info.txt").write_text("ghost.png (4,4,3) 1\n")
    with pytest.raises(ImageError, match=r"a\.lmdb/ghost: listed in meta_info\.txt, absent"):
        open_source(str(tmp_path / "a.lmdb"), "dataroot_gt").read(0)


def test_a_meta_info_file_chooses_and_orders(folder, tmp_path):
    listing = tmp_path / "meta.txt"
    listing.write_text("deep/er/c.tif (20,30,3)\n\na.jpg (20,30,3) 1 more\n")
    source = select(open_source(str(folder), "dataroot_gt"), str(listing), "meta_info_file")
    assert list(source.names) == ["deep/er/c", "a"]


def test_a_meta_info_file_chooses_from_an_lmdb(database, tmp_path):
    (tmp_path / "meta.txt").write_text("im2.png (120,150,3)\n")
    source = select(open_source(str(database), "dataroot_gt"), str(tmp_path / "meta.txt"), "meta_info_file")
    assert list(source.names) == ["im2"]
    assert source.size(0) == (120, 150)


def test_images_that_a_meta_info_file_invents_are_named(folder, tmp_path):
    (tmp_path / "meta.txt").write_text("a.jpg\nx.png\ny.png\n")
    with pytest.raises(ValueError, match=r"meta_info_file: .* lists images that .* lacks: x, y$"):
        select(open_source(str(folder), "dataroot_gt"), str(tmp_path / "meta.txt"), "meta_info_file")


@pytest.mark.parametrize("content", [None, "", "\n \n"])
def test_a_meta_info_file_that_says_nothing_is_an_error(folder, tmp_path, content):
    if content is not None:
        (tmp_path / "meta.txt").write_text(content)
    with pytest.raises(ValueError, match=r"meta_info_file: .*meta\.txt (cannot be read|lists no image)"):
        select(open_source(str(folder), "dataroot_gt"), str(tmp_path / "meta.txt"), "meta_info_file")


def paired(tmp_path: Path, gt: list[str], lq: list[str], template: str = "{}", **options: bool) -> list[str]:
    left = open_source(touch(tmp_path / "GT", *gt), "dataroot_gt")
    right = open_source(touch(tmp_path / "LQ", *lq), "dataroot_lq")
    return list(match(left, right, template, "dataroot_lq", **options).names)


def test_images_are_paired_by_name_whatever_their_suffix(tmp_path):
    assert paired(tmp_path, ["b.png", "a.png"], ["a.jpg", "b.png"]) == ["a", "b"]


def test_a_template_names_the_partner(tmp_path):
    names = paired(tmp_path, ["0001.png", "0002.png"], ["0001x4.png", "0002x4.png"], "{}x4")
    assert names == ["0001x4", "0002x4"]


def test_partners_lie_in_folders_of_the_same_name(tmp_path):
    for name in ("GT/one/a.png", "GT/two/a.png", "LQ/one/ax2.png", "LQ/two/ax2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    gt, lq = open_source(str(tmp_path / "GT"), "gt"), open_source(str(tmp_path / "LQ"), "lq")
    assert list(match(gt, lq, "{}x2", "lq").names) == ["one/ax2", "two/ax2"]


def test_the_error_lists_the_first_five_images_without_partner(tmp_path):
    gt = [f"{index}.png" for index in range(8)]
    with pytest.raises(
        ValueError, match=r"dataroot_lq: .*LQ lacks partners of .*GT: 1, 2, 3, 4, 5 and 2 more"
    ):
        paired(tmp_path, gt, ["0.png"])


def test_surplus_low_quality_images_are_an_error_too(tmp_path):
    with pytest.raises(
        ValueError, match=r"LQ holds images without partner in .*GT: b \(filename_tmpl is '{}'\)"
    ):
        paired(tmp_path, ["a.png"], ["a.png", "b.png"])


def test_surplus_images_may_be_allowed(tmp_path):
    assert paired(tmp_path, ["b.png"], ["a.png", "b.png"], allow_extra=True) == ["b"]


def test_lmdbs_are_paired_by_equal_keys_whatever_the_template(database, tmp_path):
    shutil.copytree(database, tmp_path / "lq.lmdb")
    gt, lq = open_source(str(database), "gt"), open_source(str(tmp_path / "lq.lmdb"), "lq")
    assert list(match(gt, lq, "{}x4", "lq").names) == list(gt.names)
    with pytest.raises(ValueError, match=r"lq: .* holds images without partner in [^()]*$"):
        match(gt.take([0]), lq, "{}x4", "lq")


def test_a_grey_source_reads_one_channel_of_the_same_type(tmp_path, texture):
    image = texture(6, 8, bits=16)[..., 0]
    write_image(tmp_path / "a.png", image)
    source = GreySource(open_source(str(tmp_path), "dataroot_gt"), grey)
    np.testing.assert_array_equal(source.read(0), image[..., None])
    assert (len(source), source.size(0), list(source.names)) == (1, (6, 8), ["a"])
