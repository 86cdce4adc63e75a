"""Steps down at milestones, with restarts (BasicSR's ``MultiStepRestartLR``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydantic import Field

from ..config import Problem, Scheduler
from ..config.facts import Facts
from ..config.values import NonNegativeFloat, show
from . import SCHEDULERS, Iterations, LearningRate, Weights


@SCHEDULERS.register("MultiStepLR", "MultiStepRestartLR")
class MultiStepLR(Scheduler):
    """The rate is multiplied by ``gamma`` after each milestone; restarts set it anew.

    BasicSR's scheduler multiplies the rate of the iteration before, which a warm-up has overwritten. So
    the decay continues from the last warm-up value, ``base * (warmup_iter - 1) / warmup_iter``, until the
    next restart, and milestones inside the warm-up have no effect.
    """

    milestones: Iterations = Field(description="Iterations after which the rate drops, increasing.")
    gamma: NonNegativeFloat = Field(default=0.1, description="Factor at each milestone.")
    restarts: Iterations = Field(default=[0], min_length=1, description="Iterations that begin a cycle.")
    restart_weights: Weights = Field(default=[1.0], description="Factor on the base rate, one a restart.")

    @classmethod
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        """Check the order of the iterations, and that each restart has a weight."""
        for name in ("milestones", "restarts"):
            values = facts.get(f"{key}.{name}")
            if values is not None and sorted(set(values)) != values:
                fix = f"write {sorted(set(values))}"
                yield Problem(f"{key}.{name}", show(values), "increasing iterations", fix)
        yield from one_for_each(facts, key, "restart_weights", [1], "restarts", [0])

    def rate(self, base: float, warmup_iter: int) -> LearningRate:
        """Return the rate after a warm-up of ``warmup_iter`` iterations (-1: none)."""
        drops = Counter(self.milestones)
        weights = dict(zip(self.restarts, self.restart_weights, strict=True))

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
                    value *= self.gamma ** drops[milestone]
            return value

        return rate


def one_for_each(
    facts: Facts, key: str, name: str, default: list[int], of: str, of_default: list[int]
) -> Iterator[Problem]:
    """Yield a problem if list ``name`` has another length than ``of``; left out, each has its default."""
    values, others = facts.get(f"{key}.{name}", default), facts.get(f"{key}.{of}", of_default)
    if values is not None and others is not None and len(values) != len(others):
        found = f"{len(values)} {'value' if len(values) == 1 else 'values'} ({show(values)})"
        yield Problem(f"{key}.{name}", found, f"{len(others)}, one for each of {of}")
