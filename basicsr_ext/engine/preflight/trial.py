"""What one training step costs: peak memory and time, tried for real."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator
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

_FULL_BATCH_SECONDS = 20.0
_TRIES = 3
_FULL_BATCH_MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class StepCost:
    """Peak memory in bytes and seconds of one iteration; not ``measured``: they follow from few samples.

    ``seconds`` are those of the fastest of several tries, as other programs only ever make one slower, and
    ``slowest`` those of the slowest.
    """

    memory: int
    seconds: float
    slowest: float
    measured: bool


_NO_MEMORY = "there is too little memory"


def step_cost(
    options: Options, small: Any, batch: Any, ratio: float, grad_accum: int, device: torch.device
) -> StepCost | str:
    """Try one iteration, built as the run builds it.

    On a GPU the iteration itself is run. On the CPU it runs in a child process, so that running out of memory
    harms nobody: with few samples first, then with the whole batch if that promises to be quick and small.

    Args:
        options: of the run.
        small: a micro-batch of few samples, on the host.
        batch: a whole micro-batch.
        ratio: how many times as large ``batch`` is.
        grad_accum: micro-batches an iteration.
        device: where the run will be.

    Returns:
        The cost, or in words why the iteration could not be tried: no memory, or no end within
        ``train.rehearsal_limit``.

    Raises:
        StepError: the iteration fails for any other reason.
    """
    if device.type == "cuda":
        return _on_gpu(options, batch, grad_accum, device)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(
        target=_in_child,
        args=(sender, options.to_mapping(), small, batch, ratio, grad_accum),
        daemon=True,
    )
    child.start()
    sender.close()
    assert options.train is not None, "only training is tried"
    try:
        return _last_answer(receiver, options.train.rehearsal_limit)
    finally:
        child.kill()
        child.join()


def _last_answer(receiver: Connection, limit: float) -> StepCost | str:
    """Return the final answer of a child process, or the one that it has come to within ``limit`` seconds."""
    deadline = time.monotonic() + limit
    answer: Any = f"it did not end within {limit:g} seconds, the train.rehearsal_limit"
    try:
        while receiver.poll(max(deadline - time.monotonic(), 0)):
            answer, final = receiver.recv()
            if isinstance(answer, StepError):
                raise answer
            if final:
                break
    except EOFError:  # the system has ended it
        return _NO_MEMORY
    return answer


def _on_gpu(options: Options, batch: Any, grad_accum: int, device: torch.device) -> StepCost | str:
    torch.cuda.reset_peak_memory_stats(device)
    try:
        trial = _Trial(options, grad_accum, device)
        times = _times(trial, batch)
        return StepCost(torch.cuda.max_memory_allocated(device), min(times), max(times), measured=True)
    except Exception as error:
        if is_out_of_memory(error):
            return _NO_MEMORY
        raise StepError(f"{type(error).__name__}: {error}") from error
    finally:
        torch.cuda.empty_cache()


def _in_child(
    sender: Connection, mapping: dict[str, Any], small: Any, batch: Any, ratio: float, grad_accum: int
) -> None:
    try:
        for answer, final in _on_cpu(load_options(mapping, phases=()), small, batch, ratio, grad_accum):
            sender.send((answer, final))
    except Exception as error:
        out = is_out_of_memory(error)
        sender.send((_NO_MEMORY if out else StepError(f"{type(error).__name__}: {error}"), True))


def _on_cpu(
    options: Options, small: Any, batch: Any, ratio: float, grad_accum: int
) -> Iterator[tuple[StepCost, bool]]:
    """Yield what an iteration costs, and whether that is the last word."""
    before = _peak_memory()
    trial = _Trial(options, grad_accum, torch.device("cpu"))
    times = [ratio * seconds for seconds in _times(trial, small)]
    state = trial.state_bytes()
    activations = max(_peak_memory() - before - state, 0)
    memory = state + round(ratio * activations)
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    large = min(times) > _FULL_BATCH_SECONDS or memory > _FULL_BATCH_MEMORY_SHARE * available
    final = large or ratio == 1
    yield StepCost(memory, min(times), max(times), measured=ratio == 1), final
    if not final:
        times = _times(trial, batch)
        yield StepCost(max(_peak_memory() - before, state), min(times), max(times), measured=True), True


def _times(trial: _Trial, batch: Any) -> list[float]:
    """Return the seconds that iterations take once the first one has warmed everything up."""
    trial.run(batch)
    times = []
    for _ in range(_TRIES):
        started = time.perf_counter()
        trial.run(batch)
        times.append(time.perf_counter() - started)
    return times


class _Trial:
    """The run's networks and optimizers, stepping on one batch over and over."""

    def __init__(self, options: Options, grad_accum: int, device: torch.device) -> None:
        train = options.train
        assert train is not None, "only training is tried"
        choose_algorithms(train.deterministic)
        self._step = TrainingStep(options, build_networks(options), World(device=device), shapes=2)
        self._grad_accum, self._channels_last = grad_accum, train.channels_last
        self._device = device

    def run(self, batch: Any) -> None:
        """Make one iteration in which every phase is due as in the first that has them all."""
        batch = to_device(batch, self._device, self._channels_last)
        iteration = next(n for n in count(1) if all(phase.due(n) for phase in self._step.phases))
        self._step.run(iteration, [batch] * self._grad_accum, self._grad_accum)
        self._step.update_averages()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

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
