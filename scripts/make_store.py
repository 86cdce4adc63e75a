"""Pack a folder of images into a store, from which training reads crops without decoding anything.

    python scripts/make_store.py datasets/DF2K/HR
    python scripts/make_store.py datasets/DF2K/HR --lq datasets/DF2K/LR_bicubic/X4 --shards 4
    python scripts/make_store.py datasets/DF2K/HR.store --verify

The first writes datasets/DF2K/HR.store, which option files name instead of the folder (dataroot_gt). The
second packs pairs, having checked that each image has its partner. BasicSR's LMDBs are packed as well. What
is packed already is kept, if its file is unchanged and its checksum right: an interrupted run, or one after
images were added, can simply be started again, though not while a run trains on the store. --compress makes
a store about half as large and its crops 50 times as slow. The third computes the checksum of every
image of a store.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from os import cpu_count
from os.path import expanduser
from pathlib import Path

import numpy as np

from basicsr_ext.data.opening import match, open_source
from basicsr_ext.data.packing import pack, progress_bar, verify
from basicsr_ext.data.sources import StoredSource, first_few
from basicsr_ext.data.store import TILE, Layout, StoreSource, open_store
from basicsr_ext.files import user_path

_PATCH, _CROPS = 192, 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parse(arguments)
    try:
        for source in _open(options):
            if isinstance(source, StoreSource):
                _verify(source.folder, options.workers)
                continue
            folder = _target(source, options.output)
            layout = Layout(options.shards, options.tiles, options.compress)
            start = time.monotonic()
            done = pack(source, folder, layout, options.workers, progress_bar())
            seconds = time.monotonic() - start
            print(f"{folder}: {done.written} images packed in {seconds:.0f} s, {done.kept} kept")
            if options.verify:
                _verify(folder, options.workers)
            print(_report(open_store(folder, "store")))
    except ValueError as error:
        print(*(f"error: {line}" for line in str(error).splitlines()), sep="\n", file=sys.stderr)
        return 1
    return 0


def _open(options: argparse.Namespace) -> list[StoredSource]:
    source = open_source(options.folder, "folder")
    if options.lq is None:
        return [source]
    return [source, match(source, open_source(options.lq, "--lq"), options.filename_tmpl, "--lq")]


def _target(source: StoredSource, output: Path | None) -> str:
    folder = Path(source.folder).absolute()
    name = folder.stem if folder.suffix == ".lmdb" else folder.name
    return str((output or folder.parent) / f"{name}.store")


def _verify(folder: str, workers: int) -> None:
    damaged = verify(folder, workers, progress_bar())
    if damaged:
        raise ValueError(f"{folder}: wrong checksums: {first_few(damaged)}; pack the images again")
    print(f"{folder}: all checksums are right")


def _report(store: StoreSource) -> str:
    """Return what a store takes and gives: its size and the time of a crop that is in memory."""
    size = sum(file.stat().st_size for file in Path(store.folder).glob("*.mdb"))
    rng = np.random.default_rng(0)
    crops = []
    for index in rng.integers(len(store), size=_CROPS).tolist():
        height, width = store.size(index)
        rows, columns = min(height, _PATCH), min(width, _PATCH)
        crops.append(
            (
                index,
                int(rng.integers(height - rows + 1)),
                int(rng.integers(width - columns + 1)),
                rows,
                columns,
            )
        )
    seconds = min(_seconds_a_crop(store, crops) for _ in range(2))
    return (
        f"{size / 1e6:,.0f} MB in {store.layout.shards} files; a crop of {_PATCH}x{_PATCH} pixels takes"
        f" {seconds * 1e3:.2f} ms once in memory: {1 / seconds:,.0f} a second and process"
    )


def _seconds_a_crop(store: StoreSource, crops: Sequence[tuple[int, int, int, int, int]]) -> float:
    start = time.perf_counter()
    for crop in crops:
        store.read_crop(*crop)
    return (time.perf_counter() - start) / len(crops)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=expanduser, help="images, at any depth; or an LMDB; or a store to verify"
    )
    parser.add_argument("--lq", type=expanduser, help="the low-quality side of pairs: a folder or an LMDB")
    parser.add_argument("--filename_tmpl", default="{}", help="LQ file name for a GT base name, e.g. '{}x4'")
    parser.add_argument("--output", type=user_path, help="where stores are put; default: beside the folders")
    parser.add_argument("--shards", type=_positive, default=1, help="LMDB files a store; default: 1")
    parser.add_argument("--tiles", type=_positive, default=TILE, help=f"side of the tiles; default: {TILE}")
    parser.add_argument(
        "--compress",
        nargs="?",
        choices=["none", "png", "webp"],
        default="none",
        const="png",
        help="keep tiles as png (if no word is given) or webp (smaller, very slow to write), without loss",
    )
    parser.add_argument("--verify", action="store_true", help="read everything back and compare checksums")
    parser.add_argument(
        "--workers", type=_positive, default=cpu_count() or 1, help="threads; default: all cores"
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
