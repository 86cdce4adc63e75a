"""Restore picture files: which ones, to where, read ahead and written behind the network."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from glob import glob
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from ..config.paths import IMAGE_SUFFIXES
from ..data.images import ImageError
from ..data.sources import open_folder
from ..files import write_atomically
from .channels import to_channels, to_picture
from .pictures import FORMATS, Format, Picture, encode_picture, read_picture
from .records import NAME as RECORD_NAME
from .records import Record, results_in
from .restore import Restorer

JobT = TypeVar("JobT", bound="Job")
Progress = Callable[[float], None]
"""Is told of work done, as a share of an image."""

_AHEAD = 2
"""Pictures read, and results written, at a time: the network need not wait, and memory holds them."""


class PlanError(ValueError):
    """What is asked for cannot be done; nothing has been written."""


@dataclass(frozen=True)
class Job:
    """What belongs together: a picture, or the left and right view of one."""

    sources: list[Path]


@dataclass(frozen=True)
class Restoration(Job):
    """Pictures, and the file that is made of them."""

    result: Path
    kind: Format


@dataclass(frozen=True)
class Outcome:
    """What became of a job; ``message`` says what went wrong with a failed one."""

    job: Job
    state: Literal["restored", "skipped", "failed"]
    message: str = ""


@dataclass(frozen=True)
class Made(Generic[JobT]):
    """What a network has made of a job, whose first picture is ``source``."""

    job: JobT
    result: Any
    source: Picture


class PictureWorker(Protocol):
    """A network that pictures are given to, several of one size at once."""

    @property
    def batch(self) -> int:
        """How many images :attr:`run` gets at most."""
        ...

    def prepare(self, views: Sequence[Picture]) -> np.ndarray:
        """Return what the network takes of a job's pictures; threads call it."""
        ...

    @property
    def run(self) -> Callable[[np.ndarray, Progress], Iterable[Any]]:
        """Return what makes a result each of a batch of what :meth:`prepare` gave."""
        ...


# --- which files, to where --------------------------------------------------------------------------


def plan(
    inputs: Sequence[str], output: Path, kind: Format | None = None, right: Path | None = None
) -> list[Restoration]:
    """Return what is to be done, in order of the files' names.

    Args:
        inputs: files, folders (all pictures below them), patterns (``photos/*.png``; ``**``: any depth).
        output: a folder for results under the inputs' names; or the result's file, for one input file.
        kind: format of the results; default: by the suffix of ``output``, or PNG.
        right: for dual-pixel networks, where the right views of ``inputs`` are: a file, or a folder with
            the same names.

    Raises:
        ValueError: there is nothing to restore, an input or a right view is missing, or a result would
            replace an input or another result.
    """
    found = _found(inputs, output)
    to_file = output.suffix.lower() in FORMATS and not output.is_dir()
    if to_file and (len(found) > 1 or any(Path(given).is_dir() for given in inputs)):
        raise PlanError(f"{output}: one file for {len(found)} image(s) of a folder; name a folder")
    if to_file and kind not in (None, FORMATS[output.suffix.lower()]):
        raise PlanError(f"{output}: has another suffix than --format {kind}")
    if output.is_file() and not to_file:
        raise PlanError(f"{output}: is a file, not a folder for results")
    kind = kind or (FORMATS[output.suffix.lower()] if to_file else "png")
    jobs = [
        Restoration(
            [path, *([] if right is None else [_right_view(right, path, name)])],
            output if to_file else output / name.with_suffix(f".{kind}"),
            kind,
        )
        for path, name in found
    ]
    _refuse_collisions(jobs)
    return jobs


def pictures(inputs: Sequence[str]) -> list[Job]:
    """Return a job for each picture that ``inputs`` mean, as :func:`plan` reads them.

    Raises:
        ValueError: there is none, or one that is named is missing.
    """
    return [Job([path]) for path, _ in _found(inputs)]


def _found(inputs: Sequence[str], output: Path | None = None) -> list[tuple[Path, Path]]:
    """Return every file that the inputs mean, once, and the name of its result."""
    found = chain.from_iterable(_files(given, output) for given in inputs)
    files = list({path.resolve(): (path, name) for path, name in found}.values())
    if not files:
        raise PlanError(f"{' '.join(inputs)}: no image there ({' '.join(IMAGE_SUFFIXES)})")
    return files


def _files(given: str, output: Path | None) -> Iterator[tuple[Path, Path]]:
    """Yield the files that an input means but those that lie in ``output``, and names of their results."""
    path = Path(given).expanduser()
    made = set() if output is None else results_in(output)
    if path.is_file():
        yield path, Path(path.name)
    elif path.is_dir():
        if output is not None and path.resolve() == output.resolve():
            raise PlanError(f"{output}: results would mix with the images of the input folder; name another")
        for folder in path.rglob(RECORD_NAME) if output is not None else ():
            made |= results_in(folder.parent) if folder.parent != path else set()
        inside = output if output is not None and _is_below(path, output) else None
        for name in open_folder(str(path), "input").files:
            file = path / name
            if file.resolve() not in made and (inside is None or not _is_below(inside, file)):
                yield file, Path(name)
    elif matching := sorted(glob(os.path.expanduser(given), recursive=True)):
        for file in map(Path, matching):
            if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and file.resolve() not in made:
                yield file, Path(file.name)
    else:
        raise PlanError(f"{given}: no such file or folder, and no file matches it")


def _is_below(folder: Path, path: Path) -> bool:
    return folder.resolve() in path.resolve().parents


def _right_view(right: Path, left: Path, name: Path) -> Path:
    candidates = [right] if right.is_file() else [right / name, right / left.name]
    if (view := next((path for path in candidates if path.is_file()), None)) is None:
        raise PlanError(f"{left}: has no right view {candidates[0]}")
    return view


def _refuse_collisions(jobs: Sequence[Restoration]) -> None:
    sources = {path.resolve() for job in jobs for path in job.sources}
    by_result: dict[Path, Restoration] = {}
    for job in jobs:
        result = job.result.resolve()
        if result in sources:
            raise PlanError(f"{job.result}: would replace an input; name another output")
        if result in by_result:
            first = by_result[result].sources[0]
            raise PlanError(f"{job.result}: would be the result of both {first} and {job.sources[0]}")
        by_result[result] = job


# --- doing it ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PictureRestorer:
    """A network that restores pictures.

    Attributes:
        run: restores arrays.
        channels: of the network's images.
        color: see :func:`.channels.to_channels`.
        batch: pictures of one size that are restored at once.
    """

    run: Restorer
    channels: int
    color: Literal["rgb", "y", "gray", "matlab_gray"] | None = None
    batch: int = 1

    def prepare(self, views: Sequence[Picture]) -> np.ndarray:
        """Return what the network takes."""
        return to_channels(views, self.channels, self.color)

    def finish(self, restored: np.ndarray, source: Picture) -> Picture:
        """Return the result as a picture."""
        return to_picture(restored, source, self.color, self.run.scale)


def restore_files(
    jobs: Sequence[Restoration],
    restorer: PictureRestorer,
    record: Record | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = lambda images: None,
) -> Iterator[Outcome]:
    """Do all jobs, and yield what became of each, as soon as it is known.

    What goes wrong with one picture is its outcome; the others are restored. A result appears whole or not
    at all.

    Args:
        jobs: see :func:`plan`.
        restorer: what restores.
        record: of what earlier runs have finished, which is skipped; None: nothing is skipped.
        overwrite: restore again what is finished, and replace files that are no results.
        progress: is told of every tile.
    """
    todo: list[Restoration] = []
    for job in jobs:
        if record is None or overwrite:
            todo.append(job)
        elif record.finished(job.result, job.sources):
            yield Outcome(job, "skipped")
        elif job.result.exists() and not record.holds(job.result):
            yield Outcome(job, "failed", f"{job.result} is there, and no result of infer.py: --overwrite")
        else:
            todo.append(job)
    with ThreadPoolExecutor(_AHEAD, "write") as writers:
        writing: deque[Future[Outcome]] = deque()
        for made in results_of(todo, restorer, progress):
            if isinstance(made, Outcome):
                yield made
                continue
            while len(writing) >= _AHEAD:
                yield writing.popleft().result()
            writing.append(writers.submit(_write, made, restorer, record))
        while writing:
            yield writing.popleft().result()


def results_of(
    jobs: Iterable[JobT], worker: PictureWorker, progress: Progress = lambda images: None
) -> Iterator[Made[JobT] | Outcome]:
    """Yield what ``worker`` makes of every job, or how it failed, in order; pictures are read ahead."""
    with ThreadPoolExecutor(_AHEAD, "read") as readers:
        for read in _batches(_ahead(readers, jobs, worker, progress), worker.batch):
            if isinstance(read, Outcome):
                yield read
            else:
                yield from _results(read, worker, progress)


@dataclass(frozen=True)
class _Read(Generic[JobT]):
    job: JobT
    picture: Picture
    image: np.ndarray


def _ahead(
    readers: ThreadPoolExecutor, jobs: Iterable[JobT], worker: PictureWorker, progress: Progress
) -> Iterator[_Read[JobT] | Outcome]:
    """Read pictures in order, a few before they are asked for."""
    waiting, coming = deque[Future[_Read[JobT] | Outcome]](), iter(jobs)
    while True:
        for job in islice(coming, max(_AHEAD, worker.batch) - len(waiting)):
            waiting.append(readers.submit(_read, job, worker))
        if not waiting:
            return
        read = waiting.popleft().result()
        if isinstance(read, Outcome):
            progress(1)
        yield read


def _read(job: JobT, worker: PictureWorker) -> _Read[JobT] | Outcome:
    try:
        views = [read_picture(path) for path in job.sources]
        return _Read(job, views[0], worker.prepare(views))
    except Exception as error:
        return _failed(job, error)


def _batches(reads: Iterable[_Read[JobT] | Outcome], size: int) -> Iterator[list[_Read[JobT]] | Outcome]:
    """Join neighbours of one size and data type."""
    kinds = groupby(
        reads, key=lambda read: None if isinstance(read, Outcome) else (read.image.shape, read.image.dtype)
    )
    for _, group in kinds:
        batch: list[_Read[JobT]] = []
        for read in group:
            if isinstance(read, Outcome):
                yield read
                continue
            batch.append(read)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch


def _results(
    batch: list[_Read[JobT]], worker: PictureWorker, progress: Progress
) -> Iterator[Made[JobT] | Outcome]:
    images = batch[0].image[None] if len(batch) == 1 else np.stack([read.image for read in batch])
    try:
        results = worker.run(images, lambda share: progress(share * len(batch)))
    except Exception as error:
        if len(batch) == 1:
            yield _failed(batch[0].job, error)
            return
        for read in batch:
            yield from _results([read], worker, progress)
        return
    for read, result in zip(batch, results, strict=True):
        yield Made(read.job, result, read.picture)


def _write(made: Made[Restoration], restorer: PictureRestorer, record: Record | None) -> Outcome:
    job = made.job
    try:
        data = encode_picture(restorer.finish(made.result, made.source), job.kind)
        if record is not None:
            record.add(job.result, len(data), job.sources)
        write_atomically(job.result, data)
    except Exception as error:
        return _failed(job, error)
    return Outcome(job, "restored")


def _failed(job: Job, error: Exception) -> Outcome:
    reason = " ".join(str(error).split()) or type(error).__name__
    name = str(job.sources[0])
    known = isinstance(error, ImageError | OSError | ValueError)
    reason = reason if known else f"{type(error).__name__}: {reason}"
    return Outcome(job, "failed", reason if name in reason else f"{name}: {reason}")
