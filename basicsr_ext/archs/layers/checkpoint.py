"""Activation checkpointing: keep a stage's input, and compute the rest again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(stage: nn.Module, *inputs: Any) -> Tensor:
    """Return ``stage(*inputs)``, keeping no activations of the stage.

    Results, gradients, random draws and running statistics are those of an ordinary call. A compiler gets
    stages with batch normalisation as they are: it cannot trace what would restore running statistics.
    """
    if not torch.is_grad_enabled():
        return stage(*inputs)
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return checkpoint(stage, *inputs, use_reentrant=False)
    if torch.compiler.is_compiling():
        return stage(*inputs)
    return checkpoint(stage, *inputs, use_reentrant=False, context_fn=lambda: _contexts(norms))


def _contexts(
    norms: Sequence[nn.Module],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_kept(norms)


@contextmanager
def _statistics_kept(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Undo what the second pass adds to running statistics: they have counted the batch in the first."""
    buffers = [buffer for norm in norms for buffer in norm.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
