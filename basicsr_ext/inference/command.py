"""What ``infer.py`` does."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from ..archs.padding import requirement_of
from ..config import OptionError
from ..plugins import PluginError
from .description import Description, describe, open_network
from .files import Job, Outcome, PictureRestorer, plan, restore_files
from .records import Record
from .restore import Restorer, channel_guesses, try_network

REFUSALS = (OptionError, PluginError, OSError, ValueError, RuntimeError)
"""What is raised before anything is restored; the message is for the user."""

_BATCH = {"cpu": 1}
_BATCH_ELSEWHERE = 4


def run(arguments: argparse.Namespace) -> int:
    """Restore what the command line names, print what became of it, and return how many images failed.

    Raises:
        OptionError: the option file is wrong.
        ValueError: weights, device or files do not fit; nothing has been written.
        OSError: the weights cannot be read.
    """
    # Users name their own files here: none of them is too large.
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    jobs = plan(arguments.input, arguments.output, arguments.format, arguments.right)
    description = describe(arguments.weights, arguments.opt, arguments.plugins)
    network = open_network(arguments.weights, description).to(_device(arguments.device))
    restorer = _restorer(network, description, arguments)
    print(f"{description.network['type']}, x{restorer.run.scale}: {description.origin}")
    record = None
    if jobs[0].result != arguments.output:
        record = Record(arguments.output, _made_by(arguments, description))
    started = time.perf_counter()
    outcomes = _restore_showing(jobs, restorer, record, arguments.overwrite)
    return _report(outcomes, time.perf_counter() - started, arguments.output)


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"--device {name}: not usable here ({reason})") from error
    return device


def _restorer(network: nn.Module, description: Description, arguments: argparse.Namespace) -> PictureRestorer:
    tasks, task = list(getattr(network, "tasks", ())), arguments.task
    if task is not None and task not in tasks:
        raise ValueError(f"--task {task}: the weights are for {tasks or 'one task without a name'}")
    if task is None and len(tasks) > 1:
        raise ValueError(f"the weights are for several tasks; choose one with --task: {' '.join(tasks)}")
    trial = try_network(
        network, requirement_of(network, description.window_size, task), channel_guesses(network), task
    )
    device = next(network.parameters()).device
    restorer = Restorer(
        network,
        trial.scale,
        arguments.tile,
        arguments.tile_overlap,
        window_size=description.window_size,
        self_ensemble=arguments.self_ensemble,
        precision=_precision(arguments),
        task=task,
        trial=trial,
    )
    batch = arguments.batch or _BATCH.get(device.type, _BATCH_ELSEWHERE)
    return PictureRestorer(restorer, trial.channels, description.color, batch)


def _precision(arguments: argparse.Namespace) -> torch.dtype | None:
    if arguments.half:
        return torch.float16
    return torch.bfloat16 if arguments.bf16 else None


def _made_by(arguments: argparse.Namespace, description: Description) -> str:
    """Return a digest of what decides about results besides their sources."""
    settings: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in ("task", "format", "tile", "tile_overlap", "self_ensemble", "half", "bf16")
    }
    weights = hashlib.sha256(arguments.weights.read_bytes()).hexdigest()
    text = json.dumps([weights, description.entry(), settings], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _restore_showing(
    jobs: list[Job], restorer: PictureRestorer, record: Record | None, overwrite: bool
) -> list[Outcome]:
    columns = (
        TextColumn("restoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[images]} images"),
        TimeRemainingColumn(),
    )
    outcomes: list[Outcome] = []
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(jobs))
        done = restore_files(
            jobs, restorer, record, overwrite=overwrite, progress=lambda images: bar.advance(task, images)
        )
        for outcome in done:
            outcomes.append(outcome)
            if outcome.state == "skipped":
                bar.advance(task)
    return outcomes


def _report(outcomes: list[Outcome], seconds: float, output: Path) -> int:
    by_state = {
        state: [o for o in outcomes if o.state == state] for state in ("restored", "skipped", "failed")
    }
    restored, skipped, failed = by_state.values()
    if restored:
        print(f"{_images(restored)} restored in {seconds:.1f} s: {output}")
    if skipped:
        print(f"{_images(skipped)} skipped: finished by an earlier run (--overwrite restores them again)")
    for outcome in failed:
        print(outcome.message, file=sys.stderr)
    if failed and len(outcomes) > 1:
        print(f"{_images(failed)} of {len(outcomes)} not restored, see above", file=sys.stderr)
    return len(failed)


def _images(outcomes: list[Outcome]) -> str:
    return f"{len(outcomes)} image{'s' if len(outcomes) != 1 else ''}"
