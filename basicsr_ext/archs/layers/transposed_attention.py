"""Attention between channels instead of pixels (Restormer, arXiv:2111.09881): linear in the image's size.

Shapes: B batch, H x W map, C channels, D = C / heads channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .convolution import depthwise3x3, in_parts


class _ChannelCosines(torch.autograd.Function):
    """Cosines between channels of queries and keys, with gradients in the layout of their inputs.

    Left to autograd, the product's gradient of the queries would arrive with pixels innermost, and be
    copied, and the normalisation would pass over all pixels several times in each direction.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor) -> Tensor:
        """Map two (B, heads, pixels, D) to (B, heads, D, D)."""
        length_q, length_k = _lengths(q), _lengths(k)
        cosines = q.transpose(-2, -1) @ k / (length_q.unsqueeze(-1) * length_k.unsqueeze(-2))
        ctx.save_for_backward(q, k, length_q, length_k, cosines)
        return cosines

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, length_q, length_k, cosines = ctx.saved_tensors
        # A length at its lower bound is a constant.
        radial = grads[0] * cosines
        radial_q = -radial.sum(-1) / length_q**2 * (length_q > _SHORTEST)
        radial_k = -radial.sum(-2) / length_k**2 * (length_k > _SHORTEST)
        mixing = grads[0] / (length_q.unsqueeze(-1) * length_k.unsqueeze(-2))
        mixing, radial_q, radial_k = (part.to(q.dtype) for part in (mixing, radial_q, radial_k))
        return (
            torch.addcmul(k @ mixing.transpose(-2, -1), q, radial_q.unsqueeze(-2)),
            torch.addcmul(q @ mixing, k, radial_k.unsqueeze(-2)),
        )


_SHORTEST = 1e-12


def _lengths(x: Tensor) -> Tensor:
    """Return the L2 norm over pixels of (B, heads, pixels, D), bounded from below as in the release."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=-2, dtype=dtype).clamp_min(_SHORTEST)


class ChannelAttention(nn.Module):
    """Multi-Dconv head transposed attention: a head's channels attend to each other over all pixels."""

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.qkv_dwconv = depthwise3x3(3 * dim, bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        # Queries, keys and values are computed apart, so that their gradients need not be joined.
        q, k, v = (part.flatten(1, 2) for part in in_parts(x, self.qkv, self.qkv_dwconv, 3))
        q, k = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k))
        attn = (_ChannelCosines.apply(q, k) * self.temperature).softmax(-1).to(v.dtype)
        # Attention and projection are linear maps of each pixel's values: multiplied first, they are one.
        weight = self.project_out.weight.flatten(1).unflatten(1, (self.heads, -1))  # (C, heads, D)
        mixing = (weight.transpose(0, 1) @ attn).transpose(1, 2).flatten(2)  # (B, C, C)
        y = v @ mixing.transpose(-2, -1)
        if self.project_out.bias is not None:
            y = y + self.project_out.bias
        return y.unflatten(1, x.shape[1:3])
