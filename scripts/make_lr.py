"""Shrink a folder of ground-truth images, as MATLAB's bicubic imresize does, to one folder a scale.

    python scripts/make_lr.py datasets/DF2K/HR --scales 2 3 4

writes datasets/DF2K/LR_bicubic/X2/<name>.png, .../X3/<name>.png, .../X4/<name>.png. Images are cut to a
multiple of the scale first; 16-bit images stay 16-bit. What exists already is kept, so an interrupted
run can simply be started again.

MATLAB rounds to 8 bit after the height and again after the width; published results stand on such files.
With --float both passes are made in floating point and rounded once, as many scripts do, and the
folder is called LR_bicubic_float: a tenth of the values differ by 1, and results with them.
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from _command import add_workers, open_images, parser, positive, run, run_jobs

from basicsr_ext.data.images import ImageError, read_image, write_image
from basicsr_ext.data.resize import downscale
from basicsr_ext.files import user_path

Job = tuple[Path, Path, int]


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = parser(__doc__)
    command.add_argument("folder", type=user_path, help="ground-truth images, at any depth")
    command.add_argument("--scales", type=_scale, nargs="+", default=[2, 3, 4], help="default: 2 3 4")
    command.add_argument("--float", action="store_true", help="round once, at the end, unlike MATLAB")
    command.add_argument(
        "--output", type=user_path, help="default: LR_bicubic or LR_bicubic_float beside the folder"
    )
    command.add_argument("--overwrite", action="store_true", help="make images anew that exist already")
    add_workers(command)
    options = command.parse_args(arguments)

    source = open_images(options.folder)
    folder = "LR_bicubic_float" if options.float else "LR_bicubic"
    output = options.output or options.folder.resolve().parent / folder
    jobs = [
        (Path(source.path(index)), output / f"X{scale}" / f"{name}.png", scale)
        for index, name in enumerate(source.names)
        for scale in options.scales
    ]
    todo = [job for job in jobs if options.overwrite or not job[1].exists()]
    if len(todo) < len(jobs):
        print(
            f"{len(jobs) - len(todo)} of {len(jobs)} images exist and are kept (--overwrite makes them anew)"
        )
    make = partial(shrink, in_floats=options.float)
    errors = [error for error in run_jobs(make, todo, options.workers, "shrinking") if error]
    print(f"{len(todo) - len(errors)} images written below {output}")
    return errors


def shrink(job: Job, in_floats: bool) -> str:
    """Make one image; return what went wrong, or an empty string."""
    path, target, scale = job
    try:
        image = read_image(path)
        if min(image.shape[:2]) < scale:
            return f"{path}: {image.shape[0]}x{image.shape[1]} pixels are too few for scale {scale}"
        write_image(target, _rounded_once(image, scale) if in_floats else downscale(image, scale))
    except ImageError as error:
        return str(error)
    return ""


def _rounded_once(image: np.ndarray, scale: int) -> np.ndarray:
    small = np.floor(downscale(image.astype(np.float64), scale) + 0.5)
    return np.clip(small, 0, np.iinfo(image.dtype).max).astype(image.dtype)


def _scale(text: str) -> int:
    scale = positive(text)
    if scale < 2:
        raise ArgumentTypeError(f"{text} does not shrink; give 2 or more")
    return scale


if __name__ == "__main__":
    raise SystemExit(run(main))
