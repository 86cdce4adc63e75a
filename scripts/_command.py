"""What the data commands share: arguments, worker processes, progress, errors in one line."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from os import cpu_count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from basicsr_ext.data.images import run_single_threaded
from basicsr_ext.data.opening import open_source
from basicsr_ext.data.sources import FileSource, first_few
from basicsr_ext.files import write_atomically

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[1]

_WORTH_A_PROCESS = 8
"""Images that a process must have to do: starting it takes about as long."""

Job = TypeVar("Job")
Result = TypeVar("Result")


class CommandError(Exception):
    """What ends a command; the message is for its user."""


def run(command: Callable[[Sequence[str] | None], list[str]]) -> int:
    """Run a command; return its exit code.

    Args:
        command: takes arguments (None: the command line's), returns what went wrong, one line each.
    """
    try:
        errors = command(None)
    except (CommandError, OSError, ValueError) as error:
        errors = str(error).splitlines()
    except KeyboardInterrupt:
        errors = ["interrupted; the same command goes on where it was stopped"]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is a script's docstring."""
    summary, _, details = (doc or "").partition("\n\n")
    return argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_workers(arguments: argparse.ArgumentParser) -> None:
    """Add ``--workers``."""
    arguments.add_argument(
        "--workers", type=positive, default=cpu_count() or 1, help="processes; default: all cores"
    )


def add_device(arguments: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    arguments.add_argument("--device", help="such as cpu or cuda:1; default: a GPU where there is one")


def device_of(name: str | None) -> torch.device:
    """Return the device that ``--device`` names.

    Raises:
        CommandError: it cannot be used here.
    """
    # Most commands do without.
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = device if name is None else torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise CommandError(f"--device {name}: not usable here ({reason})") from error
    return device


def positive(text: str) -> int:
    """Return the positive whole number that ``text`` says."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive whole number")
    return number


def open_images(folder: Path) -> FileSource:
    """Return the image files below a folder, at any depth.

    Raises:
        ValueError: no folder, no images, or an LMDB.
    """
    source = open_source(str(folder), "folder")
    if not isinstance(source, FileSource):
        raise ValueError(f"folder: {folder} does not hold image files")
    return source


def require_listable(files: Sequence[str]) -> None:
    """Raise ValueError if a name has spaces: in a meta-info file names end at the first one."""
    spaced = [file for file in files if len(file.split()) > 1]
    if spaced:
        raise ValueError(f"lists cannot hold names with spaces; rename {first_few(spaced)}")


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write a text file that appears whole or not at all."""
    write_atomically(path, "".join(f"{line}\n" for line in lines).encode(), durable=False)


def run_jobs(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, title: str
) -> Iterator[Result]:
    """Yield ``function`` of every job, in order, made by several processes, and show a bar on a terminal.

    Args:
        function: of a module, so that other processes find it.
        jobs: what it is called with.
        workers: processes; 1: this one.
        title: beside the bar.

    Raises:
        CommandError: a process was killed.
    """
    with _progress() as progress:
        bar = progress.add_task(title, total=len(jobs))
        for result in _results(function, jobs, workers):
            progress.advance(bar)
            yield result


def _results(function: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    workers = min(workers, len(jobs) // _WORTH_A_PROCESS)
    if workers < 2:
        yield from map(function, jobs)
        return
    # Processes that are forked inherit locks of threads that they do not have.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=run_single_threaded)
    try:
        yield from pool.map(function, jobs, chunksize=4)
    except BrokenProcessPool as error:
        message = "a worker process was killed, perhaps for want of memory; try fewer --workers"
        raise CommandError(message) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, disable=not console.is_terminal)
