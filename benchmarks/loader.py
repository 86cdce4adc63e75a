"""Compare our data path with basicsr's, with plain copies in memory, and with Restormer's loop.

    python benchmarks/loader.py [--folder /tmp/loader_benchmark] [--images 24]

Makes its images first: scikit-image's photographs enlarged to 2040x1356 with sensor-like noise, so that
PNG files come out about as large as DIV2K's. Everything runs in one process on one thread, with all files
in memory, so that nothing waits and CPU time can be given, which other programs on the machine disturb
little. Contenders take turns; a row gives the median of the rounds, a ratio the median of their ratios.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

import basicsr_ext  # noqa: F401 (makes basicsr importable)

# isort: split
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.transforms import augment, paired_random_crop
from basicsr.utils import imfrombytes, img2tensor
from basicsr.utils.lmdb_util import make_lmdb_from_imgs

from basicsr_ext.config.datasets import for_training
from basicsr_ext.data import build_train_dataset
from basicsr_ext.data.databases import close_environments
from basicsr_ext.data.images import decode_image, read_image, write_image
from basicsr_ext.data.loader import build_train_loader, collate_train
from basicsr_ext.data.opening import open_source
from basicsr_ext.data.packing import pack, progress_bar
from basicsr_ext.data.paired_dataset import PairedImages
from basicsr_ext.data.resize import downscale
from basicsr_ext.data.samples import sample_maker
from basicsr_ext.data.sampling import ProgressiveBatchSampler, SampleRequest, Stage, sample_rng
from basicsr_ext.data.store import Layout
from basicsr_ext.data.transforms import random_corner, random_orientation

HEIGHT, WIDTH, SCALE, PATCH = 1356, 2040, 4, 192
SUB, STEP = 480, 240
SCENES = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "ihc.png")
# Restormer's published schedule for one of its eight GPUs: patch, batch.
RESTORMER = ((128, 8), (160, 5), (192, 4), (256, 2), (320, 1), (384, 1))
RESTORMER_ITERS = (92000, 64000, 48000, 36000, 36000, 24000)
LARGEST, BATCH, RESTORMER_SUB = 384, 8, 512
# Of 16 pairs each, that a loader process makes.
BATCHES = 100
# Mean height and width of ILSVRC 2012's training images.
IMAGENET = (387, 469)

Run = Callable[[int], object]


def main() -> None:
    """Run all comparisons and print their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("/tmp/loader_benchmark"))
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    prepare(options.folder, options.images)
    compare_samples(options.folder, options.rounds)
    compare_processes(options.folder, options.rounds)
    compare_schedules(options.folder, options.rounds)
    measure_for_scale(options.folder, options.rounds)


# --- images ----------------------------------------------------------------------------------------


def prepare(folder: Path, images: int) -> None:
    """Write all sets below ``folder``, unless they are there."""
    if (folder / "complete").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    for index in range(images):
        gt = picture(index)
        write_image(folder / f"GT/{index:04d}.png", gt)
        write_image(folder / f"LQ/{index:04d}.png", downscale(gt, SCALE))
        for number, (y, x) in enumerate(_corners((SUB, SUB), STEP)):
            sub = gt[y : y + SUB, x : x + SUB]
            write_image(folder / f"subGT/{index:04d}_s{number:03d}.png", sub)
            write_image(folder / f"subLQ/{index:04d}_s{number:03d}.png", downscale(sub, SCALE))
        rng = np.random.default_rng(index)
        for number, (y, x) in enumerate(_corners((RESTORMER_SUB, RESTORMER_SUB), RESTORMER_SUB)):
            sub = gt[y : y + RESTORMER_SUB, x : x + RESTORMER_SUB]
            noisy = np.clip(sub + rng.normal(0, 8, sub.shape), 0, 255).astype(np.uint8)
            write_image(folder / f"restormerGT/{index:04d}_{number}.png", sub)
            write_image(folder / f"restormerLQ/{index:04d}_{number}.png", noisy)
        for number, (y, x) in enumerate(_corners(IMAGENET, IMAGENET[0])):
            sub = gt[y : y + IMAGENET[0], x : x + IMAGENET[1]]
            write_image(folder / f"imagenet/{index:04d}_{number}.jpg", sub)
    for name in ("GT", "LQ", "restormerGT", "restormerLQ", "imagenet"):
        pack(
            open_source(str(folder / name), "folder"),
            str(folder / f"{name}.store"),
            Layout(),
            1,
            progress_bar(),
        )
    for name in ("GT", "LQ"):
        source, layout = open_source(str(folder / name), "folder"), Layout(compression="png")
        pack(source, str(folder / f"{name}-png.store"), layout, 1, progress_bar())
        keys = sorted(path.stem for path in (folder / f"sub{name}").iterdir())
        files = [f"{key}.png" for key in keys]
        with redirect_stderr(StringIO()):
            make_lmdb_from_imgs(str(folder / f"sub{name}"), str(folder / f"sub{name}.lmdb"), files, keys)
    (folder / "complete").touch()


def picture(index: int) -> np.ndarray:
    """Return a 2040x1356 photograph: part of a bundled one, enlarged, with noise that depends on light."""
    import skimage

    rng = np.random.default_rng(index)
    photo = read_image(Path(skimage.__file__).parent / "data" / SCENES[index % len(SCENES)])
    height = int(rng.integers(200, min(photo.shape[0], photo.shape[1] * HEIGHT // WIDTH) + 1))
    width = height * WIDTH // HEIGHT
    y, x = int(rng.integers(photo.shape[0] - height + 1)), int(rng.integers(photo.shape[1] - width + 1))
    large = cv2.resize(photo[y : y + height, x : x + width], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    noise = rng.standard_normal(large.shape, np.float32) * (1.5 + 0.012 * large)
    return np.clip(np.rint(large + noise), 0, 255).astype(np.uint8)


def _corners(size: tuple[int, int], step: int) -> list[tuple[int, int]]:
    rows, columns = range(0, HEIGHT - size[0] + 1, step), range(0, WIDTH - size[1] + 1, step)
    return [(y, x) for y in rows for x in columns]


# --- samples ---------------------------------------------------------------------------------------


def compare_samples(folder: Path, rounds: int) -> None:
    """Print samples a second: random 192x192 crops of pairs, flipped, as CHW tensors.

    Basicsr's are floats; ours are integers as loader processes send them, or floats as a data set gives them.
    """
    arrays = [[read_image(path) for path in sorted((folder / name).iterdir())] for name in ("GT", "LQ")]
    contenders: dict[str, tuple[Run, int]] = {
        "basicsr, PNG files": (_theirs(folder / "GT", folder / "LQ", "disk"), 6),
        "basicsr, LMDB of 480x480 sub-images": (
            _theirs(folder / "subGT.lmdb", folder / "subLQ.lmdb", "lmdb"),
            60,
        ),
        "ours, PNG files": (_ours(folder / "GT", folder / "LQ"), 6),
        "ours, store compressed as png": (_ours(folder / "GT-png.store", folder / "LQ-png.store"), 100),
        "ours, store, LQ made on the fly": (_ours(folder / "GT.store", None), 300),
        "ours, store, as floats": (_ours(folder / "GT.store", folder / "LQ.store", floats=True), 2000),
        "ours, store": (_ours(folder / "GT.store", folder / "LQ.store"), 2000),
        "plain copy in memory, to float tensors": (partial(plain_copy, arrays, True, True), 2000),
        "plain copy in memory, uint8 arrays": (partial(plain_copy, arrays, True, False), 2000),
        "plain copy in memory, never flipped": (partial(plain_copy, arrays, False, False), 2000),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, (run, count) in contenders.items():
            start = time.process_time()
            for number in range(round_ * count, (round_ + 1) * count):
                run(number)
            # The first round fills caches.
            if round_:
                times[name].append((time.process_time() - start) / count)
    table = _table("", "ms/sample", "samples/s", "times ours")
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["ours, store"], strict=True))
        middle = statistics.median(values)
        table.add_row(name, f"{middle * 1e3:.3f}", f"{1 / middle:,.0f}", f"{ratio:.2f}")
    Console().print(table)


class FloatsOnly:
    """A data set of which a loader knows nothing but what indexing gives."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __getitem__(self, request: SampleRequest) -> Any:
        return self._dataset[request]

    def __len__(self) -> int:
        return len(self._dataset)


def compare_processes(folder: Path, rounds: int) -> None:
    """Print what a pair costs that a loader process makes and hands over, as floats and as integers."""
    option = for_training(PairedImages)(
        type="PairedImageDataset", dataroot_gt=str(folder / "GT.store"), dataroot_lq=str(folder / "LQ.store")
    )
    dataset: Any = build_train_dataset(option, SCALE, 0)
    kinds = {"as floats": FloatsOnly(dataset), "as integers": dataset}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, kind in kinds.items():
            sampler = ProgressiveBatchSampler([Stage(BATCHES, PATCH, 16)], len(dataset), 0)
            before = _spent()
            for _batch in build_train_loader(kind, sampler, 1):
                pass
            children, here = (b - a for a, b in zip(before, _spent(), strict=True))
            times[name].append((children / (16 * BATCHES), here / (16 * BATCHES)))
    table = _table("sent", "ms of the loader process", "ms of the main process")
    for name, values in times.items():
        table.add_row(name, *(f"{statistics.median(side) * 1e3:.3f}" for side in zip(*values, strict=True)))
    Console().print(table)


def _spent() -> tuple[float, float]:
    """Return the CPU time of all loader processes that have ended, and of this process."""
    sides = (resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
    children, here = (side.ru_utime + side.ru_stime for side in sides)
    return children, here


def plain_copy(arrays: Sequence[Sequence[np.ndarray]], flips: bool, tensors: bool, number: int) -> object:
    """Return the crops that our data set would, from arrays in memory, with numpy alone."""
    rng = sample_rng(0, number)
    gt, lq = (images[number % len(images)] for images in arrays)
    size = PATCH // SCALE
    top, left = random_corner(rng, lq.shape[0], lq.shape[1], size)
    orientation = random_orientation(rng, hflip=flips, rotate=flips)
    crops = (
        gt[top * SCALE : (top + size) * SCALE, left * SCALE : (left + size) * SCALE],
        lq[top : top + size, left : left + size],
    )
    copies = [np.ascontiguousarray(orientation.apply(crop)) for crop in crops]
    if not tensors:
        return copies
    return [
        torch.from_numpy(np.ascontiguousarray(copy.transpose(2, 0, 1))).float().div_(255) for copy in copies
    ]


def _theirs(gt: Path, lq: Path, backend: str) -> Run:
    dataset = PairedImageDataset(
        {
            "dataroot_gt": str(gt),
            "dataroot_lq": str(lq),
            "io_backend": {"type": backend},
            "phase": "train",
            "scale": SCALE,
            "gt_size": PATCH,
            "use_hflip": True,
            "use_rot": True,
        }
    )
    return lambda number: dataset[number * 7919 % len(dataset)]


def _ours(gt: Path, lq: Path | None, floats: bool = False) -> Run:
    option = for_training(PairedImages)(
        type="PairedImageDataset", dataroot_gt=str(gt), dataroot_lq=None if lq is None else str(lq)
    )
    dataset: Any = build_train_dataset(option, SCALE, 0)
    make = dataset.__getitem__ if floats else sample_maker(dataset)
    return lambda number: make(SampleRequest(number * 7919 % len(dataset), PATCH, number))


# --- Restormer's schedule --------------------------------------------------------------------------


def compare_schedules(folder: Path, rounds: int) -> None:
    """Print what a batch of each of Restormer's stages costs, loaded its way and ours.

    Its way: eight pairs are decoded and cropped to 384x384, whatever the stage; then as many as the
    stage's batch are chosen and cropped once more. Bytes are what the system read from disk for a batch,
    nothing being in memory before.
    """
    sides = [folder / "restormerGT", folder / "restormerLQ"]
    paths = [sorted(side.iterdir()) for side in sides]
    files = [*paths[0], *paths[1], *(Path(f"{side}.store", "00.mdb") for side in sides)]
    option = for_training(PairedImages)(
        type="PairedImageDataset", dataroot_gt=f"{sides[0]}.store", dataroot_lq=f"{sides[1]}.store"
    )
    dataset: Any = build_train_dataset(option, 1, 0)
    sample = sample_maker(dataset)
    table = _table(
        "stage",
        "patch",
        "batch",
        "MB read",
        "MB read, ours",
        "ratio",
        "ms",
        "ms, ours",
        "ratio",
        "pixels used",
    )
    totals = np.zeros(4)
    for number, ((patch, batch), iters) in enumerate(zip(RESTORMER, RESTORMER_ITERS, strict=True), 1):
        requests = iter(ProgressiveBatchSampler([Stage(10**6, patch, batch)], len(dataset), number))
        theirs = partial(restormer_batch, paths, patch, batch)

        def ours(requests: Any = requests) -> object:
            return collate_train([sample(request) for request in next(requests)])

        read = [_bytes_read(make, files, rounds) for make in (theirs, ours)]
        for file in files:
            file.read_bytes()
        for _ in range(4 * len(dataset) // batch):
            ours()
        times = [[_seconds(make) for make in (theirs, ours, ours, ours)] for _ in range(3 * rounds)]
        spent = [statistics.median(row[0] for row in times), statistics.median(min(row[1:]) for row in times)]
        ratio = statistics.median(row[0] / statistics.median(row[1:]) for row in times)
        used = batch * patch**2 / (BATCH * LARGEST**2)
        table.add_row(
            *(str(number), str(patch), str(batch)),
            *(f"{read[0] / 1e6:.2f}", f"{read[1] / 1e6:.2f}", f"{read[0] / read[1]:.1f}"),
            *(f"{spent[0] * 1e3:.0f}", f"{spent[1] * 1e3:.2f}", f"{ratio:.0f}", f"{used:.0%}"),
        )
        totals += np.array([*read, *spent]) * iters / sum(RESTORMER_ITERS)
    table.add_row(
        *("run", "", ""),
        *(f"{totals[0] / 1e6:.2f}", f"{totals[1] / 1e6:.2f}", f"{totals[0] / totals[1]:.1f}"),
        *(f"{totals[2] * 1e3:.0f}", f"{totals[3] * 1e3:.2f}", f"{totals[2] / totals[3]:.0f}", ""),
    )
    Console().print(table)


def restormer_batch(paths: Sequence[Sequence[Path]], patch: int, batch: int) -> list[torch.Tensor]:
    """Return a batch as Restormer's loop makes it: load the largest, then take less of it."""
    samples = []
    for index in random.sample(range(len(paths[0])), BATCH):
        gt, lq = (imfrombytes(side[index].read_bytes(), float32=True) for side in paths)
        gt, lq = paired_random_crop(gt, lq, LARGEST, 1, "")
        gt, lq = augment([np.ascontiguousarray(gt), np.ascontiguousarray(lq)])
        samples.append(img2tensor([gt, lq], bgr2rgb=True, float32=True))
    sides = [torch.stack(side) for side in zip(*samples, strict=True)]
    if batch < BATCH:
        chosen = random.sample(range(BATCH), batch)
        sides = [side[chosen] for side in sides]
    if patch < LARGEST:
        top, left = (int((LARGEST - patch) * random.random()) for _ in range(2))
        sides = [side[:, :, top : top + patch, left : left + patch] for side in sides]
    return sides


# --- larger sets -----------------------------------------------------------------------------------


def measure_for_scale(folder: Path, rounds: int) -> None:
    """Print what docs/data_at_scale.md calculates with."""
    rng = np.random.default_rng(0)
    table = _table("192x192 crop from disk, nothing in memory", "MB read", "ms")
    for name in ("GT", "GT-png"):
        store = open_source(str(folder / f"{name}.store"), "folder")
        read, spent = [], []

        def crop(store: Any = store) -> None:
            place = (int(rng.integers(HEIGHT - PATCH)), int(rng.integers(WIDTH - PATCH)))
            store.read_crop(int(rng.integers(len(store))), *place, PATCH, PATCH)

        for _ in range(3 * rounds):
            _forget([Path(store.folder, "00.mdb")])
            before, start = _disk_bytes(), time.perf_counter()
            crop()
            spent.append(time.perf_counter() - start)
            read.append(_disk_bytes() - before)
        table.add_row(f"{name}.store", f"{np.mean(read) / 1e6:.2f}", f"{np.median(spent) * 1e3:.1f}")
    Console().print(table)

    table = _table("images of 469x387 pixels", "ms of CPU", "a second")
    files = sorted((folder / "imagenet").iterdir())
    contents = iter([file.read_bytes() for file in files] * rounds)
    small, decoded = (_ours(folder / name, None) for name in ("imagenet.store", "imagenet"))
    numbers = iter(range(10**9))
    for _ in range(4 * len(files)):
        small(next(numbers))
    for name, make in (
        ("decode a JPEG file", lambda: decode_image(next(contents), "jpeg")),
        ("sample from JPEG files, LQ made on the fly", lambda: decoded(next(numbers))),
        ("sample from a store, LQ made on the fly", lambda: small(next(numbers))),
    ):
        spent = statistics.median(_seconds(make) for _ in range(rounds * len(files)))
        table.add_row(name, f"{spent * 1e3:.2f}", f"{1 / spent:,.0f}")
    Console().print(table)


def _bytes_read(make: Callable[[], object], files: Sequence[Path], rounds: int) -> float:
    """Return how many bytes one call reads from disk when nothing is in memory."""
    amounts = []
    for _ in range(rounds):
        _forget(files)
        before = _disk_bytes()
        make()
        amounts.append(_disk_bytes() - before)
    return statistics.mean(amounts)


def _forget(files: Sequence[Path]) -> None:
    """Drop files from memory."""
    # Pages that are mapped would stay.
    close_environments()
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _disk_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def _seconds(make: Callable[[], object]) -> float:
    start = time.process_time()
    make()
    return time.process_time() - start


def _table(*headings: str) -> Table:
    table = Table(box=box.MARKDOWN)
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    return table


if __name__ == "__main__":
    main()
