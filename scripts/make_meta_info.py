"""List a folder's images with their sizes in a text file, which limits a data set to what it lists.

    python scripts/make_meta_info.py datasets/DF2K/HR --min_size 256

writes datasets/DF2K/HR_meta_info.txt with a line such as 0001.png (1404,2040,3) for every image (height,
width, channels), as BasicSR does. Option files name it as meta_info_file. Sizes are read from the
files' headers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from _command import add_workers, open_images, parser, positive, require_listable, run, run_jobs, write_lines

from basicsr_ext.data.images import ImageError, image_size
from basicsr_ext.files import user_path


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = parser(__doc__)
    command.add_argument("folder", type=user_path, help="images, at any depth")
    command.add_argument("--output", type=user_path, help="default: <folder>_meta_info.txt beside the folder")
    command.add_argument(
        "--min_size", type=positive, default=1, help="leave out images with a side shorter than this"
    )
    add_workers(command)
    options = command.parse_args(arguments)

    source = open_images(options.folder)
    require_listable(source.files)
    folder = options.folder.resolve()
    output = options.output or folder.with_name(f"{folder.name}_meta_info.txt")
    results = list(
        run_jobs(partial(describe, folder=source.folder), source.files, options.workers, "reading")
    )
    lines = [line for line, side, _ in results if line and side >= options.min_size]
    errors = [error for _, _, error in results if error]
    if not errors:
        write_lines(output, lines)
        print(f"{len(lines)} of {len(results)} images listed in {output}")
    return errors


def describe(file: str, folder: str) -> tuple[str, int, str]:
    """Return an image's line and shorter side, or nothing and what went wrong."""
    try:
        height, width = image_size(Path(folder, file))
    except ImageError as error:
        return "", 0, str(error)
    return f"{file} ({height},{width},3)", min(height, width), ""


if __name__ == "__main__":
    raise SystemExit(run(main))
