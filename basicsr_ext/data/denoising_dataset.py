"""``Dataset_GaussianDenoising`` (Restormer): clean images, Gaussian noise on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from ..config.paths import ImageRoot
from ..config.values import NonNegativeFloat
from . import DATASETS
from .images import grey
from .pairs import CropPlace, ImagePairs, LowQuality
from .sections import ImageSection, PatchKeys
from .sources import GreySource, LazyImage
from .transforms import GREYS, to_unit

SigmaType = Literal["constant", "random", "choice"]


@dataclass(frozen=True)
class NoisyLQ(LowQuality):
    """Ground truth plus Gaussian noise, not clipped.

    A whole image always gets the noise of Restormer's published tests, which seed NumPy's old generator
    with 0 before each image and draw in RGB order.

    Args:
        sigma_type: in training, ``"constant"``, ``"random"`` (uniform between two bounds) or ``"choice"``.
        sigma_range: in training, the value, the bounds or the choices; standard deviations of 0..255 images.
        sigma_test: the standard deviation for whole images.
    """

    sigma_type: SigmaType | None
    sigma_range: Sequence[float]
    sigma_test: float | None

    @override
    def oriented_crop(
        self, index: int, gt: LazyImage, place: CropPlace, rng: np.random.Generator
    ) -> np.ndarray:
        clean = to_unit(gt[place.window])
        noise = rng.standard_normal(clean.shape, np.float32)
        return place.orientation.apply(clean + noise * np.float32(self._draw_sigma(rng) / 255.0))

    @override
    def whole(self, index: int, gt: np.ndarray | None) -> np.ndarray:
        if gt is None or self.sigma_test is None:
            raise ValueError("sigma_test is needed to add noise to whole images")
        noise = np.random.RandomState(0).normal(0, self.sigma_test / 255.0, gt.shape)
        return (to_unit(gt) + noise).astype(np.float32)

    def _draw_sigma(self, rng: np.random.Generator) -> float:
        if self.sigma_type == "random":
            low, high = self.sigma_range
            return rng.uniform(low, high)
        return self.sigma_range[int(rng.integers(len(self.sigma_range)))]


@DATASETS.register("Dataset_GaussianDenoising")
class GaussianDenoisingImages(ImageSection):
    """Restormer's Gaussian denoising set: noise is drawn on the fly."""

    dataroot_gt: ImageRoot = Field(description="Folder, .lmdb or .store of clean images.")
    dataroot_lq: str | None = Field(
        default=None, description="Accepted as in Restormer's files, where it is 'none'."
    )
    sigma_type: SigmaType | None = Field(default=None, description="Training only.")
    sigma_range: NonNegativeFloat | list[NonNegativeFloat] | None = Field(
        default=None, description="Training: sigma, [low, high] or choices."
    )
    sigma_test: NonNegativeFloat | None = Field(
        default=None, description="Validation: sigma in 0..255 units."
    )
    in_ch: Literal[1, 3] = Field(default=3, description="1: grey images.")

    @override
    def pairs(self, scale: int) -> ImagePairs:
        """Open the clean images; ``in_ch: 1`` makes them grey before noise is added.

        Raises:
            ValueError: sigma keys that do not fit each other, or a scale other than 1.
        """
        if scale != 1:
            raise ValueError(
                f"Dataset_GaussianDenoising: noise does not change the size; scale is {scale}, not 1"
            )
        given = self.sigma_range
        sigmas = [given] if isinstance(given, int | float) else list(given or [])
        count = {"constant": len(sigmas) == 1, "random": len(sigmas) == 2, "choice": bool(sigmas)}
        needed = self.sigma_type if isinstance(self, PatchKeys) else self.sigma_test
        if needed is None:
            raise ValueError(
                "Dataset_GaussianDenoising: give sigma_type and sigma_range to train, sigma_test to test"
            )
        if self.sigma_type is not None and not count[self.sigma_type]:
            wanted = {"constant": "one value", "random": "[low, high]", "choice": "a list of values"}
            raise ValueError(
                f"sigma_range: found {given}, expected {wanted[self.sigma_type]}"
                f" for sigma_type {self.sigma_type!r}"
            )
        source, convert = self.open_ground_truth(self.dataroot_gt), self.conversion
        lq = NoisyLQ(self.sigma_type, sigmas, self.sigma_test)
        if to_grey := GREYS.get(self.color, grey if self.in_ch == 1 else None):
            gt = GreySource(source, to_grey)
            return ImagePairs(gt, lq, source.names, 1, replace(convert, color=None))
        return ImagePairs(source, lq, source.names, 1, convert)
