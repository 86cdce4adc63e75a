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
from typing import Literal

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

_AHEAD = 2
"""Pictures read, and results written, at a time: the network need not wait, and memory holds them."""


class PlanError(ValueError):
    """What is asked for cannot be done; nothing has been written."""


@dataclass(frozen=True)
class Job:
    """One result and what it is made of: a picture, or the left and right view of one."""

    sources: list[Path]
    result: Path
    kind: Format


@dataclass(frozen=True)
class Outcome:
    """What became of a job; ``message`` says what went wrong with a failed one."""

    job: Job
    state: Literal["restored", "skipped", "failed"]
    message: str = ""


# --- which files, to where --------------------------------------------------------------------------


def plan(
    inputs: Sequence[str], output: Path, kind: Format | None = None, right: Path | None = None
) -> list[Job]:
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
    found = list(chain.from_iterable(_files(given, output) for given in inputs))
    found = list({path.resolve(): (path, name) for path, name in found}.values())
    if not found:
        raise PlanError(f"{' '.join(inputs)}: no image to restore ({' '.join(IMAGE_SUFFIXES)})")
    to_file = output.suffix.lower() in FORMATS and not output.is_dir()
    if to_file and (len(found) > 1 or any(Path(given).is_dir() for given in inputs)):
        raise PlanError(f"{output}: one file for {len(found)} image(s) of a folder; name a folder")
    if to_file and kind not in (None, FORMATS[output.suffix.lower()]):
        raise PlanError(f"{output}: has another suffix than --format {kind}")
    if output.is_file() and not to_file:
        raise PlanError(f"{output}: is a file, not a folder for results")
    kind = kind or (FORMATS[output.suffix.lower()] if to_file else "png")
    jobs = [
        Job(
            [path, *([] if right is None else [_right_view(right, path, name)])],
            output if to_file else output / name.with_suffix(f".{kind}"),
            kind,
        )
        for path, name in found
    ]
    _refuse_collisions(jobs)
    return jobs


def _files(given: str, output: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the files that an input means, and the name of each one's result."""
    path = Path(given).expanduser()
    made = results_in(output)
    if path.is_file():
        yield path, Path(path.name)
    elif path.is_dir():
        if path.resolve() == output.resolve():
            raise PlanError(f"{output}: results would mix with the images of the input folder; name another")
        for folder in path.rglob(RECORD_NAME):
            made |= results_in(folder.parent) if folder.parent != path else set()
        output_inside = _is_below(path, output)
        for name in open_folder(str(path), "input").files:
            file = path / name
            if file.resolve() not in made and not (output_inside and _is_below(output, file)):
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


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    sources = {path.resolve() for job in jobs for path in job.sources}
    by_result: dict[Path, Job] = {}
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


@dataclass(frozen=True)
class _Read:
    job: Job
    picture: Picture
    image: np.ndarray


def restore_files(
    jobs: Sequence[Job],
    restorer: PictureRestorer,
    record: Record | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[float], None] = lambda images: None,
) -> Iterator[Outcome]:
    """Do all jobs, and yield what became of each, as soon as it is known.

    What goes wrong with one picture is its outcome; the others are restored. A result appears whole or not
    at all.

    Args:
        jobs: see :func:`plan`.
        restorer: what restores.
        record: of what earlier runs have finished, which is skipped; None: nothing is skipped.
        overwrite: restore again what is finished, and replace files that are no results.
        progress: is told of every tile, as a share of an image.
    """
    todo: list[Job] = []
    for job in jobs:
        if record is None or overwrite:
            todo.append(job)
        elif record.finished(job.result, job.sources):
            yield Outcome(job, "skipped")
        elif job.result.exists() and not record.holds(job.result):
            yield Outcome(job, "failed", f"{job.result} is there, and no result of infer.py: --overwrite")
        else:
            todo.append(job)
    with (
        ThreadPoolExecutor(_AHEAD, "read") as readers,
        ThreadPoolExecutor(_AHEAD, "write") as writers,
    ):
        writing: deque[Future[Outcome]] = deque()
        for read in _batches(_ahead(readers, todo, restorer, progress), restorer.batch):
            if isinstance(read, Outcome):
                yield read
                continue
            for part in _restored(read, restorer, progress):
                if isinstance(part, Outcome):
                    yield part
                    continue
                while len(writing) >= _AHEAD:
                    yield writing.popleft().result()
                writing.append(writers.submit(_write, *part, record))
        while writing:
            yield writing.popleft().result()


def _ahead(
    readers: ThreadPoolExecutor,
    jobs: Iterable[Job],
    restorer: PictureRestorer,
    progress: Callable[[float], None],
) -> Iterator[_Read | Outcome]:
    """Read pictures in order, a few before they are asked for."""
    waiting, coming = deque[Future[_Read | Outcome]](), iter(jobs)
    while True:
        for job in islice(coming, max(_AHEAD, restorer.batch) - len(waiting)):
            waiting.append(readers.submit(_read, job, restorer))
        if not waiting:
            return
        read = waiting.popleft().result()
        if isinstance(read, Outcome):
            progress(1)
        yield read


def _read(job: Job, restorer: PictureRestorer) -> _Read | Outcome:
    try:
        views = [read_picture(path) for path in job.sources]
        return _Read(job, views[0], restorer.prepare(views))
    except Exception as error:
        return _failed(job, error)


def _batches(reads: Iterable[_Read | Outcome], size: int) -> Iterator[list[_Read] | Outcome]:
    """Join neighbours of one size and data type."""
    kinds = groupby(
        reads, key=lambda read: None if isinstance(read, Outcome) else (read.image.shape, read.image.dtype)
    )
    for _, group in kinds:
        batch: list[_Read] = []
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


def _restored(
    batch: list[_Read], restorer: PictureRestorer, progress: Callable[[float], None]
) -> Iterator[tuple[Job, np.ndarray, Picture, PictureRestorer] | Outcome]:
    images = batch[0].image[None] if len(batch) == 1 else np.stack([read.image for read in batch])
    try:
        restored = restorer.run(images, lambda share: progress(share * len(batch)))
    except Exception as error:
        if len(batch) == 1:
            yield _failed(batch[0].job, error)
            return
        for read in batch:
            yield from _restored([read], restorer, progress)
        return
    for read, image in zip(batch, restored, strict=True):
        yield read.job, image, read.picture, restorer


def _write(
    job: Job, restored: np.ndarray, source: Picture, restorer: PictureRestorer, record: Record | None
) -> Outcome:
    try:
        data = encode_picture(restorer.finish(restored, source), job.kind)
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
