"""What signals ask for, and when ranks act on it; here each rank is played in this process."""

import os
import signal

import pytest
import torch
from torch import distributed

from basicsr_ext.engine import signals
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.signals import Requests, SignalListener

NOTHING = Requests(stop=False, save=False)


class Exchange:
    """A sum over ranks that is under way until somebody waits for it; the other rank asks for ``flags``."""

    def __init__(self, tensor, flags):
        self.tensor, self.flags, self.waited = tensor, flags, False

    def wait(self):
        self.waited = True
        self.tensor.copy_(torch.maximum(self.tensor, torch.tensor(self.flags, dtype=self.tensor.dtype)))


@pytest.fixture
def exchanges(monkeypatch):
    """Record the exchanges with another rank; the n-th poll of that one asks for ``others[n]``."""
    begun, others = [], []

    def all_reduce(tensor, op, async_op):
        assert op == distributed.ReduceOp.MAX
        assert async_op
        begun.append(Exchange(tensor, others[len(begun)] if len(begun) < len(others) else (0, 0)))
        return begun[-1]

    monkeypatch.setattr(signals.distributed, "all_reduce", all_reduce)
    return begun, others


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_process_acts_at_its_next_poll_and_goes_on_wanting_to_stop(number):
    listener = SignalListener(World())
    with listener.listening():
        assert listener.poll() == NOTHING
        assert not listener.stop_wanted()
        os.kill(os.getpid(), number)
        assert listener.stop_wanted()
        assert listener.poll() == listener.poll() == Requests(stop=True, save=False)


def test_a_checkpoint_is_asked_for_once_a_signal():
    listener = SignalListener(World())
    with listener.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert listener.poll() == Requests(stop=False, save=True)
        assert listener.poll() == NOTHING


def test_handlers_are_put_back(monkeypatch):
    heard = []
    handlers = [(number, lambda number, _: heard.append(number)) for number in (15, 2, 10)]
    before = [signal.signal(number, handler) for number, handler in handlers]
    try:
        with pytest.raises(KeyError), SignalListener(World()).listening():
            raise KeyError
        for number in (15, 2, 10):
            os.kill(os.getpid(), number)
    finally:
        for (number, _), handler in zip(handlers, before, strict=True):
            signal.signal(number, handler)
    assert heard == [15, 2, 10]


@pytest.mark.parametrize(("echo", "seconds", "ends"), [(0.0, 0.0, True), (2.0, 1.9, False), (2.0, 2.0, True)])
def test_a_second_signal_ends_the_process_unless_it_is_torchruns_echo(monkeypatch, echo, seconds, ends):
    ended, moments = [], iter([100.0, 100.0 + seconds])
    monkeypatch.setattr(signals, "_ECHO_SECONDS", echo)
    monkeypatch.setattr(signals.time, "monotonic", lambda: next(moments))
    monkeypatch.setattr(signals.os, "_exit", ended.append)
    listener = SignalListener(World())
    listener._on_stop(signal.SIGTERM, None)
    assert not ended
    listener._on_stop(signal.SIGINT, None)
    assert ended == [128 + signal.SIGINT] * ends
    assert listener.stop_wanted()


def test_ranks_act_one_poll_after_any_of_them_was_asked(exchanges):
    begun, others = exchanges
    others += [(0, 0), (0, 1), (1, 0)]
    listener = SignalListener(World(0, 2))
    assert listener.poll() == NOTHING
    assert listener.poll() == NOTHING
    assert listener.poll() == Requests(stop=False, save=True)
    assert listener.poll() == Requests(stop=True, save=False)
    assert [exchange.waited for exchange in begun] == [True, True, True, False]


def test_a_rank_tells_the_others_what_it_was_asked_for(exchanges):
    begun, _ = exchanges
    listener = SignalListener(World(0, 2))
    listener._on_save(signal.SIGUSR1, None)
    listener.poll()
    listener._on_stop(signal.SIGTERM, None)
    assert listener.poll() == Requests(stop=False, save=True)
    assert [exchange.tensor.tolist() for exchange in begun] == [[0, 1], [1, 0]]
    assert listener.poll() == Requests(stop=True, save=False)


def test_the_last_exchange_is_waited_for_before_the_processes_part(exchanges):
    begun, _ = exchanges
    listener = SignalListener(World(0, 2))
    with listener.listening():
        listener.poll()
        assert not begun[0].waited
    assert begun[0].waited
