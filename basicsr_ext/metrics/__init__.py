"""Measures of a data set: ours in ``*_metric.py`` files, basicsr's and the plug-ins' through its registry.

A measure of ours is a class after :class:`Metric`. A plain function, as basicsr's are, is one for
restoration: it takes two images, HWC in 0..255, the result first, and keyword arguments (``crop_border``,
``test_y_channel``); colour images come in BGR order, which basicsr's Y conversion expects. Its mean over the
images is taken. One with an argument ``img`` but no ``img2``, basicsr's names of the two, judges the result
alone (``calculate_niqe``), and so also sets without ground truth. Imports ``config`` and ``registry``; no
torch.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

from typing_extensions import override

from ..config import Spec
from ..registry import METRICS as METRICS


class Metric(ABC):
    """A measure over a data set: a statistic of every sample in, one number out.

    Statistics are computed where the sample is; they and the measure itself are picklable, so that ranks can
    exchange them. Scores must not depend on the number of ranks: what depends on the order of summing is
    summed in the order of the samples' indices.

    Attributes:
        better: which of two results is the better one.
        needs_target: whether it compares with something; if not, :meth:`statistic` gets None for it.
    """

    better: Literal["higher", "lower"] = "higher"
    needs_target: bool = True

    @abstractmethod
    def statistic(self, prediction: Any, target: Any) -> Any:
        """Return what the result needs to know of one sample."""

    @property
    @abstractmethod
    def seen(self) -> bool:
        """Whether there was any sample."""

    @abstractmethod
    def update(self, index: int, statistic: Any) -> None:
        """Take in the statistic of sample ``index``."""

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Take in what ``other``, the same measure on another rank, has seen."""

    @abstractmethod
    def result(self) -> float:
        """Return the measure over all samples seen, of which there is one at least."""

    def improves(self, value: float, best: float | None) -> bool:
        """Say whether ``value`` beats ``best``; NaN beats nothing and is beaten by every number."""
        if math.isnan(value):
            return False
        if best is None or math.isnan(best):
            return True
        return value > best if self.better == "higher" else value < best


class Mean(Metric):
    """The mean of one number a sample, summed in the order of the samples."""

    def __init__(self) -> None:
        self._values: dict[int, float] = {}

    @property
    @override
    def seen(self) -> bool:
        return bool(self._values)

    @override
    def update(self, index: int, statistic: float) -> None:
        self._values[index] = statistic

    @override
    def merge(self, other: Mean) -> None:
        self._values |= other._values

    @override
    def result(self) -> float:
        values = [value for _, value in sorted(self._values.items())]
        return sum(values) / len(values)


class ImageMean(Mean):
    """The mean over images of a function of the restored image and its reference.

    Args:
        function: such as basicsr's ``calculate_psnr``, or ``calculate_niqe``, which takes no reference.
        kwargs: its keyword arguments.
        better: which of two values is the better one.
    """

    def __init__(
        self, function: Callable[..., float], kwargs: dict[str, Any], better: Literal["higher", "lower"]
    ) -> None:
        super().__init__()
        self.function, self.kwargs, self.better = function, kwargs, better
        self.needs_target = _needs_target(function)

    @override
    def statistic(self, prediction: Any, target: Any) -> float:
        images = (prediction, target) if self.needs_target else (prediction,)
        return float(self.function(*images, **self.kwargs))


def _needs_target(function: Callable[..., float]) -> bool:
    try:
        arguments = inspect.signature(function).parameters
    except ValueError:  # compiled code may have none
        return True
    return "img2" in arguments or "img" not in arguments


def build_metric(spec: Spec) -> Metric:
    """Return a measure that has seen nothing yet; ``better`` is ours, everything else its constructor's."""
    kwargs = spec.kwargs
    better = kwargs.pop("better", None)
    found = METRICS.find(spec.type)
    if inspect.isclass(found) and issubclass(found, Metric):
        metric = found(**kwargs)
        metric.better = better or metric.better
        return metric
    return ImageMean(found, kwargs, better or ("lower" if spec.type == "calculate_niqe" else "higher"))
