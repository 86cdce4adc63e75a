"""Restore images: ``python infer.py -i photos -o restored --weights net_g_latest.pth``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from basicsr_ext.config import OptionError, load_options
from basicsr_ext.files import user_path


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description="Restore an image, or every image of a folder.")
    parser.add_argument(
        "-i", "--input", required=True, type=user_path, metavar="PATH", help="image or folder"
    )
    parser.add_argument(
        "-o", "--output", required=True, type=user_path, metavar="PATH", help="folder for the results"
    )
    parser.add_argument("--weights", required=True, type=user_path, metavar="FILE", help="checkpoint (.pth)")
    parser.add_argument(
        "--opt", type=user_path, metavar="FILE", help="option file; default: the one of the weights' run"
    )
    parser.add_argument("--tile", type=int, metavar="N", help="run in tiles of N pixels, for little memory")
    arguments = parser.parse_args()
    option_file = arguments.opt or _option_file_of_run(arguments.weights)
    if option_file is None:
        parser.error(f"no option file lies beside {arguments.weights.parent}: name it with --opt")
    try:
        options = load_options(option_file, phases=())
        from basicsr_ext.inference.files import restore_files

        for path in restore_files(
            options, arguments.weights, arguments.input, arguments.output, arguments.tile
        ):
            print(path)
    except (OptionError, OSError, ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, OptionError) else 1
    return 0


def _option_file_of_run(weights: Path) -> Path | None:
    """Return ``experiments/NAME/*.yml`` for ``experiments/NAME/models/x.pth``, if there is one such file."""
    files = list(weights.resolve().parent.parent.glob("*.yml"))
    return files[0] if len(files) == 1 else None


if __name__ == "__main__":
    sys.exit(main())
