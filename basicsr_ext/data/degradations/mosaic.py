"""What a Bayer colour filter array lets through (Bayer, US patent 3,971,065)."""

from __future__ import annotations

from typing import ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field
from typing_extensions import override

from ...registry import DEGRADATIONS
from ..transforms import to_unit
from .operation import Operation
from .steps import Step

# Bilinear interpolation of a channel that lies on every other row and column, and of one that lies on
# a checkerboard. Mirroring without repeating the edge keeps the pattern going beyond the border.
_SPARSE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 4
_CHECKERED = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32) / 4
# Malvar, He and Cutler (ICASSP 2004), figure 2: green at red or blue; red or blue at a green pixel that has
# it on both sides; red at blue or blue at red. Each corrects the bilinear value by the second derivative of
# the pixel's own colour.
_GREEN = np.array(
    [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]], np.float32
)
_BESIDE = np.array(
    [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]],
    np.float32,
)
_ACROSS = np.array(
    [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]],
    np.float32,
)
_MARGINS = {"raw": 0, "bilinear": 1, "malvar": 2}


@DEGRADATIONS.register("mosaic")
class Mosaic(Step):
    """What a colour filter array lets through."""

    colour_only: ClassVar[bool] = True

    pattern: Literal["RGGB", "BGGR", "GRBG", "GBRG"] = Field(
        default="RGGB", description="Colours of the top-left 2x2 pixels, row by row."
    )
    output: Literal["bilinear", "malvar", "raw"] = Field(
        default="bilinear",
        description="Missing values interpolated, bilinearly or as by MATLAB's demosaic, unrounded; or zero.",
    )

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return sampling one colour a pixel; the pattern starts at the first pixel that is wanted.

        So every crop of a training set has the same pattern as a whole image, wherever it was cut.
        """

        def sample(image: np.ndarray, corner: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
            if image.shape[2] != 3:
                raise ValueError("a mosaic needs colour images")
            raw = mosaic(to_unit(image), self.pattern, corner)
            if self.output == "raw":
                return raw
            return bilinear(raw) if self.output == "bilinear" else malvar(raw, self.pattern, corner)

        return Operation(sample, margin=_MARGINS[self.output])


def mosaic(image: np.ndarray, pattern: str, corner: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Return what a colour filter array leaves of an image.

    Args:
        image: (H, W, 3) RGB, float32.
        pattern: colours of the 2x2 pixels at ``corner``, row by row, such as ``RGGB``.
        corner: where the pattern starts; it goes on in all directions.

    Returns:
        (H, W, 3): each channel where the array has its colour, zero elsewhere.
    """
    result = np.zeros_like(image)
    for place, colour in enumerate(pattern):
        pixels, channel = _pixels(place, corner), "RGB".index(colour)
        result[pixels][..., channel] = image[pixels][..., channel]
    return result


def bilinear(raw: np.ndarray) -> np.ndarray:
    """Fill the gaps of a :func:`mosaic` with the mean of the nearest pixels that have the colour."""
    planes = zip(raw.transpose(2, 0, 1), (_SPARSE, _CHECKERED, _SPARSE), strict=True)
    return np.stack([_filtered(plane, kernel) for plane, kernel in planes], axis=2)


def malvar(raw: np.ndarray, pattern: str, corner: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Fill the gaps of a :func:`mosaic` by gradient-corrected linear interpolation.

    The method of Malvar, He and Cutler (ICASSP 2004) and of MATLAB's ``demosaic``, which also rounds.

    Args:
        raw: (H, W, 3), float32, zero where a pixel lacks a channel.
        pattern: as for :func:`mosaic`.
        corner: as for :func:`mosaic`.

    Returns:
        (H, W, 3), float32; values may lie a little outside the range of ``raw``.
    """
    values, result = raw.sum(axis=2), raw.copy()
    green, sides, above, across = (
        _filtered(values, kernel / 8) for kernel in (_GREEN, _BESIDE, _BESIDE.T, _ACROSS)
    )
    for place, colour in enumerate(pattern):
        # Of the 2x2 pixels, the one in the same row and the one in the same column.
        beside, below = pattern[place ^ 1], pattern[place ^ 2]
        if colour == "G":
            missing = {beside: sides, below: above}
        else:
            missing = {"G": green, "RB".replace(colour, ""): across}
        pixels = _pixels(place, corner)
        for channel, plane in missing.items():
            result[pixels][..., "RGB".index(channel)] = plane[pixels]
    return result


def _pixels(place: int, corner: tuple[int, int]) -> tuple[slice, slice]:
    """Return the pixels that are number ``place`` of the 2x2 of a pattern that starts at ``corner``."""
    return slice((corner[0] + place // 2) % 2, None, 2), slice((corner[1] + place % 2) % 2, None, 2)


def _filtered(plane: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return cv2.filter2D(np.ascontiguousarray(plane), -1, kernel, borderType=cv2.BORDER_REFLECT_101)
