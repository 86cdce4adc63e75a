"""Stochastic depth (arXiv:1603.09382)."""

from __future__ import annotations

from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero whole samples of a residual branch with probability ``rate`` while training.

    Surviving samples are scaled by ``1 / (1 - rate)``. Draws come from torch's default generator of the
    input's device.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, ...) with dropped samples."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        """Show the rate in ``print(net)``."""
        return f"rate={self.rate:.3f}"
