"""Overlap of segmented volumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from . import METRICS, Metric

if TYPE_CHECKING:
    from torch import Tensor

Counts = tuple[str, int, int, int]
"""Class, and voxels that are true positives, false positives, false negatives."""


class Overlap(Metric):
    """A measure of each volume's overlap, averaged over the volumes of a class, then over the classes.

    Args:
        organ: the only class that counts; default: all.
    """

    def __init__(self, organ: str | None = None) -> None:
        self.organ = organ
        self._counts: dict[int, Counts] = {}

    @override
    def statistic(self, prediction: Tensor, target: tuple[str, Tensor]) -> Counts:
        """Return the class and its voxels.

        Args:
            prediction: (D, H, W), bool.
            target: the class, and where it is, likewise.

        Raises:
            ValueError: shapes differ, or there is nothing to find.
        """
        organ, label = target
        if prediction.shape != label.shape:
            raise ValueError(
                f"found {list(prediction.shape)} voxels, expected {list(label.shape)} of {organ}"
            )
        hits = int((prediction & label).sum())
        found, there = int(prediction.sum()), int(label.sum())
        if not there:
            raise ValueError(f"the volume's label shows no {organ}: its overlap is not defined")
        return organ, hits, found - hits, there - hits

    @property
    @override
    def seen(self) -> bool:
        return any(self.organ in (None, organ) for organ, *_ in self._counts.values())

    @override
    def update(self, index: int, statistic: Counts) -> None:
        self._counts[index] = statistic

    @override
    def merge(self, other: Overlap) -> None:
        self._counts |= other._counts

    @override
    def result(self) -> float:
        organs: dict[str, list[float]] = {}
        for _, (organ, *counts) in sorted(self._counts.items()):
            if self.organ in (None, organ):
                organs.setdefault(organ, []).append(self.of_volume(*counts))
        return sum(sum(values) / len(values) for values in organs.values()) / len(organs)

    @staticmethod
    def of_volume(hits: int, excess: int, missed: int) -> float:
        """Return the overlap of a volume in 0..1, given its true and false positives and false negatives."""
        raise NotImplementedError


@METRICS.register()
class Dice(Overlap):
    """Twice the overlap over the sum of both volumes, 0..1; by class, or the mean over classes."""

    @staticmethod
    @override
    def of_volume(hits: int, excess: int, missed: int) -> float:
        return 2 * hits / (2 * hits + excess + missed)


@METRICS.register()
class IoU(Overlap):
    """Overlap over union, 0..1; by class, or the mean over classes."""

    @staticmethod
    @override
    def of_volume(hits: int, excess: int, missed: int) -> float:
        return hits / (hits + excess + missed)
