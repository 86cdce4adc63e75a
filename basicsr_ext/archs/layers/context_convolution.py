"""Convolutions whose weights depend on the context, beside global attention (CloFormer, arXiv:2303.17803).

Shapes: B batch, H x W map, C channels, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attention
from .convolution import in_nchw, pointwise
from .onlooker import pooled_places


class ContextWeights(nn.Module):
    """The two 1 x 1 convolutions that turn products of queries and keys into weights."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.act_block = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.SiLU(), nn.Conv2d(dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        first, activation, second = self.act_block
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        return pointwise(second, activation(pointwise(first, x)))


class AttnConv(nn.Module):
    """Heads that are convolutions beside heads that attend globally.

    Of a convolving head, one depthwise convolution, the shared weights, filters queries, keys and values;
    ``tanh`` of what :class:`ContextWeights` makes of the products of queries and keys weighs the values.
    Keys and values of global heads come from the map averaged over ``pool`` x ``pool`` positions. A map of
    which the pool is no divisor ends with averages of fewer.

    Args:
        dim: channels, a multiple of the number of heads.
        splits: numbers of heads: for each of ``kernels``, then of global ones; 0 leaves a branch out.
        kernels: sides of the depthwise convolutions, odd.
        pool: side of what is averaged to one key.
        bias: give queries, keys, values and the projection a bias.
        attn_drop: probability that a weight is dropped.
        proj_drop: probability that an output is dropped.
    """

    def __init__(
        self,
        dim: int,
        splits: Sequence[int],
        kernels: Sequence[int],
        pool: int,
        bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.width = dim // sum(splits)
        self.scale = self.width**-0.5
        self.pool = pool
        self.attn_drop = attn_drop
        local = zip(splits[:-1], kernels, strict=True)
        widths = [(heads * self.width, kernel) for heads, kernel in local if heads]
        self.qkvs = nn.ModuleList(nn.Conv2d(dim, 3 * width, 1, bias=bias) for width, _ in widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(3 * width, 3 * width, kernel, padding=kernel // 2, groups=3 * width)
            for width, kernel in widths
        )
        self.act_blocks = nn.ModuleList(ContextWeights(width) for width, _ in widths)
        self.global_heads = splits[-1]
        if self.global_heads:
            self.global_q = nn.Conv2d(dim, splits[-1] * self.width, 1, bias=bias)
            self.global_kv = nn.Conv2d(dim, 2 * splits[-1] * self.width, 1, bias=bias)
        self.proj = nn.Conv2d(dim, dim, 1, bias=bias)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        y = [
            self._local(x, qkv, conv, context)
            for qkv, conv, context in zip(self.qkvs, self.convs, self.act_blocks, strict=True)
        ]
        if self.global_heads:
            y.append(self.attend_globally(x))
        return self.proj_drop(pointwise(self.proj, torch.cat(y, -1) if len(y) > 1 else y[0]))

    def _local(self, x: Tensor, qkv: nn.Module, conv: nn.Module, context: nn.Module) -> Tensor:
        assert isinstance(qkv, nn.Conv2d)
        q, k, v = in_nchw(conv, pointwise(qkv, x)).chunk(3, -1)
        weights = torch.tanh(context(q * k) * self.scale)
        return F.dropout(weights, self.attn_drop, self.training) * v

    def attend_globally(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to what the global heads make of it: (B, H, W, their channels)."""
        pooled = F.avg_pool2d(x.permute(0, 3, 1, 2), self.pool, ceil_mode=True).permute(0, 2, 3, 1)
        q = pointwise(self.global_q, x).flatten(1, 2).unflatten(2, (self.global_heads, -1))
        kv = pointwise(self.global_kv, pooled).flatten(1, 2).unflatten(2, (2, self.global_heads, -1))
        q, (k, v) = q.transpose(1, 2), kv.permute(2, 0, 3, 1, 4)  # (B, heads, tokens, D)
        dropout, places = self.attn_drop if self.training else 0.0, partial(pooled_places, x, self.pool)
        y = attention(q, k, v, scale=self.scale, dropout=dropout, places=places)
        return y.transpose(1, 2).flatten(2).unflatten(1, x.shape[1:3])
