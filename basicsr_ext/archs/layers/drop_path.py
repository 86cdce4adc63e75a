"""Stochastic depth (arXiv:1603.09382)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero whole samples of a residual branch with probability ``rate`` while training.

    Surviving samples are scaled by ``1 / (1 - rate)``. Draws come from torch's default generator of the
    input's device.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.draws = rate, rate > 0.0
        # A tensor, as a compiler would take blocks that differ in a number for different ones.
        self.keep: Tensor
        self.register_buffer("keep", torch.tensor(1.0 - rate), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, ...) with dropped samples."""
        if not (self.draws and self.training):
            return x
        mask = torch.bernoulli(self.keep.expand((x.shape[0],) + (1,) * (x.ndim - 1)))
        return x * (mask / self.keep).to(x.dtype)

    def extra_repr(self) -> str:
        """Show the rate in ``print(net)``."""
        return f"rate={self.rate:.3f}"


def draw_alike(network: nn.Module) -> None:
    """Let a network's drop paths of rate 0 draw as the others do, if there are others.

    What they return stays the same, but a compiler then sees one code in all of them.
    """
    paths = [module for module in network.modules() if isinstance(module, DropPath)]
    drops = any(path.rate > 0.0 for path in paths)
    for path in paths:
        path.draws = drops
