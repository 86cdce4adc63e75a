"""Gaussian and shot noise."""

from __future__ import annotations

import numpy as np
from pydantic import Field
from typing_extensions import override

from ...registry import DEGRADATIONS
from ..images import grey
from ..transforms import to_unit
from .operation import Operation, uniform
from .steps import NonNegativeRange, Probability, Step

_GRAY = "Share of the samples whose channels all get the same noise."
_CLIP = "Clip to 0..1 afterwards."

# basicsr counts an image's distinct values and takes the next power of two, which for an 8-bit
# photograph is this.
_PHOTONS = 256.0


@DEGRADATIONS.register("gaussian_noise")
class GaussianNoise(Step):
    """Additive white Gaussian noise."""

    sigma: NonNegativeRange = Field(description="Standard deviation in 0..255 units.")
    per_channel: bool = Field(default=False, description="Draw sigma for each channel.")
    gray_prob: Probability = Field(default=0.0, description=_GRAY)
    clip: bool = Field(default=False, description=_CLIP)

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return additive noise; its field is drawn for the crop."""
        sigma = uniform(rng, self.sigma, 3 if self.per_channel else 1).astype(np.float32) / np.float32(255.0)
        shared = rng.random() < self.gray_prob

        def add(image: np.ndarray, corner: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
            height, width, channels = image.shape
            field = rng.standard_normal((height, width, 1 if shared else channels), np.float32)
            noisy = to_unit(image) + field * sigma[:channels]
            return _clipped(noisy) if self.clip else noisy

        return Operation(add)


@DEGRADATIONS.register("poisson_noise")
class PoissonNoise(Step):
    """Shot noise."""

    strength: NonNegativeRange = Field(
        default=(1.0, 1.0), description="Factor on the noise of 256 photons at white."
    )
    gray_prob: Probability = Field(default=0.0, description=_GRAY)
    clip: bool = Field(default=False, description=_CLIP)

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return basicsr's shot noise: signal-dependent, its field drawn for the crop.

        As in basicsr the expected signal is the image rounded to 8 bit.
        """
        strength = np.float32(uniform(rng, self.strength))
        shared = rng.random() < self.gray_prob

        def add(image: np.ndarray, corner: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
            unit = to_unit(image)
            signal = grey(unit) if shared and unit.shape[2] == 3 else unit
            expected = np.rint(_clipped(signal) * 255.0) / np.float32(255.0)
            noise = rng.poisson(expected * _PHOTONS).astype(np.float32) / np.float32(_PHOTONS) - expected
            noisy = unit + noise * strength
            return _clipped(noisy) if self.clip else noisy

        return Operation(add)


def _clipped(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0.0, 1.0)
