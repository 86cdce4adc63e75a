"""What does it take to start over a large folder of images, the first time and later?

    python benchmarks/folder_index.py --images 20000 --folders 100
    python benchmarks/folder_index.py --images 1281167 --folders 1000

makes a tree of so many files below ``--data`` (links to a few small PNG files, which take no space but that
of their names; it is removed afterwards), starts a multi-task run over it, up to the first iteration and in a
process of its own for each line of the table, and prints the table. Three tasks share the images. Times are
of one process, without the import of torch; memory is what it holds more after the start than before. The
files' headers are in the system's cache: from a disk or a network a first start takes longer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import basicsr_ext as bx
from basicsr_ext.data import folder_index
from basicsr_ext.data.images import write_image

_ORIGINALS = 64
CASES = {
    "without an index": {"indexed": False},
    "the first start": {},
    "a later one": {},
    "a later one, `min_size: 232`": {"min_size": 232},
    "a later one, one folder changed": {},
    "a list file with sizes": {"meta_info_file": True},
}


@contextmanager
def tree(data: Path, images: int, folders: int) -> Iterator[tuple[Path, Path]]:
    """Make files in folders and a list of them; yield both, and remove them."""
    with tempfile.TemporaryDirectory(dir=data) as made:
        root, originals = Path(made, "images"), Path(made, "originals")
        for number in range(_ORIGINALS):
            write_image(originals / f"{number}.png", np.zeros((200 + number, 300, 3), np.uint8))
        each = -(-images // folders)
        with Path(made, "list.txt").open("w") as listing:
            for folder in range(folders):
                name = f"n{folder:08d}"
                Path(root, name).mkdir(parents=True)
                for number in range(folder * each, min(images, (folder + 1) * each)):
                    file = f"{name}/{name}_{number:07d}.png"
                    original = number % _ORIGINALS
                    os.link(originals / f"{original}.png", root / file)
                    listing.write(f"{file} ({200 + original},300,3)\n")
        time.sleep(3)  # a folder that has just changed is not trusted
        yield root, Path(listing.name)


def options(images: dict[str, Any]) -> dict[str, Any]:
    """Return a run of three tasks over a data set."""
    network = {
        "type": "EDT",
        "scales": [2],
        "noise_levels": [25],
        "rain_levels": ["L"],
        "window_size": [2, 8],
    }
    network |= {"num_feat": 4, "embed_dim": 12, "depths": [2], "num_heads": [2]}
    return {
        "name": "start",
        "model_type": "MultiTaskModel",
        "num_gpu": 0,
        "tasks": [{"name": "sr_x2"}, {"name": "dn_g25"}, {"name": "dr_L"}],
        "datasets": {"train": {**images, "gt_size": 64, "batch_size_per_gpu": 1}},
        "network_g": network,
        "train": {"total_iter": 1, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}},
    }


def start(root: str, listing: str, case: dict[str, Any]) -> dict[str, float]:
    """Build a run's parts, in this process; return what that took."""
    from basicsr_ext.engine.build import build_parts

    images: dict[str, Any] = {"type": "PairedImageDataset", "dataroot_gt": root}
    if "min_size" in case:
        images["min_size"] = case["min_size"]
    if "meta_info_file" in case:
        images["meta_info_file"] = listing
    if not case.get("indexed", True):
        folder_index.LEAST = sys.maxsize
    # What any run imports is not counted.
    build_parts(bx.load_options(options({"type": "SampleImages"})), 1, training=True)
    held, began, cpu = _held(), time.perf_counter(), time.process_time()
    parts = build_parts(bx.load_options(options(images)), 1, training=True)
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - began,
        "held": _held() - held,
        "images": len(parts.train_set) // 3,
    }


def _held() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--folders", type=int, default=100)
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--skip", nargs="*", default=[], choices=CASES, help="lines to leave out")
    parser.add_argument("--start", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start:
        root, listing, case = arguments.start
        print(json.dumps(start(root, listing, json.loads(case))))
        return
    print(f"| {arguments.images:,} files in {arguments.folders:,} folders | CPU s | s | MB | images |")
    print("|---|---:|---:|---:|---:|")
    with (
        tree(arguments.data, arguments.images, arguments.folders) as (root, listing),
        tempfile.TemporaryDirectory() as cache,
    ):
        for name, case in CASES.items():
            if name in arguments.skip:
                continue
            if "changed" in name:
                shutil.copy(root.parent / "originals/0.png", root / "n00000000/new.png")
            command = [sys.executable, __file__, "--start", str(root), str(listing), json.dumps(case)]
            environment = {**os.environ, "XDG_CACHE_HOME": cache}
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            took = json.loads(done.stdout.splitlines()[-1])
            images = f"{took['images']:,}"
            print(
                f"| {name} | {took['cpu']:.1f} | {took['wall']:.1f} | {took['held']:.0f} | {images} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
