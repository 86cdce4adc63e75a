"""Use a network on images: ``python infer.py -i photos -o restored --weights net_g_latest.pth``."""

from __future__ import annotations

import argparse
import sys

from basicsr_ext.files import user_path

EXIT_FAILED, EXIT_REFUSED = 1, 2


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Restore images with a network's weights, or name their classes; docs/restoring.md."
    )
    add = parser.add_argument
    add("-i", "--input", required=True, nargs="+", metavar="PATH", help="images, folders, or patterns")
    add(
        "-o",
        "--output",
        type=user_path,
        metavar="PATH",
        help="folder, or file for one image; of classes: a .csv or .json, if wanted",
    )
    add("--weights", required=True, type=user_path, metavar="FILE", help="checkpoint, ours or published")
    add(
        "--opt",
        type=user_path,
        metavar="FILE",
        help="option file, for weights that do not tell",
    )
    add("--plugins", nargs="+", default=[], metavar="MODULE", help="modules with the network's class")
    add("--task", metavar="NAME", help="of weights for several tasks (EDT), such as sr_x4")
    add("--right", type=user_path, metavar="PATH", help="right views, where --input has the left ones")
    add("--format", choices=["png", "jpg", "webp", "tiff"], help="of the results (default: png)")
    add("--tile", default="auto", metavar="N", help="side of tiles; 0: whole images (default: auto)")
    add("--tile_overlap", type=int, default=32, metavar="N", help="pixels that tiles share (default: 32)")
    add("--batch", type=int, metavar="N", help="images of one size at once (default: 4 on GPUs, else 1)")
    add("--self_ensemble", action="store_true", help="average over eight orientations; eight times the time")
    precision = parser.add_mutually_exclusive_group()
    precision.add_argument("--half", action="store_true", help="compute in float16 where that is safe")
    precision.add_argument("--bf16", action="store_true", help="compute in bfloat16 where that is safe")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    add("--overwrite", action="store_true", help="restore again what earlier runs have finished")
    arguments = parser.parse_args()
    if arguments.tile != "auto":
        if not arguments.tile.isdecimal():
            parser.error(f"--tile: found {arguments.tile!r}, expected a number of pixels, 0 or auto")
        arguments.tile = int(arguments.tile) or None
    if arguments.tile_overlap < 0:
        parser.error("--tile_overlap: expected 0 or more")
    if arguments.tile and arguments.tile != "auto" and arguments.tile_overlap >= arguments.tile:
        parser.error(f"--tile_overlap {arguments.tile_overlap} must be smaller than --tile {arguments.tile}")
    if arguments.batch is not None and arguments.batch < 1:
        parser.error("--batch: expected 1 or more")
    return arguments


def main() -> int:
    """Run the command and return its exit code."""
    arguments = parse_arguments()
    from basicsr_ext.inference.command import REFUSALS, run

    try:
        failures = run(arguments)
    except REFUSALS as error:
        print(error, file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("Interrupted; finished images are skipped next time.", file=sys.stderr)
        return 130
    return EXIT_FAILED if failures else 0


if __name__ == "__main__":
    sys.exit(main())
