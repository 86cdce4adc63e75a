"""A learning-rate schedule of one's own: ``train: {scheduler: {type: Halving, period: 400}}``."""

from collections.abc import Callable

from pydantic import Field
from typing_extensions import override

from basicsr_ext.config import Scheduler
from basicsr_ext.config.values import PositiveInt
from basicsr_ext.registry import SCHEDULERS


@SCHEDULERS.register("Halving")
class Halving(Scheduler):
    """Half the rate after every period."""

    period: PositiveInt = Field(description="Iterations.")

    @override
    def rate(self, base: float, warmup_iter: int) -> Callable[[int], float]:
        return lambda iteration: base * 0.5 ** ((iteration - 1) // self.period)
