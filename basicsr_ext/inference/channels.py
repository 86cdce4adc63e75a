"""From a picture to what a network takes, and from what it gives back to a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..data.images import ImageError
from ..data.resize import upscale
from ..data.transforms import GREYS, Color, luma
from .pictures import Picture

_ROWS = 64
_FULL_RANGE = 255 / 219
"""Of grey values over that of MATLAB's Y, which leaves foot and head room."""


def to_channels(views: Sequence[Picture], channels: int, color: Color | None) -> np.ndarray:
    """Return (H, W, channels) for a network.

    Grey pictures are repeated to three channels. Colour is reduced to one channel as in training: to MATLAB's
    Y for ``y`` (float32) and ``matlab_gray`` (rounded), else to OpenCV's grey.

    Args:
        views: one picture; for dual-pixel networks two, left view first.
        channels: of the network's image.
        color: ``color`` of the data set that the network was trained on.

    Raises:
        ImageError: a picture cannot be given to a network of so many channels, or two are not of one size.
    """
    if channels == 3 * len(views):
        colours = [np.repeat(view.pixels, 3, 2) if view.is_grey else view.pixels for view in views]
        if any(part.shape != colours[0].shape or part.dtype != colours[0].dtype for part in colours):
            raise ImageError("left and right view differ in size or depth")
        return colours[0] if len(colours) == 1 else np.concatenate(colours, 2)
    if len(views) != 1:
        raise ImageError(f"two views are 6 channels, the network takes {channels}")
    pixels = views[0].pixels
    if channels == 6:
        raise ImageError(
            "the network takes two views of a dual-pixel camera; name the right ones with --right"
        )
    if channels != 1:
        raise ImageError(f"a picture has 1 or 3 channels, the network takes {channels}")
    if color == "y":
        return luma(np.repeat(pixels, 3, 2) if views[0].is_grey else pixels)
    if views[0].is_grey:
        return pixels
    return GREYS.get(color, GREYS["gray"])(pixels)


def to_picture(restored: np.ndarray, source: Picture, color: Color | None, scale: int) -> Picture:
    """Return a network's result (H * scale, W * scale, C) as a picture with all that ``source`` holds.

    A grey picture gives a grey one, and so does a network of one channel; but of one that was trained on Y,
    colours are those of the bicubically enlarged source. Alpha is enlarged bicubically.

    Raises:
        ImageError: the network gave neither 1 nor 3 channels.
    """
    if restored.shape[2] not in (1, 3):
        raise ImageError(f"the network gave {restored.shape[2]} channels, a picture has 1 or 3")
    if color == "y" and restored.shape[2] == 1:
        pixels = _with_luma(upscale(source.pixels, scale), restored)
    elif source.is_grey and restored.shape[2] == 3:
        pixels = _mean(restored)
    else:
        pixels = restored
    alpha = None if source.alpha is None else upscale(source.alpha, scale)
    return Picture(pixels, alpha, source.icc, source.exif)


def _with_luma(enlarged: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return ``enlarged`` with the Y (H, W, 1) in 16/255..235/255; Cb and Cr stay.

    Where they do, red, green and blue change by the same amount.
    """
    peak = np.iinfo(enlarged.dtype).max
    result = np.empty_like(enlarged)
    for start in range(0, len(enlarged), _ROWS):
        rows = slice(start, start + _ROWS)
        before = enlarged[rows]
        change = y[rows] - luma(np.repeat(before, 3, 2) if before.shape[2] == 1 else before)
        values = before + change.astype(np.float64) * (_FULL_RANGE * peak)
        result[rows] = np.rint(values.clip(0, peak))
    return result


def _mean(image: np.ndarray) -> np.ndarray:
    """Return the mean (H, W, 1) of the channels of integers, rounded."""
    result = np.empty((*image.shape[:2], 1), image.dtype)
    for start in range(0, len(image), _ROWS):
        rows = slice(start, start + _ROWS)
        result[rows] = np.rint(image[rows].mean(2, keepdims=True))
    return result
