"""Feed damaged files to everything that reads files of others.

    python tests/fuzz/campaign.py --examples 5000

Option files, overrides, checkpoints, weights, images and lists of images, their bytes mutated by
hypothesis, must be read or be refused in words: never another error, never code that runs, never a hang.
Exits with 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence

# Decoders complain about every example on standard error.
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")

from fuzz_targets import TARGETS, Target, as_text, mutated
from hypothesis import HealthCheck, Phase, given, settings
from rich import box
from rich.console import Console
from rich.table import Table


class Run:
    """One target's examples: how many were accepted and refused, and the first that was neither."""

    def __init__(self, target: Target, examples: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failure: tuple[bytes, Exception] | None = None
        start = time.monotonic()

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(mutated(target.seeds))
        def attack(data: bytes) -> None:
            try:
                self.outcomes[target.run(data)] += 1
            except Exception as error:
                self.failure = data, error
                raise

        data = b""
        try:
            for data in target.seeds:
                self.outcomes[target.run(data)] += 1
            attack()
        except Exception as error:
            self.failure = self.failure or (data, error)
        self.seconds = time.monotonic() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=5000, help="over all targets; default: 5000")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS), metavar="NAME")
    given_options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    # libpng and libjpeg write to the descriptor itself.
    errors = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sys.stderr = os.fdopen(errors, "w")

    table = Table(box=box.SIMPLE)
    for heading in ("target", "examples", "accepted", "refused", "seconds", "found"):
        table.add_column(heading, justify="left" if heading in ("target", "found") else "right")
    failed = False
    share = -(-given_options.examples // len(given_options.targets))
    for name in given_options.targets:
        run = Run(TARGETS[name], share)
        accepted, refused = run.outcomes["accepted"], run.outcomes["refused"]
        found = ""
        if run.failure is not None:
            failed = True
            data, error = run.failure
            found = f"{type(error).__name__}: {error}; {as_text(data[:300])}"
        counts = (f"{count:,}" for count in (accepted + refused, accepted, refused))
        table.add_row(name, *counts, f"{run.seconds:.0f}", found)
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
