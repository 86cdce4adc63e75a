"""Steps that shrink by a whole factor."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from pydantic import Field
from typing_extensions import override

from ...registry import DEGRADATIONS
from ..resize import downscale
from ..transforms import to_unit
from .operation import Operation, choose
from .steps import ShrinkingStep

_OPENCV = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


@DEGRADATIONS.register("matlab_bicubic")
class MatlabBicubic(ShrinkingStep):
    """MATLAB's antialiased bicubic: exact on 8 and 16 bit images, unrounded on floats."""

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return MATLAB's ``imresize(image, 1 / scale, 'bicubic')``; stored images keep their type."""
        scale = self.scale or 1
        return Operation(lambda image, corner, rng: downscale(image, scale), scale, margin=2 * scale)


@DEGRADATIONS.register("downsample")
class Downsample(ShrinkingStep):
    """Shrinking by OpenCV, or by taking the first pixel of each block (``subsample``)."""

    modes: list[Literal["area", "bilinear", "bicubic", "subsample"]] = Field(
        default=["area"], min_length=1, description="One is drawn for each sample."
    )

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return OpenCV's ``resize``; only ``area`` is antialiased."""
        scale, mode = self.scale or 1, choose(rng, list(self.modes))

        def shrink(image: np.ndarray, corner: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
            if mode == "subsample" or scale == 1:
                return image[::scale, ::scale]
            size = image.shape[1] // scale, image.shape[0] // scale
            return cv2.resize(to_unit(image), size, interpolation=_OPENCV[mode]).reshape(*size[::-1], -1)

        return Operation(shrink, scale, margin=scale if mode == "bicubic" else 0)
