"""Stores: the same pixels as their files, read tile by tile; damage is found before it is trained on."""

import os
import pickle
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
import torch
import yaml
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from hypothesis import given
from hypothesis import strategies as st
from sections import GaussianDenoisingTrain, PairedKeys, PairedTrain

from basicsr_ext.data import build_eval_dataset, build_train_dataset, exclusion, packing
from basicsr_ext.data.databases import close_environments, environment
from basicsr_ext.data.datasets import check_sizes
from basicsr_ext.data.exclusion import exclusive
from basicsr_ext.data.images import ImageError, write_image
from basicsr_ext.data.loader import DevicePrefetcher, build_train_loader
from basicsr_ext.data.opening import match, open_source, select
from basicsr_ext.data.packing import PackingError, pack, verify
from basicsr_ext.data.resize import downscale
from basicsr_ext.data.sampling import ProgressiveBatchSampler, SampleRequest, Stage
from basicsr_ext.data.sources import FileSource, LazyImage
from basicsr_ext.data.store import (
    LISTING,
    Header,
    Layout,
    decode_tile,
    encode_tile,
    header_key,
    shard_path,
    tile_key,
)

LAYOUTS = [Layout(), Layout(3, 16), Layout(2, 20, "png"), Layout(1, 32, "webp")]


@pytest.fixture
def folder(tmp_path, texture) -> Path:
    """8 and 16 bits, grey and colour, smaller and larger than a tile, in folders."""
    write_image(tmp_path / "set/a.png", texture(40, 60))
    write_image(tmp_path / "set/b c.png", texture(150, 290, 1)[..., :1])
    write_image(tmp_path / "set/deep/d.tif", texture(64, 48, 2, bits=16))
    write_image(tmp_path / "set/deep/é.png", texture(33, 31, 3, bits=16)[..., 0])
    write_image(tmp_path / "set/f.bmp", texture(1, 200, 4))
    return tmp_path / "set"


def packed(folder: Path, layout: Layout = LAYOUTS[0]):
    target = f"{folder}.store"
    pack(open_source(str(folder), "folder"), target, layout, 2)
    return open_source(target, "dataroot_gt")


def flip_a_byte(store: Path, value: bytes) -> None:
    """Damage the only place of a store that holds ``value``."""
    close_environments()
    (shard,) = store.glob("*.mdb")
    data = shard.read_bytes()
    assert data.count(value) == 1
    shard.write_bytes(data.replace(value, bytes([value[0] ^ 1]) + value[1:]))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_store_gives_the_very_images_of_its_folder(folder, layout):
    files, store = open_source(str(folder), "dataroot_gt"), packed(folder, layout)
    assert list(store.names) == list(files.names)
    for index in range(len(files)):
        expected, found = files.read(index), store.read(index)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert store.size(index) == files.size(index)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_crops_at_every_border_and_across_tiles_equal_those_of_the_image(folder, layout):
    store = packed(folder, layout)
    for index in range(len(store)):
        image = store.read(index)
        height, width = image.shape[:2]
        tops, lefts = {0, 1, height // 2, height - 1}, {0, 7, width // 2, width - 1}
        for top in (top for top in tops if top < height):
            for left in (left for left in lefts if left < width):
                for rows, columns in {(1, 1), (height - top, width - left), (17, 21)}:
                    if top + rows <= height and left + columns <= width:
                        crop = store.read_crop(index, top, left, rows, columns)
                        expected = image[top : top + rows, left : left + columns]
                        np.testing.assert_array_equal(crop, expected)


@pytest.mark.parametrize("place", [(-1, 0, 5, 5), (0, -1, 5, 5), (36, 0, 5, 5), (0, 56, 5, 5), (0, 0, 0, 5)])
def test_crops_that_leave_the_image_are_errors_in_every_source(folder, place):
    for source in (open_source(str(folder), "dataroot_gt"), packed(folder)):
        with pytest.raises(ValueError, match=r"crop at .* does not lie in an image of 40x60 pixels"):
            source.read_crop(0, *place)


def test_a_crop_may_be_written_to_and_outlives_the_database(folder):
    crop = packed(folder).read_crop(0, 3, 4, 5, 6)
    before = crop.copy()
    close_environments()
    np.testing.assert_array_equal(crop, before)
    crop[:] = 0


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    st.sampled_from(["uint8", "uint16"]),
    st.sampled_from(["none", "png", "webp"]),
    st.integers(0, 2**32),
)
def test_any_tile_survives_any_compression(shape, kind, compression, seed):
    layout, kind = Layout(compression=compression), np.dtype(kind)
    tile = np.random.default_rng(seed).integers(0, np.iinfo(kind).max + 1, shape).astype(kind)
    found = decode_tile(encode_tile(tile, layout), shape, kind, layout)
    assert found.dtype == kind
    np.testing.assert_array_equal(found, tile)


def test_a_lazy_image_reads_no_more_than_the_tiles_under_a_window(folder):
    store = packed(folder, Layout(1, 16))
    expected = store.read(0)[16:32, 20:48]
    close_environments()
    # Tiles 5 and 6 of 12 lie under that window.
    with lmdb.open(f"{store.folder}/00.mdb", subdir=False) as shard, shard.begin(write=True) as transaction:
        for number in set(range(12)) - {5, 6}:
            assert transaction.delete(tile_key(b"a", number))
    image = LazyImage(store, 0, 16)
    assert image.shape == (32, 48)
    np.testing.assert_array_equal(image[16:32, 20:48], expected)
    with pytest.raises(ImageError, match=r"set\.store/a: tile 1 is missing in the store"):
        image[15:32, 20:48]


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("stored", [True, False])
def test_training_samples_from_stores_equal_those_from_files(tmp_path, texture, scale, stored):
    for index in range(3):
        gt = texture(170 + index, 190, index)
        write_image(tmp_path / f"GT/{index}.png", gt)
        write_image(tmp_path / f"LQ/{index}.png", downscale(gt, scale))
    for side in ("GT", "LQ"):
        packed(tmp_path / side, Layout(2, 16))

    def samples(ending):
        lq = str(tmp_path / f"LQ{ending}") if stored else None
        option = PairedTrain(
            type="PairedImageDataset", dataroot_gt=str(tmp_path / f"GT{ending}"), dataroot_lq=lq
        )
        dataset = build_train_dataset(option, scale, 5)
        assert check_sizes(dataset, 32) == []
        return [dataset[SampleRequest(k % 3, 32 if k % 5 else 168, k)] for k in range(40)]

    for one, other in zip(samples(""), samples(".store"), strict=True):
        assert torch.equal(one["gt"], other["gt"])
        assert torch.equal(one["lq"], other["lq"])


def test_grey_denoising_and_evaluation_read_stores_too(pairs):
    packed(pairs / "GT")
    found = []
    for ending in ("", ".store"):
        root = str(pairs / f"GT{ending}")
        noise = GaussianDenoisingTrain(
            type="Dataset_GaussianDenoising", dataroot_gt=root, sigma_type="constant", sigma_range=15, in_ch=1
        )
        sample = build_train_dataset(noise, 1, 0)[SampleRequest(2, 32, 7)]
        item = build_eval_dataset(PairedKeys(type="PairedImageDataset", dataroot_gt=root), 4)[3]
        found.append((sample["gt"], sample["lq"], item["gt"], item["lq"]))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert found[0][0].shape == (1, 32, 32)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_and_ranks_share_a_store(pairs, workers):
    for side in ("GT", "LQ"):
        packed(pairs / side, Layout(2, 16))
    option = PairedTrain(
        type="PairedImageDataset",
        dataroot_gt=str(pairs / "GT.store"),
        dataroot_lq=str(pairs / "LQ.store"),
    )
    dataset = build_train_dataset(option, 4, 0)

    def batches(rank, world, batch):
        sampler = ProgressiveBatchSampler([Stage(12, 24, batch)], len(dataset), 0, rank, world)
        return list(DevicePrefetcher(build_train_loader(dataset, sampler, workers), "cpu"))

    # This process has the database open when its workers are forked.
    dataset[SampleRequest(0, 24, 0)]
    ranks = zip(batches(0, 2, 2), batches(1, 2, 2), strict=True)
    for (one, two), both in zip(ranks, batches(0, 1, 4), strict=True):
        assert torch.equal(torch.cat([one["gt"], two["gt"]]), both["gt"])
        assert torch.equal(torch.cat([one["lq"], two["lq"]]), both["lq"])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_in_use_can_be_read_in_another_process(folder, method):
    store = packed(folder)
    expected = store.read(2)
    with get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(store.read, [2]), expected)
    np.testing.assert_array_equal(store.read(2), expected)


def test_a_meta_info_file_chooses_from_a_store_and_templates_find_partners(folder, tmp_path):
    store = packed(folder)
    (tmp_path / "meta.txt").write_text("f.bmp\ndeep/d.tif\n")
    chosen = select(store, str(tmp_path / "meta.txt"), "meta_info_file")
    assert list(chosen.names) == ["f", "deep/d"]
    np.testing.assert_array_equal(chosen.read(1), store.read(2))
    partners = FileSource("elsewhere", ("ax2.png", "fx2.png"))
    assert list(match(chosen.take([0]), partners, "{}x2", "lq", allow_extra=True).names) == ["fx2"]
    assert list(match(FileSource("elsewhere", ("f.png",)), chosen, "{}", "lq", allow_extra=True).names) == [
        "f"
    ]


def test_stores_survive_pickling_with_all_their_names(folder):
    store = packed(folder)
    again = pickle.loads(pickle.dumps(store))
    assert (list(again.names), len(again)) == (list(store.names), 5)
    assert again.path(3) == f"{folder}.store/deep/é"


def test_basicsrs_lmdbs_can_be_packed(tmp_path, texture):
    write_image(tmp_path / "files/im.png", texture(120, 150))
    make_lmdb_from_imgs(str(tmp_path / "files"), str(tmp_path / "gt.lmdb"), ["im.png"], ["im"])
    pack(open_source(str(tmp_path / "gt.lmdb"), "folder"), str(tmp_path / "gt.store"), Layout())
    np.testing.assert_array_equal(open_source(str(tmp_path / "gt.store"), "x").read(0), texture(120, 150))


def test_shards_share_the_images_and_all_of_them_are_needed(tmp_path, texture):
    for index in range(24):
        write_image(tmp_path / f"set/{index}.png", texture(20, 20, index))
    store = packed(tmp_path / "set", Layout(4))
    shards = sorted(Path(store.folder).glob("*.mdb"))
    assert [shard.name for shard in shards] == ["00.mdb", "01.mdb", "02.mdb", "03.mdb"]
    assert all(
        store.read(index)[0, 0, 0] == texture(20, 20, int(store.names[index]))[0, 0, 0] for index in range(24)
    )
    close_environments()
    shards[2].unlink()
    with pytest.raises(ValueError, match=r"dataroot_gt: .*02\.mdb is missing or damaged"):
        open_source(store.folder, "dataroot_gt")


def test_a_grey_file_takes_a_third_of_a_colour_files_space(tmp_path, texture):
    write_image(tmp_path / "grey/a.png", texture(400, 400)[..., 0])
    write_image(tmp_path / "rgb/a.png", texture(400, 400))
    sizes = [os.path.getsize(f"{packed(tmp_path / name).folder}/00.mdb") for name in ("grey", "rgb")]
    assert sizes[0] < 0.4 * sizes[1]


def test_a_smooth_picture_is_smaller_when_compressed(tmp_path):
    ramp = cv2.resize(np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20, (400, 400))
    write_image(tmp_path / "a/a.png", ramp)
    write_image(tmp_path / "b/a.png", ramp)
    raw, small = packed(tmp_path / "a"), packed(tmp_path / "b", Layout(compression="png"))
    assert os.path.getsize(f"{small.folder}/00.mdb") < 0.5 * os.path.getsize(f"{raw.folder}/00.mdb")


# --- damage ----------------------------------------------------------------------------------------


def test_a_folder_that_is_no_store_is_an_error(tmp_path):
    (tmp_path / "x.store").mkdir()
    with pytest.raises(ValueError, match=r"dataroot_gt: .*x\.store is not a store: it has no meta\.yml"):
        open_source(str(tmp_path / "x.store"), "dataroot_gt")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("meta.yml", "format: 1\nshards: [", r"meta\.yml cannot be understood"),
        ("meta.yml", "format: 1\nsides: 3\n", r"meta\.yml cannot be understood"),
        ("meta.yml", "format: 99\n", "is a store of format 99; this version reads 1"),
        ("images.txt", "# 1 image\na (4,x,3) uint8 00\n", r"images\.txt:2: found 'a \(4,x,3\) uint8 00'"),
        (
            "images.txt",
            f"# 1 image\na (4,{2**40},3) uint8 00\n",
            r"images\.txt:2: found .* expected an image",
        ),
        ("images.txt", "# 1 image\na (4,5,3) float64 00\n", r"images\.txt:2: found .* expected an image"),
        ("images.txt", "# 1 image\na (40,60,3) uint8 00\n", "holds 16 values, images.txt tells of 2"),
        ("00.mdb", "not a database" * 1000, r"00\.mdb is missing or damaged"),
    ],
)
def test_broken_files_are_named(folder, file, content, message):
    store = packed(folder)
    close_environments()
    Path(store.folder, file).write_text(content)
    with pytest.raises(ValueError, match=f"dataroot_gt: .*{message}"):
        open_source(store.folder, "dataroot_gt")


def test_a_shard_that_is_cut_off_is_an_error_and_never_a_crash(folder):
    store = packed(folder)
    close_environments()
    shard = Path(store.folder, "00.mdb")
    os.truncate(shard, shard.stat().st_size - 4096)
    with pytest.raises(ValueError, match=r"00\.mdb is cut off; copy it again"):
        open_source(store.folder, "dataroot_gt")
    assert pack(open_source(str(folder), "folder"), store.folder, Layout()).written == 5
    assert verify(store.folder) == []


def test_verification_finds_a_single_wrong_byte_and_packing_repairs_it(folder, texture):
    store = packed(folder)
    assert verify(store.folder) == []
    flip_a_byte(Path(store.folder), texture(40, 60).tobytes())
    assert verify(store.folder, 2) == ["a"]
    done = pack(open_source(str(folder), "folder"), store.folder, Layout())
    assert (done.kept, done.written) == (4, 1)
    assert verify(store.folder) == []
    np.testing.assert_array_equal(open_source(store.folder, "x").read(0), texture(40, 60))


def pretend(store, height: int, width: int) -> None:
    """Give the image ``a`` of a store another size, in its header and in the listing."""
    close_environments()
    shard = lmdb.open(shard_path(store.folder, 0), subdir=False, lock=False)
    with shard, shard.begin(write=True) as transaction:
        header = Header.from_bytes(transaction.get(header_key(b"a")))
        false = header._replace(height=height, width=width)
        transaction.put(header_key(b"a"), false.to_bytes())
    listing = Path(store.folder, "images.txt")
    listing.write_text(listing.read_text().replace("(40,60,3)", f"({height},{width},3)"))


def test_a_size_that_is_not_the_pixels_is_damage_too(folder):
    store = packed(folder)
    pretend(store, 60, 40)
    assert verify(store.folder) == ["a"]
    pack(open_source(str(folder), "folder"), store.folder, Layout())
    assert open_source(store.folder, "x").size(0) == (40, 60)


def test_a_size_that_no_file_could_hold_is_damage_at_once(folder, monkeypatch):
    store = packed(folder)
    pretend(store, 2**31 - 1, 2**31 - 1)
    looked_for = []
    monkeypatch.setattr(packing, "tile_key", lambda *key: looked_for.append(key) or tile_key(*key))
    layout = store.layout
    assert packing._checked_header(environment(shard_path(store.folder, 0)), b"a", layout) is None
    assert not looked_for
    with pytest.raises(ValueError, match=r"is damaged: it holds 16 values, images.txt tells of 22552"):
        open_source(store.folder, "x")


def test_a_store_of_format_1_is_read_verified_and_continued_as_it_is(folder, texture):
    store = packed(folder, Layout(format=1))
    assert yaml.safe_load(Path(store.folder, "meta.yml").read_text())["format"] == 1
    pretend(store, 60, 40)
    assert verify(store.folder) == []  # the size is not part of its checksums
    pretend(store, 40, 60)
    write_image(folder / "new.png", texture(20, 20))
    done = pack(open_source(str(folder), "folder"), store.folder, Layout())
    assert (done.kept, done.written) == (5, 1)
    assert open_source(store.folder, "x").layout.format == 1
    assert verify(store.folder) == []


def test_a_damaged_compressed_tile_is_named(folder):
    store = packed(folder, Layout(compression="png"))
    tile = encode_tile(store.read(0), store.layout)
    flip_a_byte(Path(store.folder), tile)
    with pytest.raises(ImageError, match=r"set\.store/a: tile 0 is damaged"):
        store.read(0)


def test_a_listing_that_does_not_belong_to_the_pixels_is_noticed_when_they_are_read(folder):
    store = packed(folder)
    listing = Path(store.folder, "images.txt")
    listing.write_text(listing.read_text().replace("(40,60,3)", "(40,61,3)"))
    with pytest.raises(ImageError, match=r"set\.store/a: tile 0 is damaged"):
        open_source(store.folder, "x").read_crop(0, 0, 0, 4, 4)


# --- packing ---------------------------------------------------------------------------------------


def test_packing_again_keeps_everything_and_packs_what_is_new_or_changed(folder, texture):
    store = packed(folder)
    source = open_source(str(folder), "folder")
    done = pack(source, store.folder, Layout())
    assert (done.kept, done.written) == (5, 0)
    write_image(folder / "a.png", texture(300, 20, 9))
    write_image(folder / "new.png", texture(20, 20, 10))
    (folder / "f.bmp").unlink()
    done = pack(open_source(str(folder), "folder"), store.folder, Layout())
    assert (done.kept, done.written) == (3, 2)
    again = open_source(store.folder, "x")
    assert list(again.names) == ["a", "b c", "deep/d", "deep/é", "new"]
    np.testing.assert_array_equal(again.read(0), texture(300, 20, 9))
    assert verify(store.folder) == []


def test_packing_removes_what_a_killed_one_left_half_written(folder):
    leftover = Path(f"{folder}.store/.images.txt.0123.tmp")
    leftover.parent.mkdir()
    leftover.write_text("half")
    packed(folder)
    assert not leftover.exists()


def test_who_waits_for_another_process_that_packs_says_so_again_and_again(folder, caplog, monkeypatch):
    monkeypatch.setattr(exclusion, "_ASKED_EVERY", 0.01)
    monkeypatch.setattr(exclusion, "_TOLD_EVERY", 0.0)
    monkeypatch.setattr(packing.LOG, "propagate", True)  # to caplog
    Path(f"{folder}.store").mkdir()
    other = ThreadPoolExecutor(1)
    with caplog.at_level("INFO", packing.LOG.name):
        with exclusive(folder.with_name(f"{folder.name}.store") / ".lock", "pack it"):
            waiting = other.submit(pack, open_source(str(folder), "folder"), f"{folder}.store", Layout())
            while len(caplog.messages) < 3 and not waiting.done():
                time.sleep(0.01)
        assert waiting.result(60).written == 5
    assert set(caplog.messages) == {f"Waiting for another process to pack {folder}.store (0 min)"}


def test_a_complete_store_may_be_left_as_it_is(folder, texture):
    store = packed(folder)
    write_image(folder / "a.png", texture(300, 20, 9))
    done = pack(open_source(str(folder), "folder"), store.folder, Layout(), again=False)
    assert (done.kept, done.written) == (5, 0)
    assert open_source(store.folder, "x").size(0) == (40, 60)


def test_bad_images_are_all_named_and_the_others_kept_for_the_next_time(folder):
    good = (folder / "a.png").read_bytes()
    for name in ("a.png", "f.bmp"):
        (folder / name).write_bytes(b"bad")
    source, target = open_source(str(folder), "folder"), f"{folder}.store"
    with pytest.raises(
        PackingError, match=r"set/a\.png: cannot be decoded(.|\n)*set/f\.bmp: cannot be decoded"
    ):
        pack(source, target, Layout())
    with pytest.raises(ValueError, match=r"dataroot_gt: .*set\.store is not complete"):
        open_source(target, "dataroot_gt")
    (folder / "a.png").write_bytes(good)
    (folder / "f.bmp").unlink()
    done = pack(open_source(str(folder), "folder"), target, Layout())
    assert (done.kept, done.written) == (3, 1)


def test_a_store_keeps_its_layout(folder):
    store = packed(folder)
    with pytest.raises(PackingError, match="1 shards, tiles of 143 pixels, compression none, not 2 shards"):
        pack(open_source(str(folder), "folder"), store.folder, Layout(2))


def test_the_map_grows_with_the_images(tmp_path):
    for index in range(3):
        picture = np.full((1800, 1500, 3), index, np.uint8)
        picture[0, 0] = 0, 1, 2
        write_image(tmp_path / f"set/{index}.bmp", picture)
    store = packed(tmp_path / "set")
    assert os.path.getsize(f"{store.folder}/00.mdb") > 2**24
    assert [store.read_crop(index, 1799, 1499, 1, 1)[0, 0, 0] for index in range(3)] == [0, 1, 2]


def test_names_that_lmdb_cannot_hold_are_an_error_before_anything_is_packed(tmp_path, texture):
    parts = ["x" * 200, "y" * 200, "z" * 200 + ".png"]
    write_image(tmp_path.joinpath("set", *parts), texture(4, 4))
    with pytest.raises(PackingError, match=r"names that are too long, or have line breaks: x"):
        packed(tmp_path / "set")
    assert not (tmp_path / "set.store").exists()


def test_a_store_that_cannot_be_written_is_an_error(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PackingError, match=r"file/x\.store: cannot be written"):
        pack(open_source(str(folder), "folder"), str(tmp_path / "file/x.store"), Layout())


def test_the_names_of_the_shards_are_on_disk_before_the_listing_makes_the_store_complete(folder, monkeypatch):
    on_disk, sync = [], os.fsync

    def note(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            on_disk.append(set(os.listdir(descriptor)))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    packed(folder, Layout(2))
    assert any({"00.mdb", "01.mdb"} <= names and LISTING not in names for names in on_disk)
