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


@DEGRADATIONS.register("mosaic")
class Mosaic(Step):
    """What a colour filter array lets through."""

    colour_only: ClassVar[bool] = True

    pattern: Literal["RGGB", "BGGR", "GRBG", "GBRG"] = Field(
        default="RGGB", description="Colours of the top-left 2x2 pixels, row by row."
    )
    output: Literal["bilinear", "raw"] = Field(
        default="bilinear", description="Missing values interpolated, or zero."
    )

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return sampling one colour a pixel; the pattern starts at the first pixel that is wanted.

        So every crop of a training set has the same pattern as a whole image, wherever it was cut.
        """

        def sample(image: np.ndarray, corner: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
            if image.shape[2] != 3:
                raise ValueError("a mosaic needs colour images")
            return mosaic(to_unit(image), self.pattern, corner, interpolate=self.output == "bilinear")

        return Operation(sample, margin=1 if self.output == "bilinear" else 0)


def mosaic(
    image: np.ndarray, pattern: str, corner: tuple[int, int] = (0, 0), *, interpolate: bool
) -> np.ndarray:
    """Return what a colour filter array leaves of an image.

    Args:
        image: (H, W, 3) RGB, float32.
        pattern: colours of the 2x2 pixels at ``corner``, row by row, such as ``RGGB``.
        corner: where the pattern starts; it goes on in all directions.
        interpolate: fill the gaps bilinearly; otherwise they are zero.

    Returns:
        (H, W, 3): each channel where the array has its colour, and the gaps.
    """
    result = np.zeros_like(image)
    for place, colour in enumerate(pattern):
        row, column = (corner[0] + place // 2) % 2, (corner[1] + place % 2) % 2
        channel = "RGB".index(colour)
        result[row::2, column::2, channel] = image[row::2, column::2, channel]
    if interpolate:
        for channel, kernel in enumerate((_SPARSE, _CHECKERED, _SPARSE)):
            plane = np.ascontiguousarray(result[..., channel])
            result[..., channel] = cv2.filter2D(plane, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
    return result
