"""What happens to a crop: orientation, colour, normalisation.

Images are (H, W, C) arrays: uint8, uint16, or float32 in 0..1. Everything random is drawn from the
generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from .images import grey

Color = Literal["rgb", "y", "gray", "matlab_gray"]

# ITU-R BT.601 luma of R, G, B in 0..1, in 0..255 units with foot room: basicsr's bgr2ycbcr.
_LUMA = np.array([65.481, 128.553, 24.966])
_LUMA_OFFSET = 16.0


def random_corner(rng: np.random.Generator, height: int, width: int, size: int) -> tuple[int, int]:
    """Draw (top, left) of a ``size`` x ``size`` crop of an image, every place being equally likely."""
    return int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))


@dataclass(frozen=True)
class Orientation:
    """One of a square's eight orientations: flips first, then rows and columns exchanged."""

    hflip: bool = False
    vflip: bool = False
    transpose: bool = False

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return ``image`` (H, W, C), oriented; it may share memory."""
        if image.shape[2] == 3:
            # NumPy would copy a mirrored view of three channels value by value.
            if self.hflip or self.vflip:
                image = cv2.flip(image, -1 if self.hflip and self.vflip else int(self.hflip))
            return cv2.transpose(image) if self.transpose else image
        if self.hflip:
            image = image[:, ::-1]
        if self.vflip:
            image = image[::-1]
        return image.transpose(1, 0, 2) if self.transpose else image

    def corner(self, top: int, left: int, size: int, height: int, width: int) -> tuple[int, int]:
        """Return (top, left), in the oriented image, of the square at (top, left) of a height x width one."""
        if self.hflip:
            left = width - left - size
        if self.vflip:
            top = height - top - size
        return (left, top) if self.transpose else (top, left)

    def source_window(self, rows: slice, columns: slice, height: int, width: int) -> tuple[slice, slice]:
        """Return the rows and columns of a height x width image that become those of the oriented one."""
        if self.transpose:
            rows, columns = columns, rows
        if self.hflip:
            columns = slice(width - columns.stop, width - columns.start)
        if self.vflip:
            rows = slice(height - rows.stop, height - rows.start)
        return rows, columns


def random_orientation(rng: np.random.Generator, *, hflip: bool, rotate: bool) -> Orientation:
    """Draw an orientation as BasicSR does: ``rotate`` allows vertical flips and transposition.

    With both allowed, all eight are equally likely: Restormer's geometric augmentation.
    """
    coins = rng.integers(2, size=3)
    return Orientation(bool(hflip and coins[0]), bool(rotate and coins[1]), bool(rotate and coins[2]))


def to_unit(image: np.ndarray) -> np.ndarray:
    """Return ``image`` as float32; integer types are divided by their largest value."""
    if image.dtype == np.float32:
        return image
    unit = image.astype(np.float32)
    unit /= np.float32(np.iinfo(image.dtype).max)
    return unit


def luma(image: np.ndarray) -> np.ndarray:
    """Return the Y channel of an RGB image, (H, W, 1) float32, 16/255 to 235/255, as basicsr computes it."""
    y = to_unit(image).astype(np.float64) @ _LUMA + _LUMA_OFFSET
    return (y / 255.0).astype(np.float32)[..., None]


def matlab_grey(image: np.ndarray) -> np.ndarray:
    """Return the Y channel of an (H, W, 3) RGB image as MATLAB's rgb2ycbcr does: (H, W, 1), integers rounded.

    8-bit values lie in 16..235, where OpenCV's grey has 0..255.
    """
    if image.dtype == np.float32:
        return luma(image)
    peak = np.iinfo(image.dtype).max
    y = image.astype(np.float64) @ _LUMA / peak + _LUMA_OFFSET
    return np.rint(y * (peak / 255)).astype(image.dtype)[..., None]


GREYS: Mapping[str | None, Callable[[np.ndarray], np.ndarray]] = {"gray": grey, "matlab_gray": matlab_grey}
"""From a value of option ``color`` to what makes an image grey before anything else is done to it."""


@dataclass(frozen=True)
class Conversion:
    """From an image to a contiguous (C, H, W) float32 array: in 0..1, then normalised.

    Args:
        color: ``"y"``, ``"gray"`` or ``"matlab_gray"`` reduce RGB to one channel first.
        mean: subtracted per channel.
        std: divides per channel, after the mean is subtracted.

    ``mean`` and ``std`` are repeated where an image has a multiple of their channels (two RGB views).
    """

    color: Color | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Convert ``image``.

        Raises:
            ValueError: ``mean`` or ``std`` does not fit the number of channels.
        """
        return to_unit(self.compact(image))

    def compact(self, image: np.ndarray) -> np.ndarray:
        """Convert ``image``, but leave integers undivided where nothing has needed them as floats.

        Raises:
            ValueError: ``mean`` or ``std`` does not fit the number of channels.
        """
        if self.color == "y":
            image = luma(image)
        elif to_grey := GREYS.get(self.color):
            image = to_grey(image)
        # Before the division: bytes are cheaper to rearrange than floats.
        planes = _planes(image)
        if self.mean is not None:
            planes = to_unit(planes) - _per_channel(self.mean, len(planes), "mean")
        if self.std is not None:
            planes = to_unit(planes) / _per_channel(self.std, len(planes), "std")
        return planes


def _planes(image: np.ndarray) -> np.ndarray:
    """Return (H, W, C) as a contiguous (C, H, W) copy."""
    planes = np.empty((image.shape[2], *image.shape[:2]), image.dtype)
    cv2.split(image, list(planes))
    return planes


def _per_channel(values: Sequence[float], channels: int, key: str) -> np.ndarray:
    if channels % len(values):
        raise ValueError(f"{key} has {len(values)} values for images of {channels} channels")
    return np.tile(np.array(values, np.float32), channels // len(values)).reshape(-1, 1, 1)
