"""Evaluate weights on an option file's test sets: ``python test.py -opt options/edt_x4.yml``."""

from __future__ import annotations

import argparse
import sys

from basicsr_ext.config import OptionError, load_options
from basicsr_ext.exit import exit_process, print_once


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        description="Evaluate a network's weights on an option file's test sets."
    )
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE", help="option file (YAML)")
    parser.add_argument("--task", metavar="NAME", help="of a MultiTaskModel's file: evaluate this task alone")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm"], default="none")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:KEY=VALUE")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        options = load_options(arguments.opt, arguments.force_yml, phases=("val", "test"))
        from basicsr_ext import engine

        try:
            engine.test(options, arguments.launcher, arguments.task)
        except engine.RUN_ERRORS as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
        except RuntimeError as error:
            if not engine.is_peer_failure(error):
                raise
            print("Another rank has ended; its message says why.", file=sys.stderr)
            return 1
    except OptionError as error:
        print_once(error, arguments.launcher)
        return 2
    return 0


if __name__ == "__main__":
    exit_process(main())
