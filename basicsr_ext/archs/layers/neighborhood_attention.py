"""Neighbourhood attention (arXiv:2204.07143): every position attends to the k x k positions around it.

The neighbourhood keeps its size at the border of the map, where it is shifted instead of cut. Queries are
taken in tiles whose neighbourhoods together fit a tile of keys with a halo, so that ordinary matrix products
do the work, with a mask that leaves each query its own neighbours.

Shapes: B batch, H x W map, C channels, D channels of a head, k side of a neighbourhood, r = (k - 1) / 2;
I x J tiles of h x w queries and (h + 2r) x (w + 2r) keys, N and K of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .attention import attention
from .derived import derived
from .onlooker import Places, is_looked_at, positions
from .position_bias import look_up
from .windows import Side


class NeighborhoodAttention(nn.Module):
    """Attention to a neighbourhood, with a learned bias for every relative position.

    Maps smaller than a neighbourhood are extended with zeros at the bottom and the right, which are attended
    to, as in the release of DAT++.

    Args:
        dim: channels, a multiple of ``heads``.
        kernel: side of a neighbourhood, odd.
        heads: number of heads.
        attn_drop: probability that a weight is dropped.
        proj_drop: probability that an output is dropped.
    """

    def __init__(
        self, dim: int, kernel: int, heads: int, attn_drop: float = 0.0, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.kernel, self.heads, self.attn_drop = kernel, heads, attn_drop
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rpb = nn.Parameter(torch.empty(heads, 2 * kernel - 1, 2 * kernel - 1))
        nn.init.trunc_normal_(self.rpb, std=0.02)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        H, W = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, max(self.kernel - W, 0), 0, max(self.kernel - H, 0)))
        qkv = self.qkv(x).unflatten(3, (3, self.heads, -1))
        y = attend_to_neighbours(qkv, self.rpb, self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(y[:, :H, :W].flatten(3)))


def attend_to_neighbours(qkv: Tensor, rpb: Tensor, dropout: float = 0.0) -> Tensor:
    """Let each position attend to its neighbourhood.

    Args:
        qkv: (B, H, W, 3, heads, D) queries, keys and values; H and W are at least k.
        rpb: (heads, 2k - 1, 2k - 1), added to the logits: row and column are the key's minus the query's,
            plus k - 1.
        dropout: probability that a weight is dropped.

    Returns:
        (B, H, W, heads, D).
    """
    eager = not torch.compiler.is_compiling() and not is_looked_at()
    if qkv.is_cuda and eager and (kernels := natten_kernels()):
        return attend_by_natten(qkv, rpb, dropout, kernels)
    radius, size = rpb.shape[1] // 4, (qkv.shape[1], qkv.shape[2])
    tile = (_tile_side(size[0], radius), _tile_side(size[1], radius))
    queries, pairs = _tiles(qkv[:, :, :, :1], tile, 0), _tiles(qkv[:, :, :, 1:], tile, radius)
    rows, columns = (_kinds(count) for count in queries.shape[2:4])
    bias = _tile_bias(rpb, tile, radius)

    def attend(q: Tensor, kv: Tensor, which: Side) -> Tensor:
        added = bias.masked_fill(_strangers(size, tile, radius, which, q.device), -torch.inf).unsqueeze(0)
        (q, k, v), shape = (part.flatten(0, 2) for part in (*q, *kv)), q.shape[1:4]
        places = partial(_places, which, (shape[1], shape[2]), tile, radius, (shape[0], *size), q.device)
        return attention(q, k, v, added, dropout=dropout, places=places).unflatten(0, shape)

    # Only tiles at the border of the map differ in their masks: nine kinds at most.
    done = [
        torch.cat(
            [
                attend(q, kv, (sum(rows[:i]), sum(columns[:j])))
                for j, (q, kv) in enumerate(
                    zip(q_row.split(columns, 3), kv_row.split(columns, 3), strict=True)
                )
            ],
            2,
        )
        for i, (q_row, kv_row) in enumerate(zip(queries.split(rows, 2), pairs.split(rows, 2), strict=True))
    ]
    y = torch.cat(done, 1).unflatten(4, tile).permute(0, 1, 4, 2, 5, 3, 6)  # (B, I, h, J, w, heads, D)
    return y.flatten(3, 4).flatten(1, 2)[:, : size[0], : size[1]]


Kernels = tuple[Callable[..., Tensor], Callable[..., Tensor]]


@cache
def natten_kernels() -> Kernels | None:
    """Return natten's products of queries and keys, and of weights and values; None where there are none.

    Its releases 0.17 have them; those from 0.20 on know no position bias. On CPUs they take 60 times as long
    as tiles do; on GPUs, for which they are made, neither was timed.
    """
    try:
        functional = import_module("natten.functional")
        return functional.na2d_qk, functional.na2d_av
    except (ImportError, AttributeError, RuntimeError):  # the last: it looks for a GPU when imported
        return None


def attend_by_natten(qkv: Tensor, rpb: Tensor, dropout: float, kernels: Kernels) -> Tensor:
    """Return what :func:`attend_to_neighbours` does, by natten's kernels."""
    side = (rpb.shape[1] + 1) // 2
    q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).contiguous()  # (B, heads, H, W, D)
    logits = kernels[0](q * q.shape[-1] ** -0.5, k, kernel_size=side, dilation=1, rpb=rpb.to(q.dtype))
    weights = F.dropout(logits.softmax(-1).to(v.dtype), dropout)
    return kernels[1](weights, v, kernel_size=side, dilation=1).permute(0, 2, 3, 1, 4)


def _tiles(x: Tensor, tile: Side, radius: int) -> Tensor:
    """Cut (B, H, W, parts, heads, D) into tiles with a halo of zeros: (parts, B, I, J, heads, K, D)."""
    down, right = (-length % side for length, side in zip(x.shape[1:3], tile, strict=True))
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, radius, radius + right, radius, radius + down))
    return _Overlapping.apply(padded, tile, radius)


class _Overlapping(torch.autograd.Function):
    """Cut a map into tiles that overlap by twice the radius.

    torch's ``unfold`` does, but its gradient takes three times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, tile: Side, radius: int) -> Tensor:
        ctx.tile, ctx.radius, ctx.shape = tile, radius, x.shape
        (h, w), halo = tile, 2 * radius
        tiles = x.unfold(1, h + halo, h).unfold(2, w + halo, w)  # (B, I, J, parts, heads, D, h + 2r, w + 2r)
        return tiles.permute(3, 0, 1, 2, 4, 6, 7, 5).flatten(5, 6)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (h, w), halo = ctx.tile, 2 * ctx.radius
        grad = grads[0].unflatten(5, (h + halo, w + halo)).permute(1, 2, 5, 3, 6, 0, 4, 7)
        I, J = grad.shape[1], grad.shape[3]  # noqa: E741
        # A tile with its halo reaches over so many others, and what all tiles add to theirs does not overlap.
        over = (-(-(h + halo) // h), -(-(w + halo) // w))
        dx = grad.new_zeros(grad.shape[0], (I + over[0] - 1) * h, (J + over[1] - 1) * w, *ctx.shape[3:])
        for a in range(over[0]):
            for b in range(over[1]):
                share = grad[:, :, a * h : (a + 1) * h, :, b * w : (b + 1) * w]
                place = (
                    dx[:, a * h : (a + I) * h, b * w : (b + J) * w].unflatten(2, (J, w)).unflatten(1, (I, h))
                )
                place[:, :, : share.shape[2], :, : share.shape[4]] += share
        return dx[:, : ctx.shape[1], : ctx.shape[2]], None, None


def _tile_side(length: int, radius: int) -> int:
    """Return how many of ``length`` queries a tile takes along one axis.

    The last tile needs more than ``radius``, so that its queries' neighbourhoods lie within its halo. Tiles
    of about a neighbourhood are fastest: of 56 x 56 queries with 7 x 7 neighbours, forward and backward on a
    CPU, tiles of 4, 7, 10 and 14 take 28, 21, 24 and 33 ms.
    """
    least = max(2 * radius + 1, 7)
    sides = (side for side in range(least, 4 * least) if length % side == 0 or length % side > radius)
    cost = {side: -(-length // side) * side * (side + 2 * radius) for side in sides if side < length}
    return min(cost, key=lambda side: cost[side], default=length)


def _places(
    first: Side, counts: Side, tile: Side, radius: int, maps: tuple[int, int, int], device: torch.device
) -> Places:
    """Return where the tokens of so many tiles lie, counted from the one in row and column ``first``."""
    corners = positions(counts, device) + torch.tensor(first, device=device)
    corners = corners * torch.tensor(tile, device=device)
    tokens = [
        (corners.view(-1, 1, 2) + positions((tile[0] + 2 * r, tile[1] + 2 * r), device).view(1, -1, 2) - r)
        for r in (0, radius)
    ]
    return Places(tokens[0].unsqueeze(1), tokens[1].unsqueeze(1), maps)


def _kinds(count: int) -> list[int]:
    """Divide tiles along one axis into the first, those between, and the last; return how many each are."""
    return [part for part in (1, count - 2, min(count - 1, 1)) if part > 0]


def _tile_bias(rpb: Tensor, tile: Side, radius: int) -> Tensor:
    """Return the bias (heads, N, K) of a tile; pairs that are no neighbours get anything."""
    h, w = tile
    beyond = (w - radius - 1, w - radius - 1, h - radius - 1, h - radius - 1)
    return look_up(F.pad(rpb, beyond).flip(1, 2), tile, (h + 2 * radius, w + 2 * radius))


@derived
def _strangers(size: Side, tile: Side, radius: int, which: Side, device: torch.device) -> Tensor:
    """Return which pairs (N, K) of the tile in row and column ``which`` are no neighbours."""
    rows, columns = (
        _near(length, side, radius, index, device)
        for length, side, index in zip(size, tile, which, strict=True)
    )
    return ~(rows[:, None, :, None] & columns[None, :, None, :]).flatten(2).flatten(0, 1)


def _near(length: int, side: int, radius: int, index: int, device: torch.device) -> Tensor:
    """Return which of its keys each query of a tile attends to, along one axis: (side, side + 2r)."""
    query = torch.arange(side, device=device).unsqueeze(1) + index * side
    key = torch.arange(side + 2 * radius, device=device) + index * side - radius
    first = (query - radius).clamp(0, length - 2 * radius - 1)
    return (key >= first) & (key <= first + 2 * radius)
