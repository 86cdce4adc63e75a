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

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated

from pydantic import Field
from typing_extensions import override

from ...config import Problem, Section
from ...config.facts import Facts
from ...config.sections import ByType
from ...registry import DEGRADATIONS
from ..pairs import BicubicLQ, ImagePairs
from ..sources import GreySource, ImageSource
from ..transforms import GREYS, Conversion
from .chain import Chain, DegradedLQ
from .shrinking import MatlabBicubic
from .steps import AnyStep, ShrinkingStep
from .steps import Step as Step

DegradationStep = Annotated[AnyStep, ByType(DEGRADATIONS, "a step's name")]


class Degradable(Section):
    """The key of data sets that make their low quality of ground truth."""

    degradation: list[DegradationStep] | None = Field(
        default=None,
        min_length=1,
        description="Steps that make LQ of GT, in order; default: MATLAB-bicubic at the data set's scale.",
    )

    @classmethod
    @override
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        yield from super().relations(facts, key)
        chain = f"{key}.degradation"
        if not facts.written(chain):
            return
        if facts.written(f"{key}.dataroot_lq"):
            fix = "delete dataroot_lq to make LQ of GT"
            yield Problem(chain, "steps beside dataroot_lq", "one of the two", fix)
        steps = {step: DEGRADATIONS.section(str(facts.get(f"{step}.type"))) for step in facts.keys(chain)}
        if facts.valid(chain):
            shrinking = [step for step, section in steps.items() if issubclass(section, ShrinkingStep)]
            yield from _check_scales(facts, key, [facts.get(f"{step}.scale") for step in shrinking])
        for step, section in steps.items():
            color = facts.get(f"{key}.color")
            if color in GREYS and section is not None and section.colour_only:
                found = f"{facts.get(f'{step}.type')} with color: {color}"
                yield Problem(step, found, "color images", "delete color, or this step")


def _check_scales(facts: Facts, data: str, factors: list[int | None]) -> Iterator[Problem]:
    scale = facts.get(f"{data}.scale", facts.get("scale", 1))
    if scale is None or complete_scales(factors, scale) is not None:
        return
    key = f"{data}.degradation"
    if not factors:
        fix = "add {type: matlab_bicubic}"
        yield Problem(key, "no step that shrinks", f"one, as scale is {scale}", fix)
    elif factors.count(None) > 1:
        fix = "give all of them but one a scale"
        yield Problem(key, f"{factors.count(None)} shrinking steps without scale", "one at most", fix)
    else:
        found = f"steps that shrink by {' x '.join(str(factor) for factor in factors if factor)}"
        yield Problem(key, found, f"{scale} in all, the data set's scale")


def complete_scales(factors: Sequence[int | None], scale: int) -> list[int] | None:
    """Return the factor of each shrinking step, or None if they cannot make up ``scale``.

    One of them may be left open (None): it takes what the others leave.
    """
    rest, remainder = divmod(scale, math.prod(factor for factor in factors if factor is not None))
    if remainder or factors.count(None) > 1 or (rest != 1 and None not in factors):
        return None
    return [rest if factor is None else factor for factor in factors]


def build_chain(steps: Sequence[AnyStep], scale: int) -> Chain:
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
    gt: ImageSource, steps: Sequence[AnyStep] | None, scale: int, convert: Conversion
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
    if to_grey := GREYS.get(convert.color):
        return ImagePairs(GreySource(gt, to_grey), lq, gt.names, scale, replace(convert, color=None))
    return ImagePairs(gt, lq, gt.names, scale, convert)
