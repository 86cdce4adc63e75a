"""Train a network: ``python train.py -opt options/edt_x4.yml``, or ``torchrun … train.py -opt …``."""

from __future__ import annotations

import argparse
import sys

from basicsr_ext.config import OptionError, load_options
from basicsr_ext.exit import exit_process, print_once

EXIT_FAILED, EXIT_BAD_OPTIONS = 1, 2


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train an image-restoration network from an option file.")
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE", help="option file (YAML)")
    parser.add_argument(
        "--launcher", choices=["none", "pytorch", "slurm"], default="none", help="who started the processes"
    )
    parser.add_argument(
        "--auto_resume",
        action="store_true",
        help="continue from the run's newest checkpoint, if there is one",
    )
    parser.add_argument(
        "--force_yml",
        nargs="+",
        default=[],
        metavar="KEY:KEY=VALUE",
        help="set options, e.g. train:total_iter=100",
    )
    parser.add_argument(
        "--check", action="store_true", help="check everything, show what will be run, and exit"
    )
    # torch.distributed.launch passes this; torchrun and we use the environment.
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the command and return its exit code."""
    arguments = parse_arguments()
    try:
        options = load_options(arguments.opt, arguments.force_yml, phases=("train", "val"))
        # torch and basicsr take seconds to import: only once the option file is known to be valid.
        from basicsr_ext import engine

        try:
            if arguments.check:
                return 0 if engine.check(options) else EXIT_FAILED
            engine.train(options, arguments.launcher, arguments.auto_resume)
        except engine.StoppedError as stop:
            print(f"{stop}; continue with --auto_resume", file=sys.stderr)
            return engine.EXIT_STOPPED
        except engine.RUN_ERRORS as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return EXIT_FAILED
        except RuntimeError as error:
            if not engine.is_peer_failure(error):
                raise
            print("Another rank has ended; its message says why.", file=sys.stderr)
            return EXIT_FAILED
    except OptionError as error:
        print_once(error, arguments.launcher)
        return EXIT_BAD_OPTIONS
    return 0


if __name__ == "__main__":
    exit_process(main())
