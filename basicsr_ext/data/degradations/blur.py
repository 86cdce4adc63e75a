"""Blur kernels, and blurring with them. Borders are mirrored without repeating the edge."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field
from typing_extensions import override

from ...config import Problem
from ...config.facts import Facts
from ...config.values import NonNegativeFloat, interval
from ...registry import DEGRADATIONS
from .operation import Bounds, Operation, choose, on_floats, uniform, whole_number
from .steps import Range, Shape, Sigma, Step, check_weights

KernelSize = Annotated[tuple[int, int], interval(3, 255, step=2)]

_SUBPIXELS = 8


@DEGRADATIONS.register("blur")
class Blur(Step):
    """Blur by a random kernel of basicsr's families or a sinc filter."""

    kernel_list: list[
        Literal[
            "iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso", "sinc"
        ]
    ] = Field(default=["iso"], min_length=1, description="One is drawn for each sample.")
    kernel_prob: list[NonNegativeFloat] | None = Field(
        default=None, description="Weight of each kernel of the list; default: equal."
    )
    kernel_size: KernelSize = Field(default=(21, 21), description="Side in pixels, odd.")
    sigma: Sigma = Field(default=(0.2, 3.0), description="Standard deviation in pixels, per axis.")
    rotation: Range = Field(default=(-180.0, 180.0), description="Degrees; anisotropic kernels.")
    betag_range: Shape = Field(default=(0.5, 4.0), description="Exponent of generalized Gaussians.")
    betap_range: Shape = Field(default=(1.0, 2.0), description="Exponent of plateau kernels.")
    cutoff: Annotated[tuple[float, float], interval(0.01, math.pi)] = Field(
        default=(math.pi / 3, math.pi), description="Cut-off frequency of sinc filters, in radians."
    )

    @classmethod
    @override
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        yield from super().relations(facts, key)
        yield from check_weights(cls, facts, key, "kernel_list", "kernel_prob")

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return blurring by one of basicsr's kernels."""
        family = choose(rng, list(self.kernel_list), self.kernel_prob)
        size = whole_number(rng, self.kernel_size, 2)
        if family == "sinc":
            from basicsr.data.degradations import circular_lowpass_kernel

            return blurring(circular_lowpass_kernel(float(uniform(rng, self.cutoff)), size))
        isotropic = family in ("iso", "generalized_iso", "plateau_iso")
        sigma_x, sigma_y = uniform(rng, self.sigma, 2)
        angle = math.radians(float(uniform(rng, self.rotation)))
        shape = {"generalized": self.betag_range, "plateau": self.betap_range}.get(family.split("_")[0])
        beta = None if shape is None else draw_exponent(rng, shape)
        return blurring(gaussian_like(family, size, sigma_x, sigma_y, angle, beta, isotropic))


@DEGRADATIONS.register("defocus_blur")
class DefocusBlur(Step):
    """Blur by a disk, a thin lens out of focus."""

    radius: Annotated[tuple[float, float], interval(0.5, 64)] = Field(description="In pixels.")

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return blurring by a disk."""
        return blurring(disk(float(uniform(rng, self.radius))))


@DEGRADATIONS.register("motion_blur")
class MotionBlur(Step):
    """Blur along a line or an arc."""

    length: Annotated[tuple[float, float], interval(1, 255)] = Field(description="Of the path, in pixels.")
    angle: Range = Field(default=(0.0, 180.0), description="Degrees, counter-clockwise from rightwards.")
    bend: Range = Field(default=(0.0, 0.0), description="Degrees by which the path turns; 0: a line.")

    @override
    def draw(self, rng: np.random.Generator) -> Operation:
        """Return blurring along a path."""
        length, angle, bend = (float(uniform(rng, bounds)) for bounds in (self.length, self.angle, self.bend))
        return blurring(path(length, math.radians(angle), math.radians(bend)))


def blurring(kernel: np.ndarray) -> Operation:
    """Return filtering with ``kernel`` (odd sides, sum 1)."""
    kernel = kernel.astype(np.float32)

    def blur(image: np.ndarray) -> np.ndarray:
        blurred = cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)
        return blurred.reshape(image.shape)

    return Operation(on_floats(blur), margin=max(kernel.shape) // 2)


def draw_exponent(rng: np.random.Generator, bounds: Bounds) -> float:
    """Draw an exponent as basicsr does: below and above 1 equally often, where the bounds contain 1."""
    low, high = bounds
    if low < 1 < high:
        low, high = (low, 1.0) if rng.random() < 0.5 else (1.0, high)
    return float(uniform(rng, (low, high)))


def gaussian_like(
    family: str, size: int, sigma_x: float, sigma_y: float, angle: float, beta: float | None, isotropic: bool
) -> np.ndarray:
    """Return one of basicsr's Gaussian, generalized Gaussian and plateau kernels, (size, size), sum 1.

    Args:
        family: begins with ``generalized``, ``plateau``, or is Gaussian.
        size: odd side in pixels.
        sigma_x: standard deviation along the first axis, in pixels.
        sigma_y: along the second one.
        angle: by which the axes are turned, in radians.
        beta: exponent, for those that have one.
        isotropic: use ``sigma_x`` for both axes.
    """
    from basicsr.data import degradations as basicsr

    axes = size, sigma_x, sigma_y, angle
    if beta is None:
        return basicsr.bivariate_Gaussian(*axes, isotropic=isotropic)
    if family.startswith("generalized"):
        return basicsr.bivariate_generalized_Gaussian(*axes, beta, isotropic=isotropic)
    return basicsr.bivariate_plateau(*axes, beta, isotropic=isotropic)


def disk(radius: float) -> np.ndarray:
    """Return a disk, antialiased by counting the part of each pixel that it covers; sum 1."""
    reach = math.ceil(radius - 0.5)
    fine = (np.arange((2 * reach + 1) * _SUBPIXELS) + 0.5) / _SUBPIXELS - reach - 0.5
    covered = np.hypot(fine[:, None], fine[None, :]) <= radius
    side = 2 * reach + 1
    kernel = covered.reshape(side, _SUBPIXELS, side, _SUBPIXELS).mean(axis=(1, 3))
    return kernel / kernel.sum()


def path(length: float, angle: float, bend: float = 0.0) -> np.ndarray:
    """Return the trace of a point that moves at constant speed, centred; sum 1.

    Args:
        length: of the path, in pixels.
        angle: of its middle, in radians, counter-clockwise from rightwards.
        bend: by which the direction turns from start to end, in radians; 0 is a line.
    """
    count = max(2, math.ceil(length * _SUBPIXELS))
    headings = angle + bend * (np.arange(count) / (count - 1) - 0.5)
    steps = np.stack([-np.sin(headings), np.cos(headings)]) * (length / count)
    points = np.cumsum(steps, axis=1) - steps / 2
    # Its centre of mass stays in place, so that low and high quality lie on top of each other.
    points -= points.mean(axis=1, keepdims=True)
    reach = math.ceil(np.abs(points).max())
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    # Each point is spread over the four pixels around it.
    corner = np.floor(points).astype(int)
    fraction = points - corner
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - fraction[0]) * np.abs(1 - right - fraction[1])
            inside = weight > 0
            rows, columns = corner[0] + down + reach, corner[1] + right + reach
            np.add.at(kernel, (rows[inside], columns[inside]), weight[inside])
    return kernel / kernel.sum()
