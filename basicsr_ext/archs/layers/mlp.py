"""Feed-forward networks of transformer blocks.

Shapes: B batch, H x W map, C channels. Those with convolutions take (B, H, W, C), which convolutions see as
channels-last (B, C, H, W) without a copy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .convolution import depthwise3x3, in_nchw, in_parts, pointwise


class Mlp(nn.Module):
    """Linear, GELU, linear.

    Args:
        dim: channels in and out.
        hidden: channels between.
        dropout: probability that a value is dropped, after each linear layer.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class DepthwiseMlp(nn.Module):
    """EDT's: linear layers, and a 5 x 5 depthwise convolution between two GELUs."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 5, padding=2, groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = F.gelu(self.fc1(x))
        x = self._depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.fc2(F.gelu(x))

    def _depthwise(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float16):
            return self.dwconv(x)
        # Gradients of 5 x 5 depthwise kernels take CPUs six times as long in half precision as in single.
        with torch.autocast("cpu", enabled=False):
            conv = self.dwconv
            bias = None if conv.bias is None else conv.bias.float()
            y = F.conv2d(x.float(), conv.weight.float(), bias, padding=2, groups=conv.groups)
        return y.to(x.dtype)


class ConvFFN(nn.Module):
    """CloFormer's: a depthwise convolution after its GELU; it may halve the size."""

    def __init__(self, dim: int, hidden: int, dim_out: int, kernel: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, dim_out, 1)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H / stride, W / stride, dim_out), rounded up."""
        return self.drop(pointwise(self.fc2, in_nchw(self.dwconv, F.gelu(pointwise(self.fc1, x)))))


class GatedFeedForward(nn.Module):
    """Restormer's: one half of the hidden channels gates the other."""

    def __init__(self, dim: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv = depthwise3x3(2 * hidden, bias)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        # Matrix products with the published 127 or 255 channels take up to twice the time of 128 or 256.
        gate, value = in_parts(x, self.project_in, self.dwconv, 2, multiple_of=16)
        weight = self.project_out.weight.flatten(1)
        weight = F.pad(weight, (0, gate.shape[-1] - weight.shape[1]))
        return F.linear(F.gelu(gate) * value, weight, self.project_out.bias)
