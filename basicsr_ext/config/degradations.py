"""Option ``degradation``: the steps that make low quality out of ground truth.

Each step is a mapping with a ``type``. Where a key takes a range, a number stands for itself and
``[low, high]`` for a value drawn anew for every sample. What the steps do is in
:mod:`basicsr_ext.data.degradations`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag

from .sections import Section
from .values import Expect, NonNegativeFloat, PositiveInt, interval

Probability = Annotated[float, Field(ge=0, le=1), Expect("a number from 0 to 1", "numbers from 0 to 1")]
Range = Annotated[tuple[float, float], interval()]
NonNegativeRange = Annotated[tuple[float, float], interval(0)]
Sigma = Annotated[tuple[float, float], interval(0.01, 100)]
Shape = Annotated[tuple[float, float], interval(0.01, 100)]
KernelSize = Annotated[tuple[int, int], interval(3, 255, step=2)]
Quality = Annotated[tuple[int, int], interval(1, 100, step=1)]
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
ResizeMode = Literal["area", "bilinear", "bicubic"]

_PROBABILITY = "Share of the samples that this step is applied to."
_GRAY = "Share of the samples whose channels all get the same noise."
_CLIP = "Clip to 0..1 afterwards."
_FIRST = "First blur: {}."
_SECOND = "Second round: as the key without 2."
_KERNELS: list[Kernel] = [
    "iso",
    "aniso",
    "generalized_iso",
    "generalized_aniso",
    "plateau_iso",
    "plateau_aniso",
]
_KERNEL_PROB = [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
_SCALE = "Factor; default: what other steps leave of the data set's scale."


class Step(Section):
    """A step that keeps the size."""

    prob: Probability = Field(default=1.0, description=_PROBABILITY)


class ShrinkingStep(Section):
    """A step that divides the size; together these make up the data set's scale."""

    scale: PositiveInt | None = Field(default=None, description=_SCALE)


class MatlabBicubic(ShrinkingStep):
    """MATLAB's antialiased bicubic: exact on 8 and 16 bit images, unrounded on floats."""

    type: Literal["matlab_bicubic"]


class Downsample(ShrinkingStep):
    """Shrinking by OpenCV, or by taking the first pixel of each block (``subsample``)."""

    type: Literal["downsample"]
    modes: list[Literal["area", "bilinear", "bicubic", "subsample"]] = Field(
        default=["area"], min_length=1, description="One is drawn for each sample."
    )


class GaussianNoise(Step):
    """Additive white Gaussian noise."""

    type: Literal["gaussian_noise"]
    sigma: NonNegativeRange = Field(description="Standard deviation in 0..255 units.")
    per_channel: bool = Field(default=False, description="Draw sigma for each channel.")
    gray_prob: Probability = Field(default=0.0, description=_GRAY)
    clip: bool = Field(default=False, description=_CLIP)


class PoissonNoise(Step):
    """Shot noise."""

    type: Literal["poisson_noise"]
    strength: NonNegativeRange = Field(
        default=(1.0, 1.0), description="Factor on the noise of 256 photons at white."
    )
    gray_prob: Probability = Field(default=0.0, description=_GRAY)
    clip: bool = Field(default=False, description=_CLIP)


class Jpeg(Step):
    """JPEG compression by OpenCV (libjpeg), which quantises to 8 bit."""

    type: Literal["jpeg"]
    quality: Quality = Field(description="1 (worst) to 100, both bounds included.")
    subsampling: Literal["4:2:0", "4:2:2", "4:4:4"] = Field(
        default="4:2:0", description="Resolution of the colour channels."
    )


class Quantize(Step):
    """Clip to 0..1 and round, as saving to a file does."""

    type: Literal["quantize"]
    bits: Literal[8, 16] = 8


class Blur(Step):
    """Blur by a random kernel of basicsr's families or a sinc filter."""

    type: Literal["blur"]
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


class DefocusBlur(Step):
    """Blur by a disk, a thin lens out of focus."""

    type: Literal["defocus_blur"]
    radius: Annotated[tuple[float, float], interval(0.5, 64)] = Field(description="In pixels.")


class MotionBlur(Step):
    """Blur along a line or an arc."""

    type: Literal["motion_blur"]
    length: Annotated[tuple[float, float], interval(1, 255)] = Field(description="Of the path, in pixels.")
    angle: Range = Field(default=(0.0, 180.0), description="Degrees, counter-clockwise from rightwards.")
    bend: Range = Field(default=(0.0, 0.0), description="Degrees by which the path turns; 0: a line.")


class Rain(Step):
    """Synthetic rain streaks; keys left out are the kind's."""

    type: Literal["rain"]
    kind: Literal["light", "heavy"] = "light"
    density: NonNegativeRange | None = Field(
        default=None, description="Streaks of a layer per 10,000 pixels."
    )
    length: Annotated[tuple[float, float], interval(1, 255)] | None = Field(
        default=None, description="Of a layer's streaks, in pixels."
    )
    width: Annotated[tuple[float, float], interval(0.3, 16)] | None = Field(
        default=None, description="Standard deviation across a layer's streaks, in pixels."
    )
    angle: Annotated[tuple[float, float], interval(-90, 90)] | None = Field(
        default=None, description="Degrees from vertical, of the whole image."
    )
    brightness: NonNegativeRange | None = Field(
        default=None, description="Peak of the brightest streaks of a layer; 1: white."
    )
    layers: PositiveInt | None = Field(default=None, description="Superimposed layers.")


class Mosaic(Step):
    """What a colour filter array lets through."""

    type: Literal["mosaic"]
    pattern: Literal["RGGB", "BGGR", "GRBG", "GBRG"] = Field(
        default="RGGB", description="Colours of the top-left 2x2 pixels, row by row."
    )
    output: Literal["bilinear", "raw"] = Field(
        default="bilinear", description="Missing values interpolated, or zero."
    )


class RealESRGAN(ShrinkingStep):
    """Real-ESRGAN's second-order chain (arXiv:2107.10833); keys and defaults as published for x4plus."""

    type: Literal["real_esrgan"]
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


def _step_type(value: Any) -> str | None:
    name = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return name if isinstance(name, str) else None


DegradationStep = Annotated[
    Annotated[MatlabBicubic, Tag("matlab_bicubic")]
    | Annotated[Downsample, Tag("downsample")]
    | Annotated[GaussianNoise, Tag("gaussian_noise")]
    | Annotated[PoissonNoise, Tag("poisson_noise")]
    | Annotated[Jpeg, Tag("jpeg")]
    | Annotated[Quantize, Tag("quantize")]
    | Annotated[Blur, Tag("blur")]
    | Annotated[DefocusBlur, Tag("defocus_blur")]
    | Annotated[MotionBlur, Tag("motion_blur")]
    | Annotated[Rain, Tag("rain")]
    | Annotated[Mosaic, Tag("mosaic")]
    | Annotated[RealESRGAN, Tag("real_esrgan")],
    Discriminator(_step_type),
]
STEPS: dict[str, type[Section]] = {
    tag.tag: model for model, tag in (get_args(member) for member in get_args(get_args(DegradationStep)[0]))
}
"""Every step's model by its type."""


class Degradable(Section):
    """The key of data sets that make their low quality of ground truth."""

    degradation: list[DegradationStep] | None = Field(
        default=None,
        min_length=1,
        description="Steps that make LQ of GT, in order; default: MATLAB-bicubic at the data set's scale.",
    )


def complete_scales(factors: Sequence[int | None], scale: int) -> list[int] | None:
    """Return the factor of each shrinking step, or None if they cannot make up ``scale``.

    One of them may be left open (None): it takes what the others leave.
    """
    rest, remainder = divmod(scale, math.prod(factor for factor in factors if factor is not None))
    if remainder or factors.count(None) > 1 or (rest != 1 and None not in factors):
        return None
    return [rest if factor is None else factor for factor in factors]
