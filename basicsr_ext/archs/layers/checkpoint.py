"""Activation checkpointing: keep a stage's input, and compute the rest again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(stage: nn.Module, *inputs: Tensor) -> Tensor:
    """Return ``stage(*inputs)``, keeping no activations of the stage.

    Results, gradients, random draws and running statistics are those of an ordinary call.
    """
    if not torch.is_grad_enabled():
        return stage(*inputs)
    if any(isinstance(module, _BatchNorm) for module in stage.modules()):
        return checkpoint(stage, *inputs, use_reentrant=False, context_fn=lambda: _contexts(stage))
    return checkpoint(stage, *inputs, use_reentrant=False)


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(stage)


@contextmanager
def _statistics_kept(stage: nn.Module) -> Iterator[None]:
    """Normalise by the batch as in the first pass, without counting the batch a second time."""
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm) and module.training]
    tracking = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, tracked in zip(norms, tracking, strict=True):
            norm.track_running_stats = tracked
