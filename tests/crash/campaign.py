"""Kill training runs at random and aimed-at moments, resume them, and compare how they end, bit for bit.

    python tests/crash/campaign.py --kills 100 --ranks 1 2 3 4 --nodes 1 2

Every run is tiny but has all that is random in it: drop path, mixup, noise on the fly, accumulation,
averaged weights, three stages. It is killed with SIGKILL (all processes of it) at a random moment, while a
checkpoint is being written, during validation, at the end of a stage or while starting; then started again
with --auto_resume, until it ends by itself. Of two nodes, which are two agents of torchrun on the loopback,
one alone may be killed: the other has to end by itself then. Weights, averaged weights, optimizer,
generators, best scores and the whole log must equal in the end those of a run, on one node, that nobody
killed. Exits with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from victim import TOTAL, Attempt, differences, draw_aim, final_state, left_behind, make_images

KILLS_A_RUN = 8
WORKERS = {"0": (0,), "2": (2,), "mixed": (0, 2)}


@dataclass(frozen=True)
class Kill:
    """One kill and what came of it."""

    aim: str
    workers: int
    iteration: int
    left_behind: str
    resumed_from: int | None


class Campaign:
    """Runs, kills and compares; everything happens below ``folder``."""

    def __init__(self, folder: Path, seed: int, console: Console) -> None:
        self.folder, self.console = folder, console
        self.images = folder / "images"
        self.failed = False
        self.kills = 0
        self.table = Table(box=box.SIMPLE)
        for heading in (
            "run",
            "ranks",
            "nodes",
            "workers",
            "killed",
            "after iteration",
            "left behind",
            "resumed from",
        ):
            self.table.add_column(heading)
        self.table.add_column("identical?")
        self._rng = random.Random(seed)
        self._expected: dict[int, dict] = {}
        self._runs = 0
        make_images(self.images)

    def run(self, ranks: int, nodes: int, workers: Sequence[int], kills: int) -> None:
        """Kill one run up to ``kills`` times and compare its end."""
        self._runs += 1
        folder = self.folder / f"run{self._runs}_{ranks}ranks_{nodes}nodes"
        plan = cycle(workers)
        done: list[Kill] = []
        resumed_from, verdict = None, "NO"
        try:
            expected = self.expected(ranks)
            while len(done) < kills:
                kill = self._kill_once(folder, ranks, nodes, next(plan))
                if kill is None:
                    break
                done.append(kill)
            with Attempt(folder, self.images, ranks, next(plan), nodes) as attempt:
                code = attempt.finish()
                resumed_from = attempt.resumed_from()
                if code:
                    raise ChildProcessError(f"exit code {code}:\n{attempt.output()[-2000:]}")
            differing = differences(expected, final_state(folder))
            if differing:
                raise AssertionError(f"{len(differing)} values differ: {_grouped(differing)}")
            verdict = "yes"
        except Exception as error:
            self.failed = True
            self.console.print(f"{folder}: {type(error).__name__}: {error}", markup=False)
        self.console.print(f"run {self._runs}: {ranks} ranks on {nodes} nodes, identical? {verdict}")
        self._report(ranks, nodes, workers, done, resumed_from, verdict)
        self.kills += len(done)

    def expected(self, ranks: int) -> dict:
        """Return how a run of ``ranks`` processes ends that nobody kills."""
        if ranks not in self._expected:
            folder = self.folder / f"uninterrupted_{ranks}ranks"
            with Attempt(folder, self.images, ranks, 0) as attempt:
                if attempt.finish():
                    raise ChildProcessError(f"the uninterrupted run failed:\n{attempt.output()[-2000:]}")
            self._expected[ranks] = final_state(folder)
        return self._expected[ranks]

    def _kill_once(self, folder: Path, ranks: int, nodes: int, workers: int) -> Kill | None:
        newest = max((int(path.stem) for path in folder.glob("training_states/*.json")), default=0)
        aim = draw_aim(self._rng, newest, pace=TOTAL // KILLS_A_RUN, nodes=nodes)
        with Attempt(folder, self.images, ranks, workers, nodes) as attempt:
            hit = aim.hit(attempt)
            if not hit and attempt.finish():
                raise ChildProcessError(f"ended by itself before the kill:\n{attempt.output()[-2000:]}")
            resumed_from, iteration = attempt.resumed_from(), attempt.iteration()
        if not hit:
            return None
        self.console.print(f"run {self._runs}: killed ({aim.name}) after iteration {iteration}")
        return Kill(aim.name, workers, iteration, left_behind(folder), resumed_from)

    def _report(
        self,
        ranks: int,
        nodes: int,
        workers: Sequence[int],
        kills: list[Kill],
        last: int | None,
        verdict: str,
    ) -> None:
        resumed = [*(kill.resumed_from for kill in kills[1:]), last]
        # Where the run that nobody kills has failed, there are no kills.
        for number, (kill, after) in enumerate(zip(kills, resumed, strict=False)):
            self.table.add_row(
                str(self._runs) if number == 0 else "",
                str(ranks),
                str(nodes),
                str(kill.workers),
                kill.aim,
                str(kill.iteration or "before the first"),
                kill.left_behind,
                # Killed while starting, before it could say so.
                "?" if after is None else str(after),
            )
        who = f"{len(kills)} kills, {' or '.join(map(str, workers))} workers"
        self.table.add_row("", str(ranks), str(nodes), "", who, "", "", "", verdict, end_section=True)


def _grouped(names: Sequence[str]) -> str:
    """Return how many names begin with each pair of words."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{group} ({count})" for group, count in counts.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="over all runs; default: 50")
    parser.add_argument(
        "--ranks", type=int, nargs="+", default=[1, 2, 3, 4], help="processes a run; default: 1 to 4"
    )
    parser.add_argument(
        "--nodes",
        type=int,
        nargs="+",
        default=[1, 2],
        help="nodes a run, where they can share its processes evenly; default: 1 and 2",
    )
    parser.add_argument(
        "--workers",
        nargs="+",
        choices=list(WORKERS),
        default=list(WORKERS),
        help="loader processes a rank; mixed: others after each resume; default: all three",
    )
    parser.add_argument("--seed", type=int, help="of the moments; default: a new one, which is printed")
    parser.add_argument("--folder", type=Path, help="kept afterwards; default: a temporary one")
    options = parser.parse_args(arguments)

    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    console.print(f"seed {seed}")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="crash_campaign_"))
    campaign = Campaign(folder, seed, console)
    kinds = [
        (ranks, nodes, WORKERS[name])
        for name in options.workers
        for nodes in options.nodes
        for ranks in options.ranks
        if ranks % nodes == 0
    ]
    runs = max(len(kinds), math.ceil(options.kills / KILLS_A_RUN))
    for ranks, nodes, workers in cycle(kinds):
        left = options.kills - campaign.kills
        if not left or campaign.failed:
            break
        campaign.run(ranks, nodes, workers, min(left, math.ceil(options.kills / runs)))
    console.print(campaign.table)
    console.print(
        f"{campaign.kills} kills; {'DIFFERENCES FOUND, see above' if campaign.failed else 'no difference'}"
    )
    if campaign.failed:
        console.print(f"The runs are in {folder}")
    elif options.folder is None:
        shutil.rmtree(folder)
    return int(campaign.failed)


if __name__ == "__main__":
    raise SystemExit(main())
