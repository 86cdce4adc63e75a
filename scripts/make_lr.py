"""Shrink a folder of ground-truth images, as MATLAB's bicubic imresize does, to one folder a scale.

    python scripts/make_lr.py datasets/DF2K/HR --scales 2 3 4

writes datasets/DF2K/LR_bicubic/X2/<name>.png, .../X3/<name>.png, .../X4/<name>.png. Images are cut to a
multiple of the scale first; 16-bit images stay 16-bit. What exists already is kept, so an interrupted
run can simply be started again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from os import cpu_count
from pathlib import Path

from rich.progress import track

# A fresh clone is not installed, and Python looks for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basicsr_ext.data.images import ImageError, read_image, run_single_threaded, write_image
from basicsr_ext.data.resize import downscale
from basicsr_ext.data.sources import FileSource, open_source

Job = tuple[Path, Path, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    options = _parse(arguments)
    try:
        source = open_source(str(options.folder), "folder")
    except ValueError as error:
        return _fail([str(error)])
    if not isinstance(source, FileSource):
        return _fail([f"folder: {options.folder} is an LMDB; give a folder of image files"])
    output = options.output or options.folder.resolve().parent / "LR_bicubic"
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
    errors = [error for error in _run(todo, options.workers) if error]
    print(f"{len(todo) - len(errors)} images written below {output}")
    return _fail(errors) if errors else 0


def shrink(job: Job) -> str:
    """Make one image; return what went wrong, or an empty string."""
    path, target, scale = job
    try:
        image = read_image(path)
        if min(image.shape[:2]) < scale:
            return f"{path}: {image.shape[0]}x{image.shape[1]} pixels are too few for scale {scale}"
        write_image(target, downscale(image, scale))
    except ImageError as error:
        return str(error)
    return ""


def _run(jobs: list[Job], workers: int) -> Iterable[str]:
    progress = partial(track, description="shrinking", total=len(jobs), disable=not sys.stdout.isatty())
    if workers <= 1:
        yield from progress(map(shrink, jobs))
        return
    with ProcessPoolExecutor(workers, initializer=run_single_threaded) as pool:
        yield from progress(pool.map(shrink, jobs, chunksize=4))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="ground-truth images, at any depth")
    parser.add_argument("--scales", type=_scale, nargs="+", default=[2, 3, 4], help="default: 2 3 4")
    parser.add_argument("--output", type=Path, help="default: LR_bicubic beside the folder")
    parser.add_argument("--overwrite", action="store_true", help="make images anew that exist already")
    parser.add_argument("--workers", type=int, default=cpu_count() or 1, help="processes; default: all cores")
    return parser.parse_args(arguments)


def _scale(text: str) -> int:
    scale = int(text)
    if scale < 2:
        raise argparse.ArgumentTypeError(f"{text} does not shrink; give 2 or more")
    return scale


def _fail(errors: list[str]) -> int:
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
