"""Steps that torch refuses, explained; ``--check`` finds them before a run does."""

import pytest
import torch
from helpers import tiny_options

from basicsr_ext import load_options
from basicsr_ext.engine.failures import StepError, explained
from basicsr_ext.engine.precision import choose_algorithms
from basicsr_ext.engine.preflight.trial import step_cost


@pytest.fixture(autouse=True)
def restore_algorithms():
    yield
    choose_algorithms(deterministic=False)


def test_an_operator_without_a_deterministic_version_is_named():
    choose_algorithms(deterministic=True)
    named = r"iteration 5: \S*put_\S* has no deterministic version.*deterministic"
    with pytest.raises(StepError, match=named), explained("iteration 5", ""):
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1), accumulate=False)


def test_missing_memory_comes_with_advice():
    words = r"iteration 5: lower gt_size \(.*allocate"
    with pytest.raises(StepError, match=words), explained("iteration 5", "lower gt_size"):
        torch.empty(2**60)


def test_other_errors_stay_as_they_are():
    with pytest.raises(RuntimeError, match="must match") as caught, explained("iteration 5", ""):
        torch.zeros(3) + torch.zeros(2)
    assert type(caught.value) is RuntimeError


def batch_of(lq, gt):
    """Return a batch of one sample, however large, that takes no memory before it is used."""
    images = {name: torch.zeros(()).expand(1, 3, side, side) for name, side in (("lq", lq), ("gt", gt))}
    return {**images, "k": [0]}


def test_a_step_that_fails_is_not_taken_for_a_lack_of_memory(tmp_path):
    options = load_options(tiny_options(tmp_path))
    with pytest.raises(StepError, match=r"ValueError: network_g gives"):
        step_cost(options, batch_of(16, 48), batch_of(16, 48), 1, torch.device("cpu"))


def test_a_step_without_memory_could_not_be_tried(tmp_path):
    options = load_options(tiny_options(tmp_path))
    batch = batch_of(2**20, 2**21)
    assert step_cost(options, batch, batch, 1, torch.device("cpu")) is None
