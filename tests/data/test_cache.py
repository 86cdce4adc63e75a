"""``cache: ram`` and ``cache: disk``; stores that processes make at once, or are killed making."""

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

from basicsr_ext.config.schema import DualPixelTrain, PairedKeys, PairedTrain
from basicsr_ext.data import build_eval_dataset, build_train_dataset, cache
from basicsr_ext.data.images import write_image
from basicsr_ext.data.loader import build_train_loader
from basicsr_ext.data.packing import pack, verify
from basicsr_ext.data.sampling import ProgressiveBatchSampler, SampleRequest, Stage
from basicsr_ext.data.sources import open_source
from basicsr_ext.data.store import Layout

ROOT = Path(__file__).resolve().parents[2]
IN_MEMORY = Path(f"/dev/shm/basicsr_ext-{os.getuid()}")

needs_shared_memory = pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs /dev/shm")

# What every process prints: how many images it has decoded itself, the sum of a crop, its store.
CACHING = """
import sys
from basicsr_ext.data import cache, sources
decoded = []
read = sources.FileSource.read
sources.FileSource.read = lambda self, index: (decoded.append(index), read(self, index))[1]
source = cache.cached(sources.open_source(sys.argv[1], "folder"), sys.argv[2])
print(len(decoded), source.read_crop(3, 1, 2, 8, 9).sum(), source.store.folder, flush=True)
sys.stdin.readline()
"""

SLOW_PACKING = """
import sys, time
from basicsr_ext.data import packing, sources, store
class Slow(sources.FileSource):
    def read(self, index):
        time.sleep(0.05)
        return super().read(index)
files = sources.open_source(sys.argv[1], "folder")
packing.pack(Slow(files.folder, files.files), sys.argv[2], store.Layout())
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


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
    return list(build_train_loader(dataset, sampler, workers))


@pytest.mark.parametrize("mode", ["ram", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_cache_changes_no_batch_and_no_path(pairs, mode, workers):
    plain, with_cache = (build_train_dataset(option(pairs, cache=kind), 4, 7) for kind in ("none", mode))
    for one, other in zip(batches(plain, 0), batches(with_cache, workers), strict=True):
        assert torch.equal(one["gt"], other["gt"])
        assert torch.equal(one["lq"], other["lq"])
        assert (one["gt_path"], one["lq_path"], one["k"]) == (other["gt_path"], other["lq_path"], other["k"])


@pytest.mark.parametrize("mode", ["ram", "disk"])
def test_images_are_decoded_before_training_and_never_again(pairs, mode):
    dataset = build_train_dataset(option(pairs, cache=mode), 4, 7)
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


def test_a_changed_folder_gets_another_store_and_the_old_one_stays(pairs, texture):
    build_train_dataset(option(pairs, cache="disk"), 4, 7)
    before = stores(pairs)
    write_image(pairs / "GT/2.png", texture(52, 52, 99))
    dataset = build_train_dataset(option(pairs, cache="disk", use_hflip=False, use_rot=False), 4, 7)
    gt = dataset[SampleRequest(2, 52, 0)]["gt"].numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(np.rint(gt * 255), texture(52, 52, 99))
    assert set(before) < set(stores(pairs))
    assert len(stores(pairs)) == 3


def test_folders_of_equal_files_are_told_apart_in_memory(tmp_path, texture):
    for seed, name in enumerate(("GT", "LQ")):
        write_image(tmp_path / name / "a.bmp", texture(20, 20, seed))
        os.utime(tmp_path / name / "a.bmp", (1, 1))
    sample = build_train_dataset(option(tmp_path, cache="ram"), 1, 0)[SampleRequest(0, 16, 0)]
    assert not torch.equal(sample["gt"], sample["lq"])


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


@pytest.mark.parametrize("mode", ["disk", pytest.param("ram", marks=needs_shared_memory)])
def test_of_processes_that_start_together_one_decodes_and_all_read(pairs, mode):
    processes = [start(CACHING, pairs / "GT", mode) for _ in range(3)]
    printed = [process.stdout.readline().split() for process in processes]
    assert sum(int(decoded) for decoded, _, _ in printed) == 7
    assert len({(total, store) for _, total, store in printed}) == 1
    for process in processes:
        finish(process)
    assert len(stores(pairs)) == (mode == "disk")


@needs_shared_memory
def test_memory_is_free_again_when_the_last_process_has_left(pairs):
    first, second = start(CACHING, pairs / "GT", "ram"), start(CACHING, pairs / "GT", "ram")
    store = Path(first.stdout.readline().split()[2])
    assert store.parent == IN_MEMORY
    assert second.stdout.readline()
    finish(first)
    third = start(CACHING, pairs / "GT", "ram")
    assert third.stdout.readline().startswith("0 ")
    finish(second)
    assert store.exists()
    finish(third)
    assert not store.exists()
    assert not store.with_suffix(".users").exists()


@needs_shared_memory
def test_what_a_killed_process_leaves_in_memory_the_next_one_removes(pairs):
    killed = start(CACHING, pairs / "GT", "ram")
    left = Path(killed.stdout.readline().split()[2])
    killed.kill()
    killed.wait()
    assert left.exists()
    other = start(CACHING, pairs / "LQ", "ram")
    assert other.stdout.readline()
    assert not left.exists()
    finish(other)


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
