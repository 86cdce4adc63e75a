"""Steps that shrink by a whole factor."""

from __future__ import annotations

import cv2
import numpy as np

from ...config.degradations import Downsample, MatlabBicubic
from ..resize import downscale
from ..transforms import to_unit
from .operation import Operation, choose

_OPENCV = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def draw_matlab_bicubic(step: MatlabBicubic, rng: np.random.Generator) -> Operation:
    """Return MATLAB's ``imresize(image, 1 / scale, 'bicubic')``; stored images keep their type."""
    scale = step.scale or 1
    return Operation(lambda image, corner, rng: downscale(image, scale), scale, margin=2 * scale)


def draw_downsample(step: Downsample, rng: np.random.Generator) -> Operation:
    """Return OpenCV's ``resize``; only ``area`` is antialiased."""
    scale, mode = step.scale or 1, choose(rng, list(step.modes))

    def shrink(image: np.ndarray, corner: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        if mode == "subsample" or scale == 1:
            return image[::scale, ::scale]
        size = image.shape[1] // scale, image.shape[0] // scale
        return cv2.resize(to_unit(image), size, interpolation=_OPENCV[mode]).reshape(*size[::-1], -1)

    return Operation(shrink, scale, margin=scale if mode == "bicubic" else 0)
