"""Signals that end a run in order, agreed upon by all ranks.

SIGTERM and SIGINT ask the run to finish its iteration, or the image it validates with, write a checkpoint and
end with :data:`EXIT_STOPPED`; a second one ends the process at once. SIGUSR1 asks for a checkpoint only.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import distributed

from .distributed import World

EXIT_STOPPED = 75
"""Exit code after an orderly stop (EX_TEMPFAIL): start again with ``--auto_resume`` to go on."""

# torchrun passes a terminal's Ctrl-C on to processes that have received it already.
_ECHO_SECONDS = 2.0 if "TORCHELASTIC_RUN_ID" in os.environ else 0.0

_STOP = "stop"


class Requests(NamedTuple):
    """What signals have asked for."""

    stop: bool
    save: bool


class StoppedError(Exception):
    """The run ended early because a signal asked for it; a checkpoint has been written."""


class SignalListener:
    """Collects signals on every rank and lets all ranks act on them at the same iteration.

    Ranks exchange their flags once an iteration; the exchange runs while the next iteration computes,
    so a request takes effect one iteration later and costs no waiting.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._stop_at: float | None = None
        self._save = False
        self._flags = torch.zeros(2, dtype=torch.int32)
        self._exchange: Any = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals inside the block; without effect outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {
            signal.SIGTERM: self._on_stop,
            signal.SIGINT: self._on_stop,
            signal.SIGUSR1: self._on_save,
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
            self._finish_exchange()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def poll(self) -> Requests:
        """Return what all ranks have agreed to do now; every rank must call this once an iteration."""
        mine = Requests(self._stop_at is not None, self._save)
        self._save = False
        if self._world.size == 1:
            return mine
        agreed = self._finish_exchange()
        self._flags = torch.tensor(mine, dtype=torch.int32)
        self._exchange = distributed.all_reduce(self._flags, distributed.ReduceOp.MAX, async_op=True)
        return agreed

    def stop_wanted(self) -> bool:
        """Say whether a signal to any rank has asked for a stop, without waiting for the other ranks.

        Ranks may hear of it at different moments: they still have to agree on what to do.
        """
        if self._stop_at is not None:
            self._world.raise_flag(_STOP)
            return True
        return self._world.flag_is_raised(_STOP)

    def _finish_exchange(self) -> Requests:
        if self._exchange is None:
            return Requests(stop=False, save=False)
        self._exchange.wait()
        self._exchange = None
        stop, save = self._flags.bool().tolist()
        return Requests(stop, save)

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._stop_at is not None and now - self._stop_at >= _ECHO_SECONDS:
            os._exit(128 + number)
        self._stop_at = self._stop_at if self._stop_at is not None else now

    def _on_save(self, _number: int, _frame: FrameType | None) -> None:
        self._save = True
