"""Steps that torch refuses, explained; ``--check`` finds them before a run does."""

from multiprocessing import Pipe
from types import SimpleNamespace

import pytest
import torch
from helpers import tiny_options

from basicsr_ext import load_options
from basicsr_ext.engine.build import build_kind, build_parts
from basicsr_ext.engine.failures import StepError, explained
from basicsr_ext.engine.logger import LOG
from basicsr_ext.engine.precision import choose_algorithms
from basicsr_ext.engine.preflight import rehearsal
from basicsr_ext.engine.preflight.summary import _describe, _range
from basicsr_ext.engine.preflight.trial import StepCost, _last_answer, step_cost
from basicsr_ext.engine.progress import duration


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
        step_cost(options, batch_of(16, 48), batch_of(16, 48), 1, 1, torch.device("cpu"))


def test_a_step_without_memory_could_not_be_tried(tmp_path):
    options = load_options(tiny_options(tmp_path))
    batch = batch_of(2**20, 2**21)
    assert step_cost(options, batch, batch, 1, 1, torch.device("cpu")) == "there is too little memory"


def test_a_step_that_takes_too_long_is_said_with_the_limit(tmp_path):
    options = load_options(tiny_options(tmp_path, rehearsal_limit=0.001))
    batch = batch_of(16, 32)
    words = "it did not end within 0.001 seconds, the train.rehearsal_limit"
    assert step_cost(options, batch, batch, 1, 1, torch.device("cpu")) == words


def test_an_estimate_stands_where_the_whole_batch_takes_too_long():
    receiver, sender = Pipe(duplex=False)
    estimate = StepCost(10, 1.0, 2.0, measured=False)
    sender.send((estimate, False))
    assert _last_answer(receiver, 0.1) == estimate
    sender.send((estimate, False))
    sender.close()
    assert _last_answer(receiver, 60) == "there is too little memory"  # the whole batch was too much


def test_an_estimate_names_the_slowest_try_where_tries_differ():
    steady, busy = StepCost(2**30, 1.0, 1.1, measured=True), StepCost(2**30, 1.0, 1.5, measured=True)
    assert _describe(steady) == "1.00 GiB, 1.00 s (measured)"
    assert _describe(busy) == "1.00 GiB, 1.00 s to 1.50 s (measured)"
    assert _range(busy, duration, 7200) == "2:00:00 to 3:00:00"
    assert _range(StepCost(2**30, 0.5, 0.5, measured=True), duration, 7200) == "1:00:00"


def test_stages_that_there_was_no_time_to_try_are_named(tmp_path, caplog, monkeypatch):
    options = load_options(tiny_options(tmp_path, rehearsal_limit=10))
    parts = build_parts(options, 1, training=True)
    kind = build_kind(options, parts.networks, torch.device("cpu"))
    tried = []
    losses = kind.losses
    kind.losses = lambda phase, networks, batch, earlier: (
        tried.append(batch["gt"].shape[-1]) or losses(phase, networks, batch, earlier)
    )
    kind.start_training()
    monkeypatch.setattr(LOG, "propagate", True)  # to caplog
    monkeypatch.setattr(rehearsal, "time", SimpleNamespace(monotonic=iter([0, 5, 11, 12]).__next__))
    rehearsal.rehearse(options, kind, parts.train_set, parts.stages, channels_last=False)
    assert tried == [48]
    message = "Stage 1, 2 was not tried: 10 seconds have passed, the train.rehearsal_limit"
    assert set(caplog.messages) == {message}
