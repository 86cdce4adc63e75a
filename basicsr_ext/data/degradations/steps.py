"""From a step of the option file, and a generator, to what is done to one sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...config import degradations as config
from . import blur, compression, mosaic, noise, rain, real_esrgan, shrinking
from .operation import Operation

_DRAW: dict[type[config.Section], Callable[[Any, np.random.Generator], Operation]] = {
    config.MatlabBicubic: shrinking.draw_matlab_bicubic,
    config.Downsample: shrinking.draw_downsample,
    config.GaussianNoise: noise.draw_gaussian,
    config.PoissonNoise: noise.draw_poisson,
    config.Jpeg: compression.draw_jpeg,
    config.Quantize: compression.draw_quantize,
    config.Blur: blur.draw_blur,
    config.DefocusBlur: blur.draw_defocus,
    config.MotionBlur: blur.draw_motion,
    config.Rain: rain.draw_rain,
    config.Mosaic: mosaic.draw_mosaic,
    config.RealESRGAN: real_esrgan.draw_real_esrgan,
}
_NOTHING = Operation(lambda image, corner, rng: image)


def draw(step: config.DegradationStep, rng: np.random.Generator) -> Operation:
    """Return ``step`` with its parameters drawn, or nothing to do where its ``prob`` says so."""
    operation = _DRAW[type(step)](step, rng)
    if isinstance(step, config.Step) and rng.random() >= step.prob:
        return _NOTHING
    return operation
