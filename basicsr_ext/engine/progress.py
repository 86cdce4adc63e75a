"""How fast a run goes, how long it still takes, and what a terminal shows of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import ClassVar, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..data.sampling import Stage, stage_of

T = TypeVar("T")


class Speedometer:
    """Measures iterations and predicts the rest, stage by stage.

    An iteration's time is taken as proportional to the pixels in its batch until a stage has been
    measured itself, so that the prediction knows that later stages are slower.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = tuple(stages)
        self._pixels = [stage.pixels for stage in stages]
        self._seconds: dict[int, tuple[float, int]] = {}
        self._since_report = 0.0
        self._waited = 0.0
        self._count = 0

    def add(self, iteration: int, seconds: float, waited: float) -> None:
        """Count one iteration that took ``seconds``, of which ``waited`` were spent waiting for data."""
        stage = stage_of(iteration, self._stages)
        total, count = self._seconds.get(stage, (0.0, 0))
        self._seconds[stage] = (total + seconds, count + 1)
        self._since_report += seconds
        self._waited += waited
        self._count += 1

    def report(self) -> tuple[float, float]:
        """Return iterations per second and the share of time waiting for data, both since the last report."""
        seconds = max(self._since_report, 1e-9)
        rate, share = self._count / seconds, self._waited / seconds
        self._since_report, self._waited, self._count = 0.0, 0.0, 0
        return rate, share

    def remaining(self, iteration: int) -> float:
        """Return the predicted seconds from the end of ``iteration`` to the end of the run."""
        left = 0.0
        start = 0
        for stage, iters in enumerate(stage.iters for stage in self._stages):
            todo = min(iters, start + iters - iteration)
            if todo > 0:
                left += todo * self._seconds_per_iteration(stage)
            start += iters
        return left

    def _seconds_per_iteration(self, stage: int) -> float:
        if stage in self._seconds:
            total, count = self._seconds[stage]
            return total / count
        if not self._seconds:
            return 0.0
        nearest = min(self._seconds, key=lambda measured: abs(measured - stage))
        return self._seconds_per_iteration(nearest) * self._pixels[stage] / self._pixels[nearest]


def duration(seconds: float) -> str:
    """Return ``seconds`` as ``3 days, 4:05:06``."""
    return str(timedelta(seconds=round(seconds)))


class Bar:
    """A live progress bar on a terminal; nothing in a pipe or when disabled.

    One that begins while another is shown is drawn below it, as long as it lasts.
    """

    _shown: ClassVar[Progress | None] = None

    def __init__(self, what: str, total: int, completed: int, enabled: bool) -> None:
        self._outermost = Bar._shown is None
        self._progress = Bar._shown or Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._live = enabled and self._progress.console.is_terminal
        self._task = self._progress.add_task(
            what, total=total, completed=completed, note="", visible=self._live
        )
        self._drawn = 0.0

    def __enter__(self) -> Bar:
        if self._live and self._outermost:
            self._progress.start()
            Bar._shown = self._progress
        return self

    def update(self, completed: int, note: str | None = None) -> None:
        """Show how many are ``completed``, and ``note`` from now on where one is given."""
        now = time.monotonic()
        if not self._live or (note is None and now - self._drawn < 0.1):
            return
        self._drawn = now
        self._progress.update(self._task, completed=completed)
        if note is not None:
            self._progress.update(self._task, note=note)

    def __exit__(self, *_error: object) -> None:
        if self._live and self._outermost:
            self._progress.stop()
            Bar._shown = None
        else:
            self._progress.remove_task(self._task)


def tracked(items: Iterable[T], what: str, total: int, enabled: bool) -> Iterator[T]:
    """Yield ``items``, of which there are ``total``, under a :class:`Bar`."""
    with Bar(what, total, 0, enabled) as bar:
        for completed, item in enumerate(items, start=1):
            yield item
            bar.update(completed)
