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
from .description import Description, describe, open_network, open_reader
from .files import Outcome, PictureRestorer, Restoration, pictures, plan, restore_files, results_of
from .reading import TABLES, Reading, ReadingWorker, write_table
from .records import Record
from .restore import Restorer, channel_guesses, check_task, try_network

REFUSALS = (OptionError, PluginError, OSError, ValueError, RuntimeError)
"""What is raised before anything is made; the message is for the user."""

_BATCH = {"cpu": 1}
_BATCH_ELSEWHERE = 4
_RESTORING = {"task": None, "right": None, "format": None, "self_ensemble": False, "tile": "auto"}
"""Options that mean nothing where no picture is made, and what they are where they are not given."""


def run(arguments: argparse.Namespace) -> int:
    """Restore what the command line names, or say what the network finds in it; return how many failed.

    Raises:
        OptionError: the option file is wrong.
        ValueError: weights, device or files do not fit; nothing has been written.
        OSError: the weights cannot be read.
    """
    # Users name their own files here: none of them is too large.
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    description = describe(arguments.weights, arguments.opt, arguments.plugins)
    if description.purpose:
        return _read(arguments, description)
    if arguments.output is None:
        raise ValueError("-o: name a folder for the restored images, or for one image a file")
    jobs = plan(arguments.input, arguments.output, arguments.format, arguments.right)
    network = open_network(arguments.weights, description).to(_device(arguments.device))
    restorer = _restorer(network, description, arguments)
    print(f"{description.network['type']}, x{restorer.run.scale}: {description.origin}")
    record = None
    if jobs[0].result != arguments.output:
        record = Record(arguments.output, _made_by(arguments, description))
    started = time.perf_counter()
    outcomes = _restore_showing(jobs, restorer, record, arguments.overwrite)
    return _report(outcomes, time.perf_counter() - started, arguments.output)


def _read(arguments: argparse.Namespace, description: Description) -> int:
    """Print what a network that does not restore says of every picture, and write it as a table if asked."""
    output, device = arguments.output, _device(arguments.device)
    network = open_network(arguments.weights, description).to(device)
    reader = open_reader(arguments.weights, description, network)
    if given := [name for name, default in _RESTORING.items() if getattr(arguments, name) != default]:
        raise ValueError(
            f"--{given[0]}: for weights that restore images; these are a {description.purpose}'s"
        )
    if output is not None and (output.suffix.lower() not in TABLES or output.is_dir()):
        raise ValueError(f"{output}: expected a file that ends in {' or '.join(TABLES)}, or no -o")
    jobs = pictures(arguments.input)
    worker = ReadingWorker(reader, device, _batch(arguments, device), _precision(arguments))
    print(f"{description.network['type']}: {description.origin}")
    outcomes: list[Outcome] = []
    rows: list[tuple[str, Reading]] = []
    for made in results_of(jobs, worker):
        if isinstance(made, Outcome):
            outcomes.append(made)
            continue
        name = str(made.job.sources[0])
        rows.append((name, made.result))
        print(f"{name}: {made.result.text}", flush=True)
    if output is not None:
        write_table(output, rows)
    return _report_failures(outcomes, len(jobs), "read")


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
    task = arguments.task
    check_task(network, task)
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
    return PictureRestorer(restorer, trial.channels, description.color, _batch(arguments, device))


def _batch(arguments: argparse.Namespace, device: torch.device) -> int:
    return arguments.batch or _BATCH.get(device.type, _BATCH_ELSEWHERE)


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
    jobs: list[Restoration], restorer: PictureRestorer, record: Record | None, overwrite: bool
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
    return _report_failures(failed, len(outcomes), "restored")


def _report_failures(failed: list[Outcome], images: int, done: str) -> int:
    for outcome in failed:
        print(outcome.message, file=sys.stderr)
    if failed and images > 1:
        print(f"{_images(failed)} of {images} not {done}, see above", file=sys.stderr)
    return len(failed)


def _images(outcomes: list[Outcome]) -> str:
    return f"{len(outcomes)} image{'s' if len(outcomes) != 1 else ''}"
