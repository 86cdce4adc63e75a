"""Synthetic rain, a stand-in for the pairs that EDT's deraining networks are trained and tested on.

Those are Rain100L and Rain100H (Yang et al., arXiv:1609.07769): rendered streaks, grey, added to the
image. Ours are grey and additive as well; their number, length, width and brightness are fitted to
eight rainy images of each with their clean originals, so that PSNR between the two, the share of
pixels hit and the streaks' extent agree on average. The renderer's drop shapes are not reproduced:
numbers to be compared with published ones need the published pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field
from typing_extensions import override

from ...config.values import PositiveInt, interval
from ...registry import DEGRADATIONS
from ..transforms import to_unit
from .blur import path
from .operation import Bounds, Operation, uniform
from .steps import NonNegativeRange, Step

_JITTER = math.radians(3)
"""Streaks of different layers differ in direction by this, one standard deviation."""


@dataclass(frozen=True)
class _Kind:
    """Ranges that a layer's values are drawn from; ``angle`` is the whole image's."""

    layers: int
    density: Bounds
    length: Bounds
    width: Bounds
    brightness: Bounds
    angle: Bounds = (-20.0, 20.0)


_KINDS = {
    "light": _Kind(2, density=(10, 25), length=(8, 40), width=(0.5, 0.8), brightness=(0.25, 0.55)),
    "heavy": _Kind(5, density=(15, 60), length=(10, 60), width=(0.5, 0.8), brightness=(0.3, 0.6)),
}


@dataclass(frozen=True)
class _Layer:
    """Streaks of one shape: their chance at a pixel, peak brightness, and the shape, whose peak is 1."""

    chance: float
    brightness: float
    shape: np.ndarray


@DEGRADATIONS.register("rain")
class Rain(Step):
    """Synthetic rain streaks; keys left out are the kind's."""

    kind: Literal["light", "heavy"] = "light"
    density: NonNegativeRange | None = Field(
        default=None, description="Streaks of a layer per 10,000 pixels."
    )
    length: Annotated[tuple[float, float], interval(1, 255)] | None = Field(
        default=None, description="Of a layer's streaks, in pixels."
    )
    width: Annotated[tuple[float, float], interval(0.3, 16)] | None = Field(
        default=None, description="Standard deviation across a layer's streaks, in pixels."
    )
    angle: Annotated[tuple[float, float], interval(-90, 90)] | None = Field(
        default=None, description="Degrees from vertical, of the whole image."
    )
    brightness: NonNegativeRange | None = Field(
        default=None, description="Peak of the brightest streaks of a layer; 1: white."
    )
    layers: PositiveInt | None = Field(default=None, description="Superimposed layers.")

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return added streaks, clipped at white; where they fall is drawn for the crop."""
        kind = _KINDS[self.kind]
        angle = math.radians(float(uniform(rng, self.angle or kind.angle)))
        layers = [_draw_layer(self, kind, angle, rng) for _ in range(self.layers or kind.layers)]

        def add(image: np.ndarray, corner: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
            light = sum(_streaks(layer, image.shape[:2], rng) for layer in layers)
            return np.minimum(to_unit(image) + np.asarray(light)[..., None], np.float32(1.0))

        return Operation(add)


def _draw_layer(step: Rain, kind: _Kind, angle: float, rng: np.random.Generator) -> _Layer:
    density = float(uniform(rng, step.density or kind.density))
    length = float(uniform(rng, step.length or kind.length))
    width = float(uniform(rng, step.width or kind.width))
    brightness = float(uniform(rng, step.brightness or kind.brightness))
    direction = math.pi / 2 + angle + float(rng.normal(0.0, _JITTER))
    reach = math.ceil(3 * width)
    line = np.pad(path(length, direction), reach)
    shape = cv2.GaussianBlur(line, (2 * reach + 1, 2 * reach + 1), width)
    return _Layer(density / 1e4, brightness, (shape / shape.max()).astype(np.float32))


def _streaks(layer: _Layer, extent: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return one layer's light, (H, W) float32; most drops are dim, a few reach the layer's brightness."""
    down, right = (side // 2 for side in layer.shape.shape)
    field = (extent[0] + 2 * down, extent[1] + 2 * right)
    drops = np.zeros(field, np.float32)
    number = rng.poisson(layer.chance * field[0] * field[1])
    places = rng.integers(field[0], size=number), rng.integers(field[1], size=number)
    np.add.at(drops, places, (layer.brightness * rng.random(number) ** 2).astype(np.float32))
    return cv2.filter2D(drops, -1, layer.shape)[down : down + extent[0], right : right + extent[1]]
