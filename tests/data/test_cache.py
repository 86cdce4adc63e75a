"""``cache: disk``; stores that processes make at once, or are killed making."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lmdb
import numpy as np
import pytest
import torch
from helpers import tiny_options
from sections import DualPixelTrain, PairedKeys, PairedTrain

from basicsr_ext.config import OptionError, load_options
from basicsr_ext.data import build_eval_dataset, build_train_dataset, cache
from basicsr_ext.data.images import write_image
from basicsr_ext.data.loader import DevicePrefetcher, build_train_loader
from basicsr_ext.data.opening import open_source
from basicsr_ext.data.packing import pack, verify
from basicsr_ext.data.sampling import ProgressiveBatchSampler, SampleRequest, Stage
from basicsr_ext.data.store import Layout

ROOT = Path(__file__).resolve().parents[2]

# What every process prints: how many images it has decoded itself, the sum of a crop, its store.
CACHING = """
import sys
from basicsr_ext.data import cache, opening, sources
decoded = []
read = sources.FileSource.read
sources.FileSource.read = lambda self, index: (decoded.append(index), read(self, index))[1]
source = cache.cached(opening.open_source(sys.argv[1], "folder"), "disk")
print(len(decoded), source.read_crop(3, 1, 2, 8, 9).sum(), source.store.folder)
"""

SLOW_PACKING = """
import sys, time
from basicsr_ext.data import opening, packing, sources, store
class Slow(sources.FileSource):
    def read(self, index):
        time.sleep(0.05)
        return super().read(index)
files = opening.open_source(sys.argv[1], "folder")
packing.pack(Slow(files.folder, files.files), sys.argv[2], store.Layout())
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def committed(shard: Path) -> int:
    """How many values of a shard would survive a kill: bytes in the file say nothing of that."""
    try:
        with lmdb.open(str(shard), subdir=False, readonly=True, lock=False) as database:
            return database.stat()["entries"]
    except lmdb.Error:
        return 0


def option(pairs: Path, **keys) -> PairedTrain:
    return PairedTrain(
        type="PairedImageDataset", dataroot_gt=str(pairs / "GT"), dataroot_lq=str(pairs / "LQ"), **keys
    )


def stores(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.store"))


def batches(dataset, workers):
    sampler = ProgressiveBatchSampler([Stage(8, 16, 4), Stage(8, 32, 2)], len(dataset), 7)
    return list(DevicePrefetcher(build_train_loader(dataset, sampler, workers), "cpu"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_changes_no_batch_and_no_path(pairs, workers):
    plain, with_cache = (build_train_dataset(option(pairs, cache=mode), 4, 7) for mode in ("none", "disk"))
    for one, other in zip(batches(plain, 0), batches(with_cache, workers), strict=True):
        assert torch.equal(one["gt"], other["gt"])
        assert torch.equal(one["lq"], other["lq"])
        assert (one["gt_path"], one["lq_path"], one["k"]) == (other["gt_path"], other["lq_path"], other["k"])


def test_images_are_decoded_before_training_and_never_again(pairs):
    dataset = build_train_dataset(option(pairs, cache="disk"), 4, 7)
    expected = batches(dataset, 0)
    shutil.rmtree(pairs / "GT")
    shutil.rmtree(pairs / "LQ")
    assert all(torch.equal(a["gt"], b["gt"]) for a, b in zip(batches(dataset, 2), expected, strict=True))


def test_evaluation_and_views_are_cached_too(pairs):
    def made(mode):
        keys = PairedKeys(
            type="PairedImageDataset",
            dataroot_gt=str(pairs / "GT"),
            dataroot_lq=str(pairs / "LQ"),
            cache=mode,
        )
        views = DualPixelTrain(
            type="Dataset_DefocusDeblur_DualPixel_16bit",
            dataroot_gt=str(pairs / "GT"),
            dataroot_lqL=str(pairs / "GT"),
            dataroot_lqR=str(pairs / "GT"),
            cache=mode,
        )
        item = build_eval_dataset(keys, 4)[2]
        sample = build_train_dataset(views, 1, 0)[SampleRequest(1, 16, 2)]
        return item["gt"], item["lq"], sample["lq"]

    assert all(torch.equal(one, other) for one, other in zip(made("none"), made("disk"), strict=True))
    # One for the ground truth and both views, one for the low-quality images.
    assert len(stores(pairs)) == 2


def test_an_lmdb_is_cached_and_a_store_is_left_as_it_is(pairs):
    files = open_source(str(pairs / "GT"), "dataroot_gt")
    pack(files, str(pairs / "GT.store"), Layout())
    store = open_source(str(pairs / "GT.store"), "dataroot_gt")
    assert cache.cached(store, "disk") is store
    assert cache.cached(files, "none") is files


def test_a_meta_info_file_limits_what_is_cached(pairs):
    (pairs / "meta.txt").write_text("5.png\n1.png\n")
    dataset = build_train_dataset(option(pairs, cache="disk", meta_info_file=str(pairs / "meta.txt")), 4, 7)
    assert dataset[SampleRequest(0, 16, 0)]["lq_path"] == str(pairs / "LQ/5.png")
    listings = [(pairs / name / "images.txt").read_text().splitlines()[1:] for name in stores(pairs)]
    assert [len(listing) for listing in listings] == [2, 2]


def test_the_former_cache_in_memory_is_an_error_that_names_what_serves_instead(pairs):
    options = tiny_options(pairs / "run")
    options["datasets"]["train"]["cache"] = "ram"
    message = r"datasets\.train\.cache: found 'ram' .* 'none' or 'disk', .* \(scripts/make_store\.py packs"
    with pytest.raises(OptionError, match=message):
        load_options(options)


def test_a_changed_folder_gets_another_store_and_the_old_one_stays(pairs, texture):
    build_train_dataset(option(pairs, cache="disk"), 4, 7)
    before = stores(pairs)
    write_image(pairs / "GT/2.png", texture(52, 52, 99))
    dataset = build_train_dataset(option(pairs, cache="disk", use_hflip=False, use_rot=False), 4, 7)
    gt = dataset[SampleRequest(2, 52, 0)]["gt"].numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(np.rint(gt * 255), texture(52, 52, 99))
    assert set(before) < set(stores(pairs))
    assert len(stores(pairs)) == 3


def test_an_image_that_cannot_be_read_is_named(pairs):
    (pairs / "GT/3.png").write_bytes(b"bad")
    with pytest.raises(ValueError, match=r"GT/3\.png: cannot be decoded"):
        build_train_dataset(option(pairs, cache="disk"), 4, 7)


def test_too_little_space_is_an_error_before_anything_is_packed(pairs, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(
        ValueError, match=r"cache: disk: 7 images of .*GT take 0\.0 GB or more, .* has 0\.0 GB"
    ):
        build_train_dataset(option(pairs, cache="disk"), 4, 7)
    assert stores(pairs) == []


def test_of_processes_that_start_together_one_decodes_and_all_read(pairs):
    processes = [start(CACHING, pairs / "GT") for _ in range(3)]
    printed = [process.communicate(timeout=60)[0].split() for process in processes]
    assert sum(int(decoded) for decoded, _, _ in printed) == 7
    assert len({(total, store) for _, total, store in printed}) == 1
    assert len(stores(pairs)) == 1


def test_packing_goes_on_where_it_was_killed(tmp_path, texture):
    for index in range(60):
        write_image(tmp_path / f"set/{index:02d}.png", texture(30, 30, index))
    target, shard = tmp_path / "set.store", tmp_path / "set.store/00.mdb"
    process = start(SLOW_PACKING, tmp_path / "set", target)
    deadline = time.monotonic() + 60
    while committed(shard) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with pytest.raises(ValueError, match=r"is not complete; start scripts/make_store.py again"):
        open_source(str(target), "dataroot_gt")
    source = open_source(str(tmp_path / "set"), "folder")
    # Whoever is killed lets go of the lock.
    done = pack(source, str(target), Layout())
    assert 0 < done.kept < 60
    assert done.kept + done.written == 60
    assert verify(str(target)) == []
    store = open_source(str(target), "dataroot_gt")
    for index in range(60):
        np.testing.assert_array_equal(store.read(index), source.read(index))
