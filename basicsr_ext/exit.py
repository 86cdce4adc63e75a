"""The end of a command."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn


def print_once(text: object, launcher: str) -> None:
    """Print to standard error, on the first rank alone, what all ranks have found, joined yet or not."""
    variable = "SLURM_PROCID" if launcher == "slurm" else "RANK"
    if os.environ.get(variable, "0") == "0":
        print(text, file=sys.stderr)


def exit_process(code: int) -> NoReturn:
    """End this process with an exit code; one of several ranks without taking the interpreter apart.

    gloo's threads may still be about to drop the Python objects of the last collective. If the interpreter
    is being finalised by then, the thread is unwound and C++ aborts the process, which has done all its work,
    with SIGABRT (seen with torch 2.15, in up to one run of ten on a busy core).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.exit(code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
