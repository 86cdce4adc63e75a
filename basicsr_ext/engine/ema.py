"""Exponential moving average of a network's weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class WeightAverage:
    """A copy of ``network`` whose parameters follow ``average = decay * average + (1 - decay) * value``.

    Buffers (running statistics) are copied as they are.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = deepcopy(network).eval().requires_grad_(False)
        self._source: list[Tensor] = list(network.parameters())
        self._average: list[Tensor] = list(self.network.parameters())
        self._source_buffers = list(network.buffers())
        self._average_buffers = list(self.network.buffers())

    @torch.no_grad()
    def update(self) -> None:
        """Take the network's present weights into the average."""
        torch._foreach_mul_(self._average, self.decay)
        torch._foreach_add_(self._average, self._source, alpha=1 - self.decay)
        self.copy_buffers()

    @torch.no_grad()
    def copy_buffers(self) -> None:
        """Take over the network's present buffers."""
        if self._average_buffers:
            torch._foreach_copy_(self._average_buffers, self._source_buffers)
