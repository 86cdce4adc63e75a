"""``--check``: what a run will be, as tables, before it is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from ..config import Options
from ..data.sampling import SampleRequest, Stage
from .build import Parts
from .failures import StepError
from .measure import StepCost, step_cost
from .progress import duration
from .validator import Evaluation

_PIPE_WIDTH = 160


def print_check(options: Options, parts: Parts, ranks: int, device: torch.device) -> bool:
    """Print parameters, data sets, the stage table and the cost of the largest stage's step.

    Returns:
        False if a step of the largest stage fails, or needs more memory than the GPU has.
    """
    console = _console()
    parameters = sum(parameter.numel() for parameter in parts.network.parameters())
    console.print(
        f"{options.name}: {options.network_g.type}, {parameters:,} parameters ({parameters / 1e6:.2f} M)"
    )
    console.print(f"datasets.train: {len(parts.train_set):,} images")
    for name, dataset in parts.eval_sets.items():
        console.print(f"{name}: {len(dataset):,} images")
    train = options.train
    assert train is not None, "only training is checked"
    console.print(stage_table(parts.stages, ranks, train.grad_accum))

    largest = max(parts.stages, key=lambda stage: stage.batch_size * stage.gt_size**2)
    sample = parts.train_set[SampleRequest(0, largest.gt_size, 0)]
    lq, gt = tuple(sample["lq"].shape), tuple(sample["gt"].shape)
    where = f"batch {largest.batch_size}, patch {largest.gt_size}, {device.type}"
    try:
        cost = step_cost(options, lq, gt, largest.batch_size, device)
    except StepError as error:
        console.print(f"One step of the largest stage ({where}) fails: {error}", markup=False)
        return False
    if cost is None:
        console.print(
            f"One step of the largest stage ({where}) could not be run: too little memory or too slow."
        )
        return device.type != "cuda"
    console.print(f"One step of the largest stage ({where}): {_describe(cost)}")
    seconds = _run_seconds(cost, largest, parts.stages, train.grad_accum)
    console.print(f"Whole run on this machine: about {duration(seconds)}")
    return True


def stage_table(stages: Sequence[Stage], ranks: int, grad_accum: int) -> Table:
    """Return one row a stage: iterations, patch, batch, samples, share of the run's pixels."""
    table = Table(box=box.SIMPLE)
    for heading in ("stage", "iterations", "patch", "batch/GPU", "batch in total", "samples", "share of run"):
        table.add_column(heading, justify="right")
    share = ranks * grad_accum
    pixels = [stage.iters * stage.batch_size * stage.gt_size**2 for stage in stages]
    iters = sum(stage.iters for stage in stages)
    for number, stage in enumerate(stages, start=1):
        of_time, of_work = 100 * stage.iters / iters, 100 * pixels[number - 1] / sum(pixels)
        table.add_row(
            str(number),
            f"{stage.iters:,}",
            str(stage.gt_size),
            str(stage.batch_size),
            str(stage.batch_size * share),
            f"{stage.iters * stage.batch_size * share:,}",
            f"{of_time:.1f}% ({of_work:.1f}% of pixels)",
        )
    return table


def print_scores(results: Mapping[str, Evaluation]) -> None:
    """Print one row a data set and metric, with bicubic enlargement beside it where there is one."""
    table = Table(box=box.SIMPLE)
    for heading, justify in (
        ("data set", "left"),
        ("metric", "left"),
        ("value", "right"),
        ("bicubic", "right"),
    ):
        table.add_column(heading, justify=justify)  # pyright: ignore[reportArgumentType]
    for name, result in results.items():
        for metric, value in result.scores.items():
            bicubic = f"{result.bicubic[metric]:.4f}" if metric in result.bicubic else ""
            table.add_row(name, metric, f"{value:.4f}", bicubic)
    _console().print(table)


def _console() -> Console:
    """Return a console that does not squeeze tables into 80 columns where there is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def _describe(cost: StepCost) -> str:
    basis = "measured" if cost.measured else "estimated from one sample"
    return f"{cost.memory / 2**30:.2f} GiB, {cost.seconds:.2f} s ({basis})"


def _run_seconds(cost: StepCost, measured: Stage, stages: Sequence[Stage], grad_accum: int) -> float:
    per_pixel = cost.seconds / (measured.batch_size * measured.gt_size**2)
    return grad_accum * sum(stage.iters * stage.batch_size * stage.gt_size**2 * per_pixel for stage in stages)
