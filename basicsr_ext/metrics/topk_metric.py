"""Top-k accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from . import METRICS, Metric

if TYPE_CHECKING:
    from torch import Tensor


@METRICS.register()
class TopKAccuracy(Metric):
    """Percentage of images whose class is among the k likeliest.

    Args:
        k: how many guesses an image.
    """

    def __init__(self, k: int = 1) -> None:
        self.k = k
        self._counts: dict[int, tuple[int, int]] = {}

    @override
    def statistic(self, prediction: Tensor, target: Tensor) -> tuple[int, int]:
        """Return how many of the images are right, and how many there are.

        Args:
            prediction: scores (n, classes).
            target: classes (n).
        """
        guesses = prediction.topk(min(self.k, prediction.shape[1]), dim=1).indices
        return int((guesses == target[:, None]).any(1).sum()), len(target)

    @property
    @override
    def seen(self) -> bool:
        return bool(self._counts)

    @override
    def update(self, index: int, statistic: tuple[int, int]) -> None:
        self._counts[index] = statistic

    @override
    def merge(self, other: TopKAccuracy) -> None:
        self._counts |= other._counts

    @override
    def result(self) -> float:
        right, images = (sum(counts) for counts in zip(*self._counts.values(), strict=True))
        return 100 * right / images
