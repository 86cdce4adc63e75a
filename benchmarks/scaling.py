"""How much two processes of one thread train compared to one: data-parallel steps on this machine.

    python benchmarks/scaling.py [--rounds 30]

Starts itself twice under torchrun (gloo, loopback). Each step is an iteration as a run makes it: forward,
backward, gradients averaged over the processes, optimizer. In every round three kinds of blocks take turns:
the first process alone while the other waits, both without knowing of each other, both together. So what
two busy processes cost each other (memory, caches, cores that are shared) can be told from what averaging
costs. An efficiency of 1 means that two processes do twice as much as one. Other programs only ever make a
step slower, so that the fastest is nearest to the truth; the median shows how busy the machine was. CPU time
they disturb least, but it leaves out what a process waits for another.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from basicsr_ext.config import load_options
from basicsr_ext.config.schema import Dist
from basicsr_ext.engine.build import build_networks
from basicsr_ext.engine.distributed import World, start
from basicsr_ext.engine.step import TrainingStep

OPTIONS = Path(__file__).resolve().parents[1] / "options/edt_tiny_x2.yml"
PATCH = 48
ALONE, APART, TOGETHER = "one process", "two, each for itself", "two, averaging gradients"


@dataclass(frozen=True)
class Spent:
    """Seconds of one step: real ones, and those of the CPU, averaged over the processes."""

    real: float
    cpu: float


def main() -> None:
    """Run under torchrun, or start torchrun."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--steps", type=int, default=1, help="in a block; default: 1")
    parser.add_argument(
        "--batch", type=int, default=1, help="samples a process; default: 1, the hardest case"
    )
    arguments = parser.parse_args()
    if "RANK" not in os.environ:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        raise SystemExit(subprocess.call([*launcher, *sys.argv], env=environment))
    torch.set_num_threads(1)
    with start(0, "pytorch", Dist()) as world:
        rounds = measure(world, arguments.rounds, arguments.steps, arguments.batch)
        if world.is_main:
            report(rounds)


def measure(world: World, rounds: int, steps: int, batch: int) -> list[dict[str, Spent]]:
    """Return what a step took in every round, by kind of block."""
    alone, together = (training_step(one) for one in (World(), world))
    kinds = {ALONE: alone if world.is_main else None, APART: alone, TOGETHER: together}
    images = {
        side: torch.rand(batch, 3, PATCH * scale, PATCH * scale) for side, scale in (("lq", 1), ("gt", 2))
    }
    measured = []
    for number in range(rounds + 1):
        spent = {}
        order = list(kinds)[number % 3 :] + list(kinds)[: number % 3]
        for kind in order:
            spent[kind] = block(world, kinds[kind], {**images, "k": list(range(batch))}, steps)
        # The first round allocates memory, and lets the buckets of gradients take their order.
        if number:
            measured.append(spent)
    return measured


def training_step(world: World) -> TrainingStep:
    """Return the step of a run among the processes of ``world``."""
    options = load_options(OPTIONS, ["num_gpu=0"], phases=())
    torch.manual_seed(0)
    return TrainingStep(options, build_networks(options), world, shapes=1)


def block(world: World, step: TrainingStep | None, batch: dict[str, object], steps: int) -> Spent:
    """Make steps, or wait while others do; return what one took."""
    world.gather(None)  # all begin together
    real, cpu = time.perf_counter(), time.process_time()
    for number in range(steps if step is not None else 0):
        assert step is not None
        step.run(number + 1, [batch], 1)
    cpu = time.process_time() - cpu
    world.gather(None)
    real = time.perf_counter() - real
    busy = [seconds for seconds, took_part in world.gather((cpu, step is not None)) if took_part]
    return Spent(real / steps, statistics.mean(busy) / steps)


def report(rounds: list[dict[str, Spent]]) -> None:
    """Print the table."""
    table = Table(box=box.MARKDOWN)
    for heading in ("", "fastest, s", "efficiency", "median, s", "efficiency", "CPU s", "efficiency"):
        table.add_column(heading, justify="right" if heading else "left")
    for kind in (ALONE, APART, TOGETHER):
        row = [kind]
        for middle, clock in ((min, "real"), (statistics.median, "real"), (statistics.median, "cpu")):
            alone, here = ([getattr(spent[one], clock) for spent in rounds] for one in (ALONE, kind))
            row += [f"{middle(here):.2f}", f"{middle(alone) / middle(here):.2f}"]
        table.add_row(*row)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
