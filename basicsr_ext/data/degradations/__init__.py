"""Low quality made of ground truth: what the steps of option ``degradation`` do.

Images are (H, W, C) arrays, RGB or grey. A step takes what the one before gives: the first one uint8 or
uint16 as stored, later ones mostly float32, where 0..1 is black to white and values beyond are kept
unless a step clips. ``docs/degradations.md`` lists the steps with their keys.

A sample's parameters (kernels, sigmas, qualities) are drawn first, then its noise fields, all from the
sample's own generator. A training crop is made from a window of the ground truth that is wider than
the crop by what the steps reach, so that it equals the crop of the whole image's low quality wherever
a step is a function of the image and its drawn parameters alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...config.degradations import DegradationStep, MatlabBicubic, ShrinkingStep, complete_scales
from ..pairs import BicubicLQ, ImagePairs
from ..sources import GreySource, ImageSource
from ..transforms import Conversion
from .chain import Chain, DegradedLQ


def build_chain(steps: Sequence[DegradationStep], scale: int) -> Chain:
    """Return the steps with the data set's ``scale`` shared out among those that shrink.

    Raises:
        ValueError: they cannot make up the scale.
    """
    shrinking = [step for step in steps if isinstance(step, ShrinkingStep)]
    factors = complete_scales([step.scale for step in shrinking], scale)
    if factors is None:
        raise ValueError(f"degradation: the steps do not shrink by the data set's scale, {scale}")
    factor = iter(factors)
    return Chain(
        tuple(
            step.model_copy(update={"scale": next(factor)}) if isinstance(step, ShrinkingStep) else step
            for step in steps
        )
    )


def degraded_pairs(
    gt: ImageSource, steps: Sequence[DegradationStep] | None, scale: int, convert: Conversion
) -> ImagePairs:
    """Pair ground truth with what the steps make of it; without steps, with its MATLAB-bicubic reduction.

    Where both sides are wanted in grey, steps act on the grey image: they see one channel.

    Raises:
        ValueError: the steps cannot make up the scale.
    """
    chain = build_chain(steps or [MatlabBicubic(type="matlab_bicubic")], scale)
    if len(chain.steps) == 1 and isinstance(chain.steps[0], MatlabBicubic):
        return ImagePairs(gt, BicubicLQ(scale), gt.names, scale, convert)
    lq = DegradedLQ(chain, gt.names)
    if convert.color == "gray":
        return ImagePairs(GreySource(gt), lq, gt.names, scale, replace(convert, color=None))
    return ImagePairs(gt, lq, gt.names, scale, convert)
