"""One cosine after a linear warm-up, under the names of timm's ``CosineLRScheduler``, which Swin uses."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pydantic import Field

from ..config import Problem, Scheduler
from ..config.facts import Facts
from ..config.values import NonNegativeFloat, NonNegativeInt, PositiveInt, show
from . import SCHEDULERS, LearningRate


@SCHEDULERS.register("CosineLRScheduler")
class CosineLRScheduler(Scheduler):
    """The rate rises from ``warmup_lr_init`` within ``warmup_t`` iterations, and falls to ``lr_min``."""

    t_initial: PositiveInt = Field(description="Iterations of the cosine; the rate stays at lr_min after it.")
    lr_min: NonNegativeFloat = Field(default=0.0, description="Rate at the end.")
    warmup_t: NonNegativeInt = Field(default=0, description="Iterations of the warm-up.")
    warmup_lr_init: NonNegativeFloat = Field(default=0.0, description="Rate of the first iteration.")
    warmup_prefix: bool = Field(
        default=False, description="The cosine begins after the warm-up, not under it."
    )

    @classmethod
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        """Check that there is one warm-up at most."""
        if facts.get(f"{key}.warmup_t", 0) and (facts.get("train.warmup_iter", -1) or -1) > 0:
            found = show(facts.get("train.warmup_iter"))
            yield Problem("train.warmup_iter", found, f"nothing, as {key}.warmup_t is a warm-up already")

    def rate(self, base: float, warmup_iter: int) -> LearningRate:
        """Return the rate."""

        def rate(iteration: int) -> float:
            t = iteration - 1
            if t < self.warmup_t:
                return self.warmup_lr_init + t * (base - self.warmup_lr_init) / self.warmup_t
            done = min((t - self.warmup_t * self.warmup_prefix) / self.t_initial, 1.0)
            return self.lr_min + 0.5 * (base - self.lr_min) * (1 + math.cos(math.pi * done))

        return rate
