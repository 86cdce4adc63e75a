"""Learning rates are pure functions of the iteration, equal to BasicSR's and Restormer's."""

import math
from types import SimpleNamespace

import pytest
import torch
from basicsr.models import lr_scheduler
from basicsr.models.base_model import BaseModel
from hypothesis import given, settings
from hypothesis import strategies as st

import basicsr_ext  # noqa: F401 (makes basicsr importable)
from basicsr_ext.data.sampling import Stage, stage_of
from basicsr_ext.schedulers import SCHEDULERS, learning_rate

TOTAL = 60
increasing = st.lists(st.integers(1, TOTAL), max_size=4).map(sorted)


def basicsr_rates(scheduler_class, kwargs, base, warmup_iter):
    """Return the learning rates that BasicSR's own training loop sets, iteration by iteration."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    model = SimpleNamespace(optimizers=[optimizer], schedulers=[scheduler_class(optimizer, **kwargs)])
    model._get_init_lr = lambda: BaseModel._get_init_lr(model)
    model._set_lr = lambda rates: BaseModel._set_lr(model, rates)
    rates = []
    for iteration in range(1, TOTAL + 1):
        optimizer.step()
        BaseModel.update_learning_rate(model, iteration, warmup_iter)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def our_rates(name, kwargs, base, warmup_iter):
    rate = learning_rate(SCHEDULERS.find(name)(type=name, **kwargs), base, warmup_iter)
    return [rate(iteration) for iteration in range(1, TOTAL + 1)]


@pytest.mark.parametrize("name", ["MultiStepLR", "MultiStepRestartLR"])
@settings(deadline=None, max_examples=60)
@given(
    milestones=st.lists(st.integers(1, TOTAL), max_size=5),
    gamma=st.sampled_from([0.5, 0.1]),
    restarts=st.lists(st.integers(1, TOTAL), unique=True, max_size=3).map(sorted),
    warmup_iter=st.sampled_from([-1, 0, 1, 2, 5, 20]),
)
def test_multi_step_equals_basicsr(name, milestones, gamma, restarts, warmup_iter):
    kwargs = {
        "milestones": milestones,
        "gamma": gamma,
        "restarts": [0, *restarts],
        "restart_weights": [1, *(0.5 for _ in restarts)],
    }
    expected = basicsr_rates(lr_scheduler.MultiStepRestartLR, kwargs, 2e-4, warmup_iter)
    assert our_rates(name, kwargs, 2e-4, warmup_iter) == expected


@settings(deadline=None, max_examples=30)
@given(
    first=st.integers(1, TOTAL - 1),
    eta_min=st.sampled_from([0, 1e-7]),
    warmup_iter=st.sampled_from([-1, 5, 20]),
)
def test_cosine_restart_equals_basicsr(first, eta_min, warmup_iter):
    kwargs = {"periods": [first, TOTAL - first], "restart_weights": [1, 0.5], "eta_min": eta_min}
    expected = basicsr_rates(lr_scheduler.CosineAnnealingRestartLR, kwargs, 3e-4, warmup_iter)
    assert our_rates("CosineAnnealingRestartLR", kwargs, 3e-4, warmup_iter) == expected


class RestormerCyclic(torch.optim.lr_scheduler.LRScheduler):
    """Restormer's schedule, written in torch's form: each cycle anneals to its own minimum."""

    def __init__(self, optimizer, periods, restart_weights, eta_mins):
        self.cycles = list(zip(periods, restart_weights, eta_mins, strict=True))
        super().__init__(optimizer)

    def get_lr(self):
        step = self.last_epoch
        cycle = 0
        while step > self.cycles[cycle][0]:
            step -= self.cycles[cycle][0]
            cycle += 1
        period, weight, low = self.cycles[cycle]
        fall = 1 + math.cos(math.pi * (step / period))
        return [low + weight * 0.5 * (base - low) * fall for base in self.base_lrs]


@settings(deadline=None, max_examples=30)
@given(first=st.integers(1, TOTAL - 1), warmup_iter=st.sampled_from([-1, 10]))
def test_cyclic_cosine_equals_restormer(first, warmup_iter):
    kwargs = {"periods": [first, TOTAL - first], "restart_weights": [1, 1], "eta_mins": [3e-4, 1e-6]}
    expected = basicsr_rates(RestormerCyclic, kwargs, 3e-4, warmup_iter)
    assert our_rates("CosineAnnealingRestartCyclicLR", kwargs, 3e-4, warmup_iter) == pytest.approx(
        expected, rel=1e-15
    )


def test_a_rate_does_not_depend_on_the_iterations_asked_before():
    rate = learning_rate(
        SCHEDULERS.find("MultiStepLR")(type="MultiStepLR", milestones=[10, 20], gamma=0.5), 1.0
    )
    assert [rate(30), rate(1), rate(15), rate(30)] == [0.25, 1.0, 0.5, 0.25]


def test_without_a_scheduler_the_rate_is_constant_after_warm_up():
    rate = learning_rate(None, 1.0, warmup_iter=4)
    assert [rate(1), rate(2), rate(3)] == [0.25, 0.5, 0.75]
    assert rate(100) == rate(4)


def test_a_warm_up_rises_from_where_it_is_told_to():
    rate = learning_rate(None, 2e-4, 10, 1e-5)
    assert [rate(0), rate(5)] == pytest.approx([1e-5, 1.05e-4])
    # What BasicSR goes on with is the last value of its own warm-up.
    assert [rate(9), rate(10)] == pytest.approx([1.81e-4, 1.8e-4])


def test_a_stage_begins_with_the_iteration_after_the_one_before_it_ends():
    stages = [Stage(iters, 16, 1) for iters in (2, 1, 3)]
    assert [stage_of(iteration, stages) for iteration in range(1, 7)] == [0, 0, 1, 2, 2, 2]
