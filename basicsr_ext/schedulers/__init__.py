"""Learning rates as pure functions of the iteration, one family a file, ``*_scheduler.py``.

Iterations count from 1. The learning rates equal those of BasicSR's and Restormer's schedulers at every
iteration, including what their recursive form does after a warm-up (see :class:`.MultiStepLR`). Imports
``config`` and ``registry``; no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from ..config import Scheduler
from ..config.values import Expect, NonNegativeInt
from ..registry import SCHEDULERS as SCHEDULERS

LearningRate = Callable[[int], float]
"""From iteration (1-based) to learning rate."""
Weights = Annotated[
    list[Annotated[float, Field(allow_inf_nan=False), Expect("a number", "numbers")]],
    Field(min_length=1),
    Expect("a list of numbers", "lists of numbers"),
]
Iterations = Annotated[
    list[NonNegativeInt],
    Expect("a list of whole numbers from 0 up", "lists of whole numbers from 0 up"),
]


def learning_rate(
    scheduler: Scheduler | None, base: float, warmup_iter: int = -1, warmup_lr: float = 0.0
) -> LearningRate:
    """Return the function from iteration (1-based) to learning rate.

    Args:
        scheduler: the option file's; ``None`` keeps ``base``.
        base: the optimizer's learning rate.
        warmup_iter: below this iteration the rate rises linearly to ``base``.
        warmup_lr: what it would be at iteration 0.
    """
    steps: Scheduler = scheduler or SCHEDULERS.find("MultiStepLR")(type="MultiStepLR", milestones=[])
    after_warmup = steps.rate(base, warmup_iter)

    def rate(iteration: int) -> float:
        if iteration < warmup_iter:
            return warmup_lr + (base - warmup_lr) / warmup_iter * iteration
        return after_warmup(iteration)

    return rate
