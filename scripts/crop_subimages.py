"""Cut a folder of large images into overlapping sub-images, which are faster to read as files.

    python scripts/crop_subimages.py datasets/DF2K/HR
    python scripts/crop_subimages.py datasets/DF2K/LR_bicubic/X4 --scale 4

writes datasets/DF2K/HR_sub/0001_s001.png, ..._s002.png, ... of 480x480 pixels, 240 apart, as BasicSR does,
and the sub-images of the low-quality side that belong to them. The last ones of a row or column end at
the border; one closer than --threshold to the one before is left out. Images whose sides are no
multiple of the largest scale must be cut for both sides to correspond (--multiple 4). Where
low-quality files are called 0001x4.png, --filename_tmpl '{}x4' gives their sub-images the ground
truth's names. What exists already is kept, so an interrupted run can simply be started again.

A store (scripts/make_store.py) needs no sub-images: crops are read from the whole image.
"""

from __future__ import annotations

import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from _command import add_workers, open_images, parser, positive, run, run_jobs

from basicsr_ext.data.images import ImageError, image_size, read_image, write_image
from basicsr_ext.data.resize import cut_to_multiple
from basicsr_ext.data.sources import first_few
from basicsr_ext.files import user_path

Job = tuple[Path, Path]


@dataclass(frozen=True)
class Grid:
    """Where sub-images lie, in pixels of the images at hand."""

    size: int
    step: int
    threshold: int
    multiple: int
    overwrite: bool


@dataclass(frozen=True)
class Outcome:
    """What became of one image: sub-images written and kept, whether it was too small, what went wrong."""

    written: int = 0
    kept: int = 0
    small: str = ""
    error: str = ""


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    options = _parser().parse_args(arguments)
    size, step, threshold = (_divided(options, key) for key in ("size", "step", "threshold"))
    multiple = options.multiple if options.scale == 1 else 1
    grid = Grid(size, step, threshold, multiple, options.overwrite)
    source = open_images(options.folder)
    output = options.output or options.folder.resolve().with_name(f"{options.folder.resolve().name}_sub")
    jobs = [
        (Path(source.path(index)), output / _base_name(name, options.filename_tmpl))
        for index, name in enumerate(source.names)
    ]
    outcomes = list(run_jobs(partial(cut, grid=grid), jobs, options.workers, "cutting"))
    written, kept = sum(one.written for one in outcomes), sum(one.kept for one in outcomes)
    print(f"{written} sub-images of {size}x{size} pixels written below {output}, {kept} kept")
    small = [one.small for one in outcomes if one.small]
    if small:
        print(f"{len(small)} of {len(jobs)} images are smaller and were left out: {first_few(small)}")
    return [one.error for one in outcomes if one.error]


def cut(job: Job, grid: Grid) -> Outcome:
    """Write the sub-images of one image."""
    path, target = job
    try:
        height, width = (side // grid.multiple * grid.multiple for side in image_size(path))
        if min(height, width) < grid.size:
            return Outcome(small=f"{path.name} ({height}x{width})")
        places = [
            (target.with_name(f"{target.name}_s{number:03d}.png"), corner)
            for number, corner in enumerate(corners(height, width, grid), 1)
        ]
        todo = [place for place in places if grid.overwrite or not place[0].exists()]
        if todo:
            image = cut_to_multiple(read_image(path), grid.multiple)
            for file, (top, left) in todo:
                write_image(file, image[top : top + grid.size, left : left + grid.size])
    except ImageError as error:
        return Outcome(error=str(error))
    return Outcome(len(todo), len(places) - len(todo))


def corners(height: int, width: int, grid: Grid) -> list[tuple[int, int]]:
    """Return (top, left) of the sub-images of an image, row by row."""
    rows, columns = _starts(height, grid), _starts(width, grid)
    return [(top, left) for top in rows for left in columns]


def _starts(side: int, grid: Grid) -> list[int]:
    last = side - grid.size
    starts = list(range(0, last + 1, grid.step))
    return starts if last - starts[-1] <= grid.threshold else [*starts, last]


def _divided(options: Namespace, key: str) -> int:
    value, scale = getattr(options, key), options.scale
    if value % scale:
        raise ValueError(f"--{key} {value} is not divisible by --scale {scale}")
    return value // scale


def _base_name(name: str, template: str) -> str:
    path = PurePosixPath(name)
    found = re.fullmatch(re.escape(template).replace(re.escape("{}"), "(.+)", 1), path.name)
    if found is None:
        raise ValueError(f"--filename_tmpl: {name} is not of the form {template!r}")
    return os.fspath(path.with_name(found[1]))


def _parser() -> ArgumentParser:
    command = parser(__doc__)
    command.add_argument("folder", type=user_path, help="images, at any depth")
    command.add_argument("--output", type=user_path, help="default: <folder>_sub beside the folder")
    command.add_argument(
        "--size", type=positive, default=480, help="of ground truth, in pixels; default: 480"
    )
    command.add_argument("--step", type=positive, default=240, help="between sub-images; default: 240")
    command.add_argument("--threshold", type=int, default=0, help="default: 0")
    command.add_argument("--scale", type=positive, default=1, help="of low quality; sizes are divided by it")
    command.add_argument("--multiple", type=positive, default=1, help="cut ground truth to a multiple first")
    command.add_argument("--filename_tmpl", default="{}", help="file name for a base name, e.g. '{}x4'")
    command.add_argument("--overwrite", action="store_true", help="make sub-images anew that exist already")
    add_workers(command)
    return command


if __name__ == "__main__":
    raise SystemExit(run(main))
