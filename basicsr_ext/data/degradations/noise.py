"""Gaussian and shot noise."""

from __future__ import annotations

import numpy as np

from ...config.degradations import GaussianNoise, PoissonNoise
from ..images import grey
from ..transforms import to_unit
from .operation import Operation, uniform

# basicsr counts an image's distinct values and takes the next power of two, which for an 8-bit
# photograph is this.
_PHOTONS = 256.0


def draw_gaussian(step: GaussianNoise, rng: np.random.Generator) -> Operation:
    """Return additive noise; its field is drawn for the crop."""
    sigma = uniform(rng, step.sigma, 3 if step.per_channel else 1).astype(np.float32) / np.float32(255.0)
    shared = rng.random() < step.gray_prob

    def add(image: np.ndarray, corner: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        height, width, channels = image.shape
        field = rng.standard_normal((height, width, 1 if shared else channels), np.float32)
        noisy = to_unit(image) + field * sigma[:channels]
        return _clipped(noisy) if step.clip else noisy

    return Operation(add)


def draw_poisson(step: PoissonNoise, rng: np.random.Generator) -> Operation:
    """Return basicsr's shot noise: signal-dependent, its field drawn for the crop.

    As in basicsr the expected signal is the image rounded to 8 bit.
    """
    strength = np.float32(uniform(rng, step.strength))
    shared = rng.random() < step.gray_prob

    def add(image: np.ndarray, corner: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        unit = to_unit(image)
        signal = grey(unit) if shared and unit.shape[2] == 3 else unit
        expected = np.rint(_clipped(signal) * 255.0) / np.float32(255.0)
        noise = rng.poisson(expected * _PHOTONS).astype(np.float32) / np.float32(_PHOTONS) - expected
        noisy = unit + noise * strength
        return _clipped(noisy) if step.clip else noisy

    return Operation(add)


def _clipped(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0.0, 1.0)
