"""Ground truth and its low-quality side, as arrays: what a data set type is made of.

Images are (H, W, C) arrays: uint8, uint16, or float32 in 0..1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from typing_extensions import override

from .resize import downscale, lq_crop
from .sources import ImageSource, LazyImage
from .transforms import Conversion, Orientation


class CropPlace(NamedTuple):
    """Where a square crop lies in an upright image, in its pixels, and how it is oriented once cut."""

    top: int
    left: int
    size: int
    orientation: Orientation

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the crop."""
        return slice(self.top, self.top + self.size), slice(self.left, self.left + self.size)

    def scaled(self, scale: int) -> CropPlace:
        """Return the same place in an image ``scale`` times as large."""
        return CropPlace(self.top * scale, self.left * scale, self.size * scale, self.orientation)


class LowQuality(ABC):
    """The low-quality side of a set of pairs: stored, or made from the ground truth."""

    @abstractmethod
    def oriented_crop(
        self, index: int, gt: LazyImage, place: CropPlace, rng: np.random.Generator
    ) -> np.ndarray:
        """Return a crop, oriented like the ground truth's.

        Args:
            index: image.
            gt: the ground truth, cut to a multiple of the scale, or padded to the size of a patch; slices of
                it are read when taken.
            place: of the crop, in low-quality pixels.
            rng: decides everything random.
        """

    @abstractmethod
    def whole(self, index: int, gt: np.ndarray | None) -> np.ndarray:
        """Return the whole low-quality image, always the same one."""

    def path(self, index: int) -> str | None:
        """Return what messages call the stored image, if there is one."""
        return None

    def sizes(self, index: int) -> Sequence[tuple[str, int, int]]:
        """Return (path, height, width) of every stored image that belongs to ``index``."""
        return ()

    def recorded_sizes(self) -> Sequence[np.ndarray]:
        """Return :meth:`.ImageSource.recorded_sizes` of every stored image that belongs to a pair."""
        return ()


@dataclass(frozen=True)
class StoredLQ(LowQuality):
    """Low-quality images that are stored; several views of an image are joined along the channels."""

    views: Sequence[ImageSource]
    scale: int

    @override
    def oriented_crop(
        self, index: int, gt: LazyImage, place: CropPlace, rng: np.random.Generator
    ) -> np.ndarray:
        expected = gt.stored[0] // self.scale, gt.stored[1] // self.scale
        crops = []
        for view in self.views:
            image = LazyImage(view, index, least=place.size)
            if image.stored != expected:
                raise ValueError(
                    f"{view.path(index)} has {in_pixels(*image.stored)}, expected {in_pixels(*expected)}:"
                    f" the ground truth's divided by {self.scale}"
                )
            crops.append(image[place.window])
        return place.orientation.apply(_joined(crops))

    @override
    def whole(self, index: int, gt: np.ndarray | None) -> np.ndarray:
        return _joined([view.read(index) for view in self.views])

    @override
    def path(self, index: int) -> str:
        return self.views[0].path(index)

    @override
    def sizes(self, index: int) -> Sequence[tuple[str, int, int]]:
        return [(view.path(index), *view.size(index)) for view in self.views]

    @override
    def recorded_sizes(self) -> Sequence[np.ndarray]:
        return [view.recorded_sizes() for view in self.views]


@dataclass(frozen=True)
class BicubicLQ(LowQuality):
    """Ground truth shrunk by MATLAB's antialiased bicubic, on the fly."""

    scale: int

    @override
    def oriented_crop(
        self, index: int, gt: LazyImage, place: CropPlace, rng: np.random.Generator
    ) -> np.ndarray:
        return place.orientation.apply(lq_crop(gt, place.top, place.left, place.size, self.scale))

    @override
    def whole(self, index: int, gt: np.ndarray | None) -> np.ndarray:
        assert gt is not None
        return downscale(gt, self.scale)


@dataclass(frozen=True)
class ImagePairs:
    """Ground truth and its low-quality side.

    Args:
        gt: ground truth; without it only whole low-quality images can be had.
        lq: the low-quality side.
        names: of the images, for files of results.
        scale: side of ground truth over side of low quality.
        convert: colour and normalisation of both sides.
    """

    gt: ImageSource | None
    lq: LowQuality
    names: Sequence[str]
    scale: int
    convert: Conversion


def in_pixels(height: int, width: int) -> str:
    """Return a size in words, for messages."""
    return f"{height}x{width} pixels"


def _joined(views: Sequence[np.ndarray]) -> np.ndarray:
    return views[0] if len(views) == 1 else np.concatenate(views, axis=2)
