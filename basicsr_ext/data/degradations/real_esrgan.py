"""Real-ESRGAN's second-order degradation (Wang et al., arXiv:2107.10833) by basicsr's functions.

Random numbers are drawn in basicsr's order, kernels first, from global generators that are seeded for
the sample, so that the same seeds give basicsr's result (filters apart, which differ in the last bits).
torch and basicsr are imported where they compute: option files are checked without them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field
from typing_extensions import override

from ...config import Problem
from ...config.facts import Facts
from ...config.values import Expect, NonNegativeFloat, interval
from ...registry import DEGRADATIONS
from ..sampling import global_generators
from ..transforms import to_unit
from .operation import Operation
from .steps import NonNegativeRange, Probability, Quality, Shape, ShrinkingStep, Sigma, check_weights

if TYPE_CHECKING:
    from torch import Tensor

LargestKernel = Annotated[
    Literal[7, 9, 11, 13, 15, 17, 19, 21], Expect("an odd number from 7 to 21", "odd numbers from 7 to 21")
]
UpDownKeep = Annotated[
    list[NonNegativeFloat],
    Field(min_length=3, max_length=3),
    Expect("three weights [up, down, keep]", "weights [up, down, keep]"),
]
ResizeRange = Annotated[tuple[float, float], interval(0.05, 8)]
Kernel = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]

_KERNELS: list[Kernel] = [
    "iso",
    "aniso",
    "generalized_iso",
    "generalized_aniso",
    "plateau_iso",
    "plateau_aniso",
]
_KERNEL_PROB = [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
_GRAY = "Share of the samples whose channels all get the same noise."
_FIRST = "First blur: {}."
_SECOND = "Second round: as the key without 2."

_REACH = 10
"""Half of the largest kernel: what basicsr mirrors at the border, so images must be larger."""

_MODES = ["area", "bilinear", "bicubic"]


@dataclass(frozen=True)
class Round:
    """One of the two rounds: its keys of the option file, those of the second without their 2."""

    blur_kernel_size: int
    kernel_list: list[str]
    kernel_prob: list[float]
    sinc_prob: float
    blur_sigma: tuple[float, float]
    betag_range: tuple[float, float]
    betap_range: tuple[float, float]
    resize_prob: list[float]
    resize_range: tuple[float, float]
    gaussian_noise_prob: float
    noise_range: tuple[float, float]
    poisson_scale_range: tuple[float, float]
    gray_noise_prob: float
    jpeg_range: tuple[int, int]


def rounds(step: RealESRGAN) -> tuple[Round, Round]:
    """Return the keys of the first and of the second round."""
    keys = Round.__dataclass_fields__
    return (
        Round(**{key: getattr(step, key) for key in keys}),
        Round(**{key: getattr(step, f"{key}2") for key in keys}),
    )


@DEGRADATIONS.register("real_esrgan")
class RealESRGAN(ShrinkingStep):
    """Real-ESRGAN's second-order chain (arXiv:2107.10833); keys and defaults as published for x4plus."""

    colour_only: ClassVar[bool] = True
    usm: bool = Field(default=True, description="Sharpen the ground truth before it is degraded.")
    blur_kernel_size: LargestKernel = Field(default=21, description="Largest kernel; the smallest is 7.")
    kernel_list: list[Kernel] = Field(default=_KERNELS, min_length=1, description=_FIRST.format("kernels"))
    kernel_prob: list[NonNegativeFloat] = Field(default=_KERNEL_PROB, description=_FIRST.format("weights"))
    sinc_prob: Probability = Field(default=0.1, description=_FIRST.format("share of sinc filters"))
    blur_sigma: Sigma = Field(default=(0.2, 3.0), description=_FIRST.format("sigma in pixels"))
    betag_range: Shape = Field(default=(0.5, 4.0), description="Exponent of generalized Gaussians.")
    betap_range: Shape = Field(default=(1.0, 2.0), description="Exponent of plateau kernels.")
    resize_prob: UpDownKeep = Field(default=[0.2, 0.7, 0.1], description="Weights of up, down, keep.")
    resize_range: ResizeRange = Field(default=(0.15, 1.5), description="Least and largest factor.")
    gaussian_noise_prob: Probability = Field(default=0.5, description="Gaussian; else Poisson noise.")
    noise_range: NonNegativeRange = Field(default=(1.0, 30.0), description="Sigma in 0..255 units.")
    poisson_scale_range: NonNegativeRange = Field(default=(0.05, 3.0), description="Strength of shot noise.")
    gray_noise_prob: Probability = Field(default=0.4, description=_GRAY)
    jpeg_range: Quality = Field(default=(30, 95), description="Quality of the first compression.")
    second_blur_prob: Probability = Field(default=0.8, description="Share of samples blurred twice.")
    blur_kernel_size2: LargestKernel = Field(default=21, description=_SECOND)
    kernel_list2: list[Kernel] = Field(default=_KERNELS, min_length=1, description=_SECOND)
    kernel_prob2: list[NonNegativeFloat] = Field(default=_KERNEL_PROB, description=_SECOND)
    sinc_prob2: Probability = Field(default=0.1, description=_SECOND)
    blur_sigma2: Sigma = Field(default=(0.2, 1.5), description=_SECOND)
    betag_range2: Shape = Field(default=(0.5, 4.0), description=_SECOND)
    betap_range2: Shape = Field(default=(1.0, 2.0), description=_SECOND)
    resize_prob2: UpDownKeep = Field(default=[0.3, 0.4, 0.3], description=_SECOND)
    resize_range2: ResizeRange = Field(default=(0.3, 1.2), description=_SECOND)
    gaussian_noise_prob2: Probability = Field(default=0.5, description=_SECOND)
    noise_range2: NonNegativeRange = Field(default=(1.0, 25.0), description=_SECOND)
    poisson_scale_range2: NonNegativeRange = Field(default=(0.05, 2.5), description=_SECOND)
    gray_noise_prob2: Probability = Field(default=0.4, description=_SECOND)
    jpeg_range2: Quality = Field(default=(30, 95), description=_SECOND)
    final_sinc_prob: Probability = Field(default=0.8, description="Share of samples with a last sinc filter.")

    @classmethod
    @override
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        yield from super().relations(facts, key)
        for suffix in ("", "2"):
            yield from check_weights(cls, facts, key, f"kernel_list{suffix}", f"kernel_prob{suffix}")

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return the whole chain, from sharpening to 8-bit rounding.

        Random resizes make it depend on where a window begins and ends: a crop is made from itself and a
        margin, as basicsr makes it from 400 x 400 pixels, and equals no crop of the whole image's result.
        """
        import torch

        scale = self.scale or 1

        def degrade(image: np.ndarray, corner: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
            if image.shape[2] != 3:
                raise ValueError("real_esrgan needs colour images")
            height, width = image.shape[0] // scale, image.shape[1] // scale
            with global_generators(rng), torch.no_grad():
                return second_order(_enlarged(to_unit(image), self, scale), self, scale)[:height, :width]

        return Operation(degrade, scale, margin=max(64, 16 * scale))


def second_order(image: np.ndarray, step: RealESRGAN, scale: int) -> np.ndarray:
    """Degrade an image by random numbers from the global generators.

    Args:
        image: (H, W, 3) RGB, float32; sides are multiples of ``scale``.
        step: the chain's options.
        scale: side of the image over side of the result.

    Returns:
        (H / scale, W / scale, 3), float32, multiples of 1/255.
    """
    from basicsr.utils.img_process_util import usm_sharp
    from torch.nn.functional import interpolate

    first, second = rounds(step)
    kernels = [_draw_kernel(first), _draw_kernel(second)]
    last_kernel = _draw_last_kernel(step)
    height, width = image.shape[0] // scale, image.shape[1] // scale
    sharp = usm_sharp(image) if step.usm else image

    out = _filtered(_as_tensor(sharp), kernels[0])
    factor = _draw_factor(first)
    out = interpolate(out, scale_factor=factor, mode=random.choice(_MODES))
    out = _compressed(_noisy(out, first), first)

    if np.random.uniform() < step.second_blur_prob:
        out = _filtered(out, kernels[1])
    factor = _draw_factor(second)
    size = int(image.shape[0] / scale * factor), int(image.shape[1] / scale * factor)
    out = interpolate(out, size=size, mode=random.choice(_MODES))
    out = _noisy(out, second)
    if np.random.uniform() < 0.5:
        out = _filtered(interpolate(out, size=(height, width), mode=random.choice(_MODES)), last_kernel)
        out = _compressed(out, second)
    else:
        out = _compressed(out, second)
        out = _filtered(interpolate(out, size=(height, width), mode=random.choice(_MODES)), last_kernel)
    rounded = (out * 255.0).round().clamp(0, 255) / 255.0
    return rounded[0].numpy().transpose(1, 2, 0)


def _filtered(image: Tensor, kernel: np.ndarray) -> Tensor:
    """Return what basicsr's filter2D gives, up to the last bits, in a fraction of its time on a CPU."""
    pixels = np.ascontiguousarray(image[0].numpy().transpose(1, 2, 0))
    return _as_tensor(cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def _as_tensor(image: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), np.float32))[None]


def _draw_kernel(part: Round) -> np.ndarray:
    from basicsr.data.degradations import circular_lowpass_kernel, random_mixed_kernels

    size = random.choice(_kernel_sizes(part.blur_kernel_size))
    if np.random.uniform() < part.sinc_prob:
        kernel = circular_lowpass_kernel(np.random.uniform(np.pi / (3 if size < 13 else 5), np.pi), size)
    else:
        # basicsr refuses a range of one value.
        sigma = part.blur_sigma[0], max(part.blur_sigma[1], math.nextafter(part.blur_sigma[0], math.inf))
        kernel = random_mixed_kernels(
            part.kernel_list,
            part.kernel_prob,
            size,
            sigma,
            sigma,
            (-math.pi, math.pi),
            part.betag_range,
            part.betap_range,
        )
    return kernel.astype(np.float32)


def _draw_last_kernel(step: RealESRGAN) -> np.ndarray:
    from basicsr.data.degradations import circular_lowpass_kernel

    if np.random.uniform() >= step.final_sinc_prob:
        return np.ones((1, 1), np.float32)
    size = random.choice(_kernel_sizes(step.blur_kernel_size))
    return circular_lowpass_kernel(np.random.uniform(np.pi / 3, np.pi), size).astype(np.float32)


def _kernel_sizes(largest: int) -> list[int]:
    return list(range(7, largest + 1, 2))


def _draw_factor(part: Round) -> float:
    (direction,) = random.choices(["up", "down", "keep"], part.resize_prob)
    low, high = part.resize_range
    if direction == "keep":
        return 1
    return np.random.uniform(*((1, high) if direction == "up" else (low, 1)))


def _noisy(image: Tensor, part: Round) -> Tensor:
    from basicsr.data.degradations import random_add_gaussian_noise_pt, random_add_poisson_noise_pt

    gray: Any = part.gray_noise_prob
    if np.random.uniform() < part.gaussian_noise_prob:
        return random_add_gaussian_noise_pt(image, part.noise_range, gray)
    return random_add_poisson_noise_pt(image, part.poisson_scale_range, gray)


def _compressed(image: Tensor, part: Round) -> Tensor:
    quality = image.new_zeros(1).uniform_(*part.jpeg_range)
    return _jpeger()(image.clamp(0, 1), quality=quality)


@lru_cache
def _jpeger() -> Any:
    from basicsr.utils.diffjpeg import DiffJPEG

    return DiffJPEG(differentiable=False)


def _enlarged(image: np.ndarray, step: RealESRGAN, scale: int) -> np.ndarray:
    """Continue a small image at bottom and right, mirrored as in basicsr, until every filter fits inside."""
    smallest = min(step.resize_range[0], 1 / scale)
    least = math.ceil((_REACH + 2) / smallest / scale) * scale
    down, right = (max(0, least - side) for side in image.shape[:2])
    if not (down or right):
        return image
    return cv2.copyMakeBorder(image, 0, down, 0, right, cv2.BORDER_REFLECT_101)
