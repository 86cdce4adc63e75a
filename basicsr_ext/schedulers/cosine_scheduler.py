"""Cosine annealing in cycles: BasicSR's ``CosineAnnealingRestartLR`` and Restormer's cyclic form of it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Annotated

from pydantic import Field

from ..config import Problem, Scheduler
from ..config.facts import Facts
from ..config.values import Expect, NonNegativeFloat, PositiveInt
from . import SCHEDULERS, LearningRate, Weights
from .multistep_scheduler import one_for_each

Periods = Annotated[
    list[PositiveInt],
    Field(min_length=1),
    Expect("a list of positive whole numbers", "lists of positive whole numbers"),
]


class CosineCycles(Scheduler):
    """What both have in common."""

    periods: Periods = Field(description="Iterations of each cycle.")
    restart_weights: Weights = Field(default=[1.0], description="Factor on each cycle's rate.")

    @classmethod
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        """Check that each cycle has its values, and that the cycles cover the run."""
        problems = list(one_for_each(facts, key, "restart_weights", [1], "periods", [1]))
        if "eta_mins" in cls.model_fields:
            problems += one_for_each(facts, key, "eta_mins", [0], "periods", [1])
        yield from problems
        periods, total = facts.get(f"{key}.periods"), facts.get("train.total_iter")
        if not problems and periods is not None and total is not None and sum(periods) < total:
            found = f"periods of {sum(periods)} iterations in all"
            yield Problem(f"{key}.periods", found, f"at least train.total_iter, which is {total}")

    def _cycles(self, base: float, eta_mins: Sequence[float]) -> LearningRate:
        ends = list(accumulate(self.periods))

        def rate(iteration: int) -> float:
            step = iteration - 1
            cycle = bisect_left(ends, step)
            if cycle == len(ends):
                raise ValueError(f"the periods end at iteration {ends[-1] + 1}, before {iteration}")
            start = 0 if cycle == 0 else ends[cycle - 1]
            cosine = math.cos(math.pi * ((step - start) / self.periods[cycle]))
            low = eta_mins[cycle]
            return low + self.restart_weights[cycle] * 0.5 * (base - low) * (1 + cosine)

        return rate


@SCHEDULERS.register("CosineAnnealingRestartLR")
class CosineAnnealingRestartLR(CosineCycles):
    """BasicSR's: every cycle falls to the same rate."""

    eta_min: NonNegativeFloat = Field(default=0.0, description="Rate at the end of each cycle.")

    def rate(self, base: float, warmup_iter: int) -> LearningRate:
        """Return the rate; a warm-up overwrites its beginning."""
        return self._cycles(base, [self.eta_min] * len(self.periods))


@SCHEDULERS.register("CosineAnnealingRestartCyclicLR")
class CosineAnnealingRestartCyclicLR(CosineCycles):
    """Restormer's: each cycle falls to a rate of its own."""

    eta_mins: Weights = Field(default=[0.0], description="Rate at the end of each cycle.")

    def rate(self, base: float, warmup_iter: int) -> LearningRate:
        """Return the rate; a warm-up overwrites its beginning."""
        return self._cycles(base, self.eta_mins)
