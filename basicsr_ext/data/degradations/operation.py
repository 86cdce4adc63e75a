"""One step of a chain with its parameters drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..transforms import to_unit

Run = Callable[[np.ndarray, tuple[int, int], np.random.Generator], np.ndarray]
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Operation:
    """What a step does to one sample.

    Args:
        run: takes an image (H, W, C) or a window of it, the place (row, column) in it of the first pixel
            that is wanted, and the generator of noise fields; returns (H / scale, W / scale, C).
        scale: input side over output side.
        margin: input pixels beyond an output pixel's own that it depends on. A window's edge that is
            not the image's spoils no more than these.
        block: the input is worked on in square blocks of this side, counted from its first pixel.
    """

    run: Run
    scale: int = 1
    margin: int = 0
    block: int = 1


def on_floats(function: Callable[[np.ndarray], np.ndarray]) -> Run:
    """Return the ``run`` of a function of one float32 image that needs neither place nor noise."""
    return lambda image, corner, rng: function(to_unit(image))


def uniform(rng: np.random.Generator, bounds: Bounds, size: int | None = None) -> np.ndarray:
    """Draw float64 values between two bounds; an array without axes unless ``size`` is given."""
    return np.asarray(rng.uniform(*bounds, size))


def whole_number(rng: np.random.Generator, bounds: Bounds, step: int = 1) -> int:
    """Draw one of low, low + step, ... up to high, which are equally likely."""
    low, high = int(bounds[0]), int(bounds[1])
    return low + step * int(rng.integers((high - low) // step + 1))


def choose(rng: np.random.Generator, items: list[str], weights: list[float] | None = None) -> str:
    """Draw one of ``items``; without weights all are equally likely."""
    shares = None if weights is None else np.asarray(weights, np.float64) / sum(weights)
    return items[int(rng.choice(len(items), p=shares))]
