"""Do the steps of ``degradation`` fit their data set and each other?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .degradations import STEPS, ShrinkingStep, complete_scales
from .errors import Problem
from .facts import Facts

_KERNEL_LISTS = (("kernel_list", "kernel_prob"), ("kernel_list2", "kernel_prob2"))
_COLOUR_STEPS = ("mosaic", "real_esrgan")


def check_degradations(facts: Facts) -> Iterator[Problem]:
    """Yield what is wrong with the steps of every data set beyond their own keys."""
    for data in facts.keys("datasets"):
        key = f"{data}.degradation"
        if not facts.written(key):
            continue
        if facts.written(f"{data}.dataroot_lq"):
            yield Problem(
                key, "steps beside dataroot_lq", "one of the two", "delete dataroot_lq to make LQ of GT"
            )
        steps = list(facts.keys(key))
        if facts.sound(key):
            yield from _check_scales(facts, data, steps)
        for step in steps:
            yield from _check_kernels(facts, step)
            if facts.get(f"{data}.color") == "gray" and facts.get(f"{step}.type") in _COLOUR_STEPS:
                found = f"{facts.get(f'{step}.type')} with color: gray"
                yield Problem(step, found, "color images", "delete color, or this step")


def _check_scales(facts: Facts, data: str, steps: list[str]) -> Iterator[Problem]:
    scale = facts.get(f"{data}.scale", facts.get("scale", 1))
    shrinking = [step for step in steps if _shrinks(facts.get(f"{step}.type"))]
    factors = [facts.get(f"{step}.scale") for step in shrinking]
    if scale is None or complete_scales(factors, scale) is not None:
        return
    key = f"{data}.degradation"
    if not shrinking:
        fix = "add {type: matlab_bicubic}"
        yield Problem(key, "no step that shrinks", f"one, as scale is {scale}", fix)
    elif factors.count(None) > 1:
        fix = "give all of them but one a scale"
        yield Problem(key, f"{factors.count(None)} shrinking steps without scale", "one at most", fix)
    else:
        found = f"steps that shrink by {' x '.join(str(factor) for factor in factors if factor)}"
        yield Problem(key, found, f"{scale} in all, the data set's scale")


def _shrinks(name: Any) -> bool:
    return issubclass(STEPS[name], ShrinkingStep)


def _check_kernels(facts: Facts, step: str) -> Iterator[Problem]:
    name = facts.get(f"{step}.type")
    if name not in STEPS:
        return
    for names_key, weights_key in _KERNEL_LISTS:
        field = STEPS[name].model_fields.get(names_key)
        weights = facts.get(f"{step}.{weights_key}")
        if field is None or weights is None:
            continue
        names = facts.get(f"{step}.{names_key}", field.default)
        if names is not None and len(names) != len(weights):
            expected = f"{len(names)}, one for each of {names_key}"
            yield Problem(
                f"{step}.{weights_key}", f"{len(weights)} weight{'s'[: len(weights) != 1]}", expected
            )
        elif not any(weights):
            yield Problem(f"{step}.{weights_key}", "only zeros", "a weight above 0")
