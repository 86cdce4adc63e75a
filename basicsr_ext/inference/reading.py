"""Networks that say something of pictures instead of restoring them, such as what they show."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..files import write_atomically
from .pictures import Picture

TABLES = (".csv", ".json")
"""Suffixes of the files that :func:`write_table` writes."""


@dataclass(frozen=True)
class Reading:
    """What a network says of one picture.

    Attributes:
        text: for the terminal, one line.
        row: for a table, by column.
    """

    text: str
    row: Mapping[str, str | int | float]


class PictureReader(Protocol):
    """What a kind of training makes of pictures."""

    def prepare(self, picture: Picture) -> np.ndarray:
        """Return what the network takes of a picture; those of one shape become a batch. Threads call it."""
        ...

    def read(self, batch: Tensor) -> Sequence[Reading]:
        """Return what the network says of each picture of a batch of what :meth:`prepare` gave."""
        ...


@dataclass(frozen=True)
class ReadingWorker:
    """Gives pictures to a reader.

    Attributes:
        reader: of which kind.
        device: where its network is.
        batch: pictures that are given to it at once.
        precision: of the network's arithmetic, by autocast; None: its weights'.
    """

    reader: PictureReader
    device: torch.device
    batch: int = 1
    precision: torch.dtype | None = None

    def prepare(self, views: Sequence[Picture]) -> np.ndarray:
        """Return what the network takes."""
        (picture,) = views
        return self.reader.prepare(picture)

    @torch.inference_mode()
    def run(self, images: np.ndarray, progress: Callable[[float], None]) -> Iterable[Reading]:
        """Return what is said of each image."""
        in_precision = (
            nullcontext() if self.precision is None else torch.autocast(self.device.type, self.precision)
        )
        with in_precision:
            readings = self.reader.read(torch.from_numpy(images).to(self.device))
        progress(1)
        return readings


def write_table(path: Path, rows: Iterable[tuple[str, Reading]]) -> None:
    """Write what was said of each file: ``filename`` and the readings' columns, as CSV or as JSON records.

    Raises:
        OSError: it cannot be written.
    """
    records: list[dict[str, Any]] = [{"filename": name, **reading.row} for name, reading in rows]
    if path.suffix.lower() == ".json":
        write_atomically(path, (json.dumps(records, indent=1) + "\n").encode())
        return
    columns = list(dict.fromkeys(column for record in records for column in record)) or ["filename"]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))
