"""Finished and running trainings as one HTML page that needs nothing else: :func:`write_report`.

``runs.py`` reads what lies in a run's folder, ``page.py`` makes the page of it; ``vendor/`` has the chart and
slider components of others. This package imports nothing of ``engine``, which calls it at a training's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files import write_atomically
from .page import page_of
from .runs import NoRunError as NoRunError
from .runs import read_run


def write_report(folders: Sequence[Path], target: Path) -> None:
    """Write the page about one run, or several side by side.

    Args:
        folders: of the runs, ``experiments/NAME``.
        target: the HTML file.

    Raises:
        NoRunError: a folder holds none.
        OSError: the page cannot be written.
    """
    runs = [read_run(folder, points=4000 // len(folders)) for folder in folders]
    write_atomically(target, page_of(runs).encode(), durable=False)
