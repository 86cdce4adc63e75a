"""Steps one after the other, on whole images or on just the pixels that a crop needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from zlib import crc32

import numpy as np
from typing_extensions import override

from ..pairs import CropPlace, LowQuality
from ..sampling import Purpose, sample_rng
from ..sources import LazyImage
from ..transforms import Orientation
from .operation import Operation
from .steps import AnyStep, ShrinkingStep

IDENTITY = Orientation()


@dataclass(frozen=True)
class Chain:
    """Steps whose shrinking ones all have a scale; applied in order."""

    steps: tuple[AnyStep, ...]

    @property
    def scale(self) -> int:
        """Side of the ground truth over side of the low quality."""
        return prod(step.scale or 1 for step in self.steps if isinstance(step, ShrinkingStep))

    def whole(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the low quality of a whole image, whose sides are multiples of the scale."""
        for operation in self._draw(rng):
            image = operation.run(image, (0, 0), rng)
        return image

    def crop(
        self,
        image: np.ndarray | LazyImage,
        top: int,
        left: int,
        size: int,
        rng: np.random.Generator,
        orientation: Orientation = IDENTITY,
    ) -> np.ndarray:
        """Return the ``size`` x ``size`` crop at (top, left) of the low quality, in its pixels.

        The same generator gives the crop of :meth:`whole`, as far as the steps allow.

        Args:
            image: whole; one window of it is read.
            top: first row of the crop in the oriented low-quality image.
            left: first column of the crop, likewise.
            size: of the crop.
            rng: decides everything.
            orientation: of the image, given to it before it is degraded.
        """
        operations = self._draw(rng)
        height, width = image.shape[:2]
        extents = [(width, height) if orientation.transpose else (height, width)]
        for operation in operations:
            extents.append((extents[-1][0] // operation.scale, extents[-1][1] // operation.scale))
        # From the last step back to the image: what each one needs, and where in it the crop begins.
        wanted, corner, plan = _Window(top, left, top + size, left + size), (top, left), []
        for operation, extent in zip(reversed(operations), reversed(extents[:-1]), strict=True):
            source = wanted.source(operation, extent)
            corner = corner[0] * operation.scale, corner[1] * operation.scale
            plan.append((operation, source, corner, wanted))
            wanted = source
        pixels = orientation.apply(
            image[orientation.source_window(wanted.rows, wanted.columns, height, width)]
        )
        for operation, source, corner, wanted in reversed(plan):
            pixels = operation.run(pixels, (corner[0] - source.top, corner[1] - source.left), rng)
            pixels = wanted.cut(pixels, source.top // operation.scale, source.left // operation.scale)
        return pixels

    def _draw(self, rng: np.random.Generator) -> list[Operation]:
        return [step.drawn(rng) for step in self.steps]


@dataclass(frozen=True)
class _Window:
    """A rectangle of an image, in pixels; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int

    def source(self, operation: Operation, extent: tuple[int, int]) -> _Window:
        """Return the part of an input of ``extent`` that ``operation`` needs to make this part."""
        rows = _source(self.top, self.bottom, operation, extent[0])
        columns = _source(self.left, self.right, operation, extent[1])
        return _Window(rows[0], columns[0], rows[1], columns[1])

    def cut(self, pixels: np.ndarray, top: int, left: int) -> np.ndarray:
        """Return this part of ``pixels``, whose first one lies at (top, left)."""
        return pixels[self.top - top : self.bottom - top, self.left - left : self.right - left]

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)


def _source(start: int, stop: int, operation: Operation, extent: int) -> tuple[int, int]:
    unit = operation.scale * operation.block
    first = (start * operation.scale - operation.margin) // unit * unit
    last = -(-(stop * operation.scale + operation.margin) // unit) * unit
    return max(0, first), min(extent, last)


@dataclass(frozen=True)
class DegradedLQ(LowQuality):
    """Ground truth degraded by a chain.

    Crops are oriented first and degraded then: degradations have a direction of their own, as rain, which
    falls downwards however the photograph is oriented. A whole image always gets the same degradation,
    decided by its name.
    """

    chain: Chain
    names: Sequence[str]

    @override
    def oriented_crop(
        self, index: int, gt: LazyImage, place: CropPlace, rng: np.random.Generator
    ) -> np.ndarray:
        height, width = (side // self.chain.scale for side in gt.shape)
        top, left = place.orientation.corner(place.top, place.left, place.size, height, width)
        return self.chain.crop(gt, top, left, place.size, rng, place.orientation)

    @override
    def whole(self, index: int, gt: np.ndarray | None) -> np.ndarray:
        assert gt is not None
        return self.chain.whole(gt, sample_rng(0, crc32(self.names[index].encode()), Purpose.EVALUATION))
