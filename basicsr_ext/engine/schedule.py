"""Learning rates and stages as pure functions of the iteration.

Iterations count from 1. The learning rates equal those of BasicSR's and Restormer's schedulers at
every iteration, including what their recursive form does after a warm-up (see :func:`_multi_step`).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate

from ..config.schema import Spec

LearningRate = Callable[[int], float]


def learning_rate(scheduler: Spec | None, base: float, warmup_iter: int = -1) -> LearningRate:
    """Return the function from iteration (1-based) to learning rate.

    Args:
        scheduler: one of :data:`SCHEDULERS` and its arguments; ``None`` keeps ``base``.
        base: the optimizer's learning rate.
        warmup_iter: below this iteration the rate is ``base / warmup_iter * iteration``.

    Raises:
        ValueError: the scheduler is not known.
    """
    if scheduler is None:
        scheduler = Spec(type="MultiStepLR", milestones=[])  # pyright: ignore[reportCallIssue]
    if scheduler.type not in SCHEDULERS:
        raise ValueError(f"no scheduler is called {scheduler.type!r}; known: {', '.join(SCHEDULERS)}")
    after_warmup = SCHEDULERS[scheduler.type](base, warmup_iter, **scheduler.kwargs)

    def rate(iteration: int) -> float:
        if iteration < warmup_iter:
            return base / warmup_iter * iteration
        return after_warmup(iteration)

    return rate


def _multi_step(
    base: float,
    warmup_iter: int,
    milestones: Sequence[int],
    gamma: float = 0.1,
    restarts: Sequence[int] = (0,),
    restart_weights: Sequence[float] = (1,),
) -> LearningRate:
    """Return BasicSR's ``MultiStepRestartLR``.

    Its scheduler multiplies the rate of the iteration before, which a warm-up has overwritten. So the
    decay continues from the last warm-up value, ``base * (warmup_iter - 1) / warmup_iter``, until the
    next restart, and milestones inside the warm-up have no effect.
    """
    drops = Counter(milestones)
    weights = dict(zip(restarts, restart_weights, strict=True))

    def rate(iteration: int) -> float:
        step = iteration - 1
        start, value = 0, base * weights.get(0, 1)
        if warmup_iter > 1:
            start, value = warmup_iter - 2, base / warmup_iter * (warmup_iter - 1)
        last_restart = max((restart for restart in weights if start < restart <= step), default=None)
        if last_restart is not None:
            start, value = last_restart, base * weights[last_restart]
        for milestone in sorted(drops):
            if start < milestone <= step:
                value *= gamma ** drops[milestone]
        return value

    return rate


def _cosine_restarts(
    base: float, periods: Sequence[int], restart_weights: Sequence[float], eta_mins: Sequence[float]
) -> LearningRate:
    """Return cosine annealing in cycles, each with its weight and its minimum."""
    ends = list(accumulate(periods))

    def rate(iteration: int) -> float:
        step = iteration - 1
        cycle = bisect_left(ends, step)
        if cycle == len(ends):
            raise ValueError(f"the scheduler's periods end at iteration {ends[-1] + 1}, before {iteration}")
        start = 0 if cycle == 0 else ends[cycle - 1]
        cosine = math.cos(math.pi * ((step - start) / periods[cycle]))
        low = eta_mins[cycle]
        return low + restart_weights[cycle] * 0.5 * (base - low) * (1 + cosine)

    return rate


def _cosine_restart(
    base: float,
    _warmup_iter: int,
    periods: Sequence[int],
    restart_weights: Sequence[float] = (1,),
    eta_min: float = 0,
) -> LearningRate:
    """Return BasicSR's ``CosineAnnealingRestartLR``."""
    return _cosine_restarts(base, periods, restart_weights, [eta_min] * len(periods))


def _cosine_restart_cyclic(
    base: float,
    _warmup_iter: int,
    periods: Sequence[int],
    restart_weights: Sequence[float] = (1,),
    eta_mins: Sequence[float] = (0,),
) -> LearningRate:
    """Return Restormer's ``CosineAnnealingRestartCyclicLR``."""
    return _cosine_restarts(base, periods, restart_weights, eta_mins)


SCHEDULERS: dict[str, Callable[..., LearningRate]] = {
    "MultiStepLR": _multi_step,
    "MultiStepRestartLR": _multi_step,
    "CosineAnnealingRestartLR": _cosine_restart,
    "CosineAnnealingRestartCyclicLR": _cosine_restart_cyclic,
}


def stage_of(iteration: int, stage_iters: Sequence[int]) -> int:
    """Return the 0-based stage that holds ``iteration`` (1-based); past the end it is the last one."""
    return min(bisect_left(list(accumulate(stage_iters)), iteration), len(stage_iters) - 1)
