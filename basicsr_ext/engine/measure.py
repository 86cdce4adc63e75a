"""What one training step costs: peak memory and time, tried for real."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
from torch import nn

from ..archs import NETWORKS
from ..config import Options
from ..models import MODELS
from .build import import_plugin
from .ema import WeightAverage
from .failures import StepError, is_out_of_memory
from .precision import Stepper, build_optimizer, choose_algorithms

_TIME_LIMIT = 120.0
_FULL_BATCH_SECONDS = 20.0
_FULL_BATCH_MEMORY_SHARE = 0.5


@dataclass(frozen=True)
class StepCost:
    """Peak memory in bytes and seconds of one step; ``measured`` is false where they follow from batch 1."""

    memory: int
    seconds: float
    measured: bool


Shape = tuple[int, ...]


def step_cost(options: Options, lq: Shape, gt: Shape, batch: int, device: torch.device) -> StepCost | None:
    """Try one step of ``batch`` samples.

    On a GPU the step itself is run. On the CPU it runs in a child process, so that running out of memory
    harms nobody: with one sample first, then with the whole batch if that promises to be quick and small.

    Args:
        options: network, model, optimizer, precision.
        lq: shape of one input, (C, H, W).
        gt: shape of one target, (C, H, W).
        batch: samples per micro-batch.
        device: where the run will be.

    Returns:
        The cost, or ``None`` where the step could not be tried: no memory, or no end within two minutes.

    Raises:
        StepError: the step fails for any other reason.
    """
    if device.type == "cuda":
        return _on_gpu(options, lq, gt, batch, device)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(sender, options, lq, gt, batch), daemon=True)
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


def _on_gpu(options: Options, lq: Shape, gt: Shape, batch: int, device: torch.device) -> StepCost | None:
    torch.cuda.reset_peak_memory_stats(device)
    try:
        trial = _Trial(options, device)
        trial.step(lq, gt, batch)
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        trial.step(lq, gt, batch)
        torch.cuda.synchronize(device)
        return StepCost(torch.cuda.max_memory_allocated(device), time.perf_counter() - started, measured=True)
    except Exception as error:
        if is_out_of_memory(error):
            return None
        raise StepError(f"{type(error).__name__}: {error}") from error
    finally:
        torch.cuda.empty_cache()


def _in_child(sender: Connection, options: Options, lq: Shape, gt: Shape, batch: int) -> None:
    try:
        for name in options.plugins:
            import_plugin(name)
        answer = _on_cpu(options, lq, gt, batch)
    except Exception as error:
        answer = None if is_out_of_memory(error) else StepError(f"{type(error).__name__}: {error}")
    sender.send(answer)


def _on_cpu(options: Options, lq: Shape, gt: Shape, batch: int) -> StepCost:
    before = _peak_memory()
    trial = _Trial(options, torch.device("cpu"))
    trial.step(lq, gt, 1)
    started = time.perf_counter()
    trial.step(lq, gt, 1)
    seconds = batch * (time.perf_counter() - started)
    state = trial.state_bytes()
    activations = max(_peak_memory() - before - state, 0)
    memory = state + batch * activations
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if seconds > _FULL_BATCH_SECONDS or memory > _FULL_BATCH_MEMORY_SHARE * available:
        return StepCost(memory, seconds, measured=batch == 1)
    started = time.perf_counter()
    trial.step(lq, gt, batch)
    return StepCost(max(_peak_memory() - before, state), time.perf_counter() - started, measured=True)


class _Trial:
    """Network, losses and optimizer of a run, stepping on noise."""

    def __init__(self, options: Options, device: torch.device) -> None:
        train = options.train
        assert train is not None, "only training is tried"
        choose_algorithms(train.deterministic)
        self._device = device
        self._network: nn.Module = NETWORKS.find(options.network_g.type)(**options.network_g.kwargs).to(
            device
        )
        self._model = MODELS.find(options.model_type)(self._network, train, options.manual_seed)
        self._average = WeightAverage(self._network, train.ema_decay) if train.ema_decay > 0 else None
        optim = train.optim_g
        optimizer = build_optimizer(
            optim.type, self._network.parameters(), device, lr=optim.lr, **optim.kwargs
        )
        self._stepper = Stepper(optimizer, train.amp, device)

    def step(self, lq: Shape, gt: Shape, batch: int) -> None:
        """Run forward, backward and update on ``batch`` samples."""
        data = {
            "lq": torch.rand(batch, *lq, device=self._device),
            "gt": torch.rand(batch, *gt, device=self._device),
            "k": torch.zeros(batch, dtype=torch.int64),
        }
        with self._stepper.autocast():
            losses = self._model.training_step(self._network, data)
            loss = torch.stack(list(losses.values())).sum()
        self._stepper.backward(loss)
        self._stepper.step()
        if self._average is not None:
            self._average.update()

    def state_bytes(self) -> int:
        """Return the bytes of weights, gradients, optimizer state and averaged weights."""
        weights = sum(p.numel() * p.element_size() for p in self._network.parameters())
        moments = sum(
            value.numel() * value.element_size()
            for state in self._stepper.optimizer.state.values()
            for value in state.values()
            if isinstance(value, torch.Tensor)
        )
        return weights * (2 if self._average is None else 3) + moments


def _peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
