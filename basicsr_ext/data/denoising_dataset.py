"""``Dataset_GaussianDenoising`` (Restormer): clean images, Gaussian noise on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from typing_extensions import override

from ..config.schema import GaussianDenoisingKeys, GaussianDenoisingTrain
from . import DATASETS
from .paired_dataset import conversion, open_ground_truth
from .pairs import CropPlace, ImagePairs, LowQuality
from .sources import GreySource, LazyImage
from .transforms import to_unit

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
def gaussian_denoising(option: GaussianDenoisingKeys, scale: int) -> ImagePairs:
    """Open the clean images; ``in_ch: 1`` makes them grey before noise is added.

    Raises:
        ValueError: sigma keys that do not fit each other, or a scale other than 1.
    """
    if scale != 1:
        raise ValueError(
            f"Dataset_GaussianDenoising: noise does not change the size; scale is {scale}, not 1"
        )
    given = option.sigma_range
    sigmas = [given] if isinstance(given, int | float) else list(given or [])
    count = {"constant": len(sigmas) == 1, "random": len(sigmas) == 2, "choice": bool(sigmas)}
    needed = option.sigma_type if isinstance(option, GaussianDenoisingTrain) else option.sigma_test
    if needed is None:
        raise ValueError(
            "Dataset_GaussianDenoising: give sigma_type and sigma_range to train, sigma_test to test"
        )
    if option.sigma_type is not None and not count[option.sigma_type]:
        wanted = {"constant": "one value", "random": "[low, high]", "choice": "a list of values"}
        raise ValueError(
            f"sigma_range: found {given}, expected {wanted[option.sigma_type]}"
            f" for sigma_type {option.sigma_type!r}"
        )
    source, convert = open_ground_truth(option, option.dataroot_gt), conversion(option)
    lq = NoisyLQ(option.sigma_type, sigmas, option.sigma_test)
    if option.in_ch == 1 or option.color == "gray":
        return ImagePairs(GreySource(source), lq, source.names, 1, replace(convert, color=None))
    return ImagePairs(source, lq, source.names, 1, convert)
