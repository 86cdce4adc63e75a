"""Steps down at regular intervals, as torch's ``StepLR``."""

from __future__ import annotations

from pydantic import Field
from typing_extensions import override

from ..config import Scheduler
from ..config.values import NonNegativeFloat, PositiveInt
from . import SCHEDULERS, LearningRate


@SCHEDULERS.register("StepLR")
class StepLR(Scheduler):
    """The rate is multiplied by ``gamma`` every ``step_size`` iterations, those of a warm-up counted."""

    step_size: PositiveInt = Field(description="Iterations between two drops.")
    gamma: NonNegativeFloat = Field(default=0.1, description="Factor at each of them.")

    @override
    def rate(self, base: float, warmup_iter: int) -> LearningRate:
        """Return the rate after a warm-up of ``warmup_iter`` iterations (-1: none)."""
        return lambda iteration: base * self.gamma ** ((iteration - 1) // self.step_size)
