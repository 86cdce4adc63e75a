"""What an earlier run has finished: a list of results in their folder, by which a rerun skips them.

One JSON object a line says of which file, by which network and with which settings a result was made. Lines
are written before the results are; one counts as long as a result of that size is there, and its source is
what it was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

NAME = ".restored.jsonl"


class Record:
    """The finished results of one folder.

    Args:
        folder: of the results.
        made_by: says all that decides what a result is, besides its source.
    """

    def __init__(self, folder: Path, made_by: str) -> None:
        self._folder, self._made_by = folder, made_by
        self._lines = {line["result"]: line for line in _lines(folder)}
        self._lock = Lock()

    def holds(self, result: Path) -> bool:
        """Say whether ``result`` was made by a run."""
        return self._name(result) in self._lines

    def finished(self, result: Path, sources: list[Path]) -> bool:
        """Say whether ``result`` is whole, and what the present run would make of ``sources``."""
        line = self._lines.get(self._name(result))
        try:
            return line is not None and line == self._line(result, result.stat().st_size, sources)
        except OSError:
            return False

    def add(self, result: Path, size: int, sources: list[Path]) -> None:
        """Write down that ``result``, of ``size`` bytes, is about to be written; any thread may."""
        line = self._line(result, size, sources)
        self._folder.mkdir(parents=True, exist_ok=True)
        # The newline comes first: it ends a line that a killed run has left unfinished.
        with self._lock, (self._folder / NAME).open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps(line))
            self._lines[line["result"]] = line

    def _line(self, result: Path, size: int, sources: list[Path]) -> dict[str, Any]:
        states = [(path.resolve(), path.stat()) for path in sources]
        return {
            "result": self._name(result),
            "size": size,
            "sources": [[str(path), state.st_size, state.st_mtime_ns] for path, state in states],
            "made_by": self._made_by,
        }

    def _name(self, result: Path) -> str:
        return result.relative_to(self._folder).as_posix()


def results_in(folder: Path) -> set[Path]:
    """Return the results that earlier runs have written to ``folder``, as resolved paths."""
    return {(folder / line["result"]).resolve() for line in _lines(folder)}


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    try:
        text = (folder / NAME).read_text(encoding="utf-8")
    except OSError:
        return
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue  # the end of a run that was killed
        if isinstance(value, dict) and isinstance(value.get("result"), str):
            yield value
