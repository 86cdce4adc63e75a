"""``--check``: what a run will be, as tables, before it is started."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from ...config import Options
from ...data.sampling import Stage
from ...models import ModelKind
from ..build import Parts
from ..failures import StepError
from ..progress import duration
from ..validator import Evaluation
from .rehearsal import stage_batch
from .trial import StepCost, step_cost

_PIPE_WIDTH = 160
_ALIKE = 1.15
"""Slowest over fastest try, below which one number tells the time."""


def print_check(
    options: Options, kind: ModelKind[Any], parts: Parts, ranks: int, device: torch.device
) -> bool:
    """Print parameters, data sets, the stage table and the cost of the largest stage's step.

    Returns:
        False if a step of the largest stage fails, or needs more memory than the GPU has.
    """
    console = _console()
    for name, network in parts.networks.items():
        parameters = sum(parameter.numel() for parameter in network.parameters())
        console.print(f"{options.name}: {name}, {parameters:,} parameters ({parameters / 1e6:.2f} M)")
    console.print(f"datasets.train: {len(parts.train_set):,} images")
    for name, dataset in parts.eval_sets.items():
        console.print(f"{name}: {len(dataset):,} images")
    console.print(stage_table(parts.stages, ranks))

    largest = max(parts.stages, key=lambda stage: stage.batch_size * stage.gt_size**2)
    # Batch normalisation takes no single sample.
    few = min(2, largest.batch_size)
    small = stage_batch(kind, parts.train_set, largest, copies=few)
    whole = stage_batch(kind, parts.train_set, largest, copies=0)
    where = f"batch {largest.batch_size}, patch {largest.gt_size}, {device.type}"
    try:
        cost = step_cost(options, small, whole, largest.batch_size / few, largest.grad_accum, device)
    except StepError as error:
        console.print(f"One iteration of the largest stage ({where}) fails: {error}", markup=False)
        return False
    if isinstance(cost, str):
        console.print(f"One iteration of the largest stage ({where}) could not be tried: {cost}.")
        return device.type != "cuda"
    console.print(f"One iteration of the largest stage ({where}): {_describe(cost)}")
    iterations = _run_iterations(largest, parts.stages)
    console.print(f"Whole run on this machine: about {_range(cost, duration, iterations)}")
    return True


def stage_table(stages: Sequence[Stage], ranks: int) -> Table:
    """Return one row a stage: iterations, patch, batch, samples, share of the run's pixels."""
    table = Table(box=box.SIMPLE)
    for heading in ("stage", "iterations", "patch", "batch/GPU", "batch in total", "samples", "share of run"):
        table.add_column(heading, justify="right")
    pixels = [stage.iters * stage.pixels for stage in stages]
    iters = sum(stage.iters for stage in stages)
    for number, stage in enumerate(stages, start=1):
        of_time, of_work = 100 * stage.iters / iters, 100 * pixels[number - 1] / sum(pixels)
        table.add_row(
            str(number),
            f"{stage.iters:,}",
            str(stage.gt_size),
            str(stage.batch_size),
            str(stage.samples * ranks),
            f"{stage.iters * stage.samples * ranks:,}",
            f"{of_time:.1f}% ({of_work:.1f}% of pixels)",
        )
    return table


def print_scores(results: Mapping[str, Evaluation]) -> None:
    """Print one row a data set, with each metric and what baselines reach beside it where there are any."""
    _console().print(_scores_table(results, {}))


def scores_in_words(
    results: Mapping[str, Evaluation], best: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> str:
    """Return the same table as text, with the best scores so far: data set → metric → value and iteration."""
    text = StringIO()
    Console(file=text, width=_PIPE_WIDTH, color_system=None).print(_scores_table(results, best))
    lines = (line.rstrip() for line in text.getvalue().splitlines())
    return "\n".join(line for line in lines if line)


def _scores_table(
    results: Mapping[str, Evaluation], best: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> Table:
    metrics = list(dict.fromkeys(metric for result in results.values() for metric in result.scores))
    baselines = list(dict.fromkeys(name for result in results.values() for name in result.baselines))
    table = Table("data set", box=box.SIMPLE)
    for metric in metrics:
        for heading in (metric, *baselines, *(["best"] if best else [])):
            table.add_column(heading, justify="right")
    for name, result in results.items():
        cells = []
        for metric in metrics:
            of_baselines = [result.baselines.get(baseline, {}).get(metric) for baseline in baselines]
            scores = [result.scores.get(metric), *of_baselines]
            cells += ["" if score is None else f"{score:.4f}" for score in scores]
            if best:
                reached = best.get(name, {}).get(metric)
                cells.append(f"{reached['value']:.4f} at {reached['iteration']}" if reached else "")
        table.add_row(name, *cells)
    return table


def _console() -> Console:
    """Return a console that does not squeeze tables into 80 columns where there is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def _describe(cost: StepCost) -> str:
    basis = "measured" if cost.measured else "estimated from fewer samples"
    return f"{cost.memory / 2**30:.2f} GiB, {_range(cost, '{:.2f} s'.format)} ({basis})"


def _range(cost: StepCost, in_words: Callable[[float], str], iterations: float = 1) -> str:
    """Return in words how long iterations take, from the fastest to the slowest where tries have differed."""
    if cost.slowest < _ALIKE * cost.seconds:
        return in_words(iterations * cost.seconds)
    return f"{in_words(iterations * cost.seconds)} to {in_words(iterations * cost.slowest)}"


def _run_iterations(measured: Stage, stages: Sequence[Stage]) -> float:
    """Return to how many iterations of one stage the whole run amounts, going by pixels."""
    return sum(stage.iters * stage.pixels / measured.pixels for stage in stages)
