"""What one training step costs: peak memory and time, tried for real."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from ...config import Options, load_options
from ...data.loader import to_device
from ..build import build_networks
from ..distributed import World
from ..failures import StepError, is_out_of_memory
from ..precision import choose_algorithms
from ..step import TrainingStep

_TIME_LIMIT = 120.0
_FULL_BATCH_SECONDS = 20.0
_TRIES = 3
"""Other programs only ever make an iteration slower: the fastest of several is nearest to the truth."""
_FULL_BATCH_MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class StepCost:
    """Peak memory in bytes and seconds of one iteration; not ``measured``: they follow from few samples."""

    memory: int
    seconds: float
    measured: bool


def step_cost(
    options: Options, small: Any, batch: Any, ratio: float, device: torch.device
) -> StepCost | None:
    """Try one iteration, built as the run builds it.

    On a GPU the iteration itself is run. On the CPU it runs in a child process, so that running out of memory
    harms nobody: with few samples first, then with the whole batch if that promises to be quick and small.

    Args:
        options: of the run.
        small: a micro-batch of few samples, on the host.
        batch: a whole micro-batch.
        ratio: how many times as large ``batch`` is.
        device: where the run will be.

    Returns:
        The cost, or ``None`` where the iteration could not be tried: no memory, or no end within two minutes.

    Raises:
        StepError: the iteration fails for any other reason.
    """
    if device.type == "cuda":
        return _on_gpu(options, batch, device)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(
        target=_in_child,
        args=(sender, options.to_mapping(), small, batch, ratio),
        daemon=True,
    )
    child.start()
    sender.close()
    answer = None
    try:
        if receiver.poll(_TIME_LIMIT):
            answer = receiver.recv()
    except EOFError:
        pass
    finally:
        child.kill()
        child.join()
    if isinstance(answer, StepError):
        raise answer
    return answer


def _on_gpu(options: Options, batch: Any, device: torch.device) -> StepCost | None:
    torch.cuda.reset_peak_memory_stats(device)
    try:
        trial = _Trial(options, device)
        trial.run(batch)
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        trial.run(batch)
        torch.cuda.synchronize(device)
        return StepCost(torch.cuda.max_memory_allocated(device), time.perf_counter() - started, measured=True)
    except Exception as error:
        if is_out_of_memory(error):
            return None
        raise StepError(f"{type(error).__name__}: {error}") from error
    finally:
        torch.cuda.empty_cache()


def _in_child(sender: Connection, mapping: dict[str, Any], small: Any, batch: Any, ratio: float) -> None:
    try:
        answer = _on_cpu(load_options(mapping, phases=()), small, batch, ratio)
    except Exception as error:
        answer = None if is_out_of_memory(error) else StepError(f"{type(error).__name__}: {error}")
    sender.send(answer)


def _on_cpu(options: Options, small: Any, batch: Any, ratio: float) -> StepCost:
    before = _peak_memory()
    trial = _Trial(options, torch.device("cpu"))
    trial.run(small)
    seconds = ratio * min(_timed(trial, small) for _ in range(_TRIES))
    state = trial.state_bytes()
    activations = max(_peak_memory() - before - state, 0)
    memory = state + round(ratio * activations)
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if seconds > _FULL_BATCH_SECONDS or memory > _FULL_BATCH_MEMORY_SHARE * available:
        return StepCost(memory, seconds, measured=ratio == 1)
    seconds = min(_timed(trial, batch) for _ in range(_TRIES))
    return StepCost(max(_peak_memory() - before, state), seconds, measured=True)


def _timed(trial: _Trial, batch: Any) -> float:
    started = time.perf_counter()
    trial.run(batch)
    return time.perf_counter() - started


class _Trial:
    """The run's networks and optimizers, stepping on one batch over and over."""

    def __init__(self, options: Options, device: torch.device) -> None:
        train = options.train
        assert train is not None, "only training is tried"
        choose_algorithms(train.deterministic)
        self._step = TrainingStep(options, build_networks(options), World(device=device), shapes=2)
        self._grad_accum, self._channels_last = train.grad_accum, train.channels_last
        self._device = device

    def run(self, batch: Any) -> None:
        """Make one iteration in which every phase is due as in the first that has them all."""
        batch = to_device(batch, self._device, self._channels_last)
        iteration = next(n for n in count(1) if all(phase.due(n) for phase in self._step.phases))
        self._step.run(iteration, [batch] * self._grad_accum)
        self._step.update_averages()

    def state_bytes(self) -> int:
        """Return the bytes of weights, gradients, optimizer state and averaged weights."""
        networks = {**self._step.networks, "": nn.ModuleList(a.network for a in self._step.averages.values())}
        weights = sum(
            _bytes(p) * (2 if p.requires_grad else 1) for n in networks.values() for p in n.parameters()
        )
        moments = sum(
            _bytes(value)
            for optimizer in self._step.optimizers.values()
            for state in optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        )
        return weights + moments


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
