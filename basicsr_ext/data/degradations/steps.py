"""What the steps of option ``degradation`` have in common, as they stand in an option file and drawn.

Each step is a mapping with a ``type``. Where a key takes a range, a number stands for itself and
``[low, high]`` for a value drawn anew for every sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import override

from ...config import Problem, Section
from ...config.facts import Facts
from ...config.values import Expect, PositiveInt, interval
from .operation import Operation

Probability = Annotated[float, Field(ge=0, le=1), Expect("a number from 0 to 1", "numbers from 0 to 1")]
Range = Annotated[tuple[float, float], interval()]
NonNegativeRange = Annotated[tuple[float, float], interval(0)]
Sigma = Annotated[tuple[float, float], interval(0.01, 100)]
Shape = Annotated[tuple[float, float], interval(0.01, 100)]
Quality = Annotated[tuple[int, int], interval(1, 100, step=1)]
_NOTHING = Operation(lambda image, corner, rng: image)


class AnyStep(Section):
    """A step of a chain; registered ones derive from one of the two below.

    Attributes:
        colour_only: whether images have to have three channels.
    """

    colour_only: ClassVar[bool] = False
    type: str = Field(description="Registered name.")

    def draw(self, rng: np.random.Generator) -> Operation:
        """Return what is done to one sample, its parameters drawn from the sample's generator."""
        raise NotImplementedError

    def drawn(self, rng: np.random.Generator) -> Operation:
        """Return :meth:`draw`, or nothing to do where the step's probability says so."""
        return self.draw(rng)


class Step(AnyStep):
    """A step that keeps the size."""

    prob: Probability = Field(default=1.0, description="Share of the samples that this step is applied to.")

    @override
    def drawn(self, rng: np.random.Generator) -> Operation:
        operation = self.draw(rng)
        return _NOTHING if rng.random() >= self.prob else operation


class ShrinkingStep(AnyStep):
    """A step that divides the size; together these make up the data set's scale."""

    scale: PositiveInt | None = Field(
        default=None, description="Factor; default: what other steps leave of the data set's scale."
    )


def check_weights(
    section: type[AnyStep], facts: Facts, key: str, names_key: str, weights_key: str
) -> Iterator[Problem]:
    """Yield what is wrong with the weights of a list of which one entry is drawn for each sample."""
    weights = facts.get(f"{key}.{weights_key}")
    names = facts.get(f"{key}.{names_key}", section.model_fields[names_key].default)
    if weights is None or names is None:
        return
    if len(names) != len(weights):
        found = f"{len(weights)} weight{'s'[: len(weights) != 1]}"
        yield Problem(f"{key}.{weights_key}", found, f"{len(names)}, one for each of {names_key}")
    elif not any(weights):
        yield Problem(f"{key}.{weights_key}", "only zeros", "a weight above 0")
