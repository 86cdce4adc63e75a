"""Neighbourhood attention (arXiv:2204.07143): every position attends to the k x k positions around it.

The neighbourhood keeps its size at the border of the map, where it is shifted instead of cut. Queries are
taken in tiles whose neighbourhoods together fit a tile of keys with a halo, so that ordinary matrix products
do the work, with a mask that leaves each query its own neighbours.

Shapes: B batch, H x W map, C channels, D channels of a head, k side of a neighbourhood, r = (k - 1) / 2; I x J
tiles of h x w queries and (h + 2r) x (w + 2r) keys, N and K of them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .attention import attention
from .derived import derived
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
    radius, (H, W) = rpb.shape[1] // 4, qkv.shape[1:3]
    tile = (_tile_side(H, radius), _tile_side(W, radius))
    queries = _tiles(qkv[:, :, :, :1], tile, 0)
    keys_values = _tiles(qkv[:, :, :, 1:], tile, radius)
    bias = _tile_bias(rpb, tile, radius)
    # Only tiles at the border of the map differ in their masks: nine kinds at most.
    counts = [_kinds(count) for count in queries.shape[2:4]]
    rows = []
    for i, parts in enumerate(zip(*(x.split(counts[0], 2) for x in (queries, keys_values)), strict=True)):
        row = []
        for j, (q, kv) in enumerate(zip(*(x.split(counts[1], 3) for x in parts), strict=True)):
            which = (sum(counts[0][:i]), sum(counts[1][:j]))
            mask = _strangers((H, W), tile, radius, which, qkv.device)
            added = bias.masked_fill(mask, -torch.inf).unsqueeze(0)
            y = attention(*(part.flatten(0, 2) for part in (*q, *kv)), added, dropout=dropout)
            row.append(y.unflatten(0, q.shape[1:4]))
        rows.append(torch.cat(row, 2))
    y = torch.cat(rows, 1).unflatten(4, tile).permute(0, 1, 4, 2, 5, 3, 6)  # (B, I, h, J, w, heads, D)
    return y.flatten(3, 4).flatten(1, 2)[:, :H, :W]


def _tiles(x: Tensor, tile: Side, radius: int) -> Tensor:
    """Cut (B, H, W, parts, heads, D) into tiles with a halo of zeros: (parts, B, I, J, heads, K, D)."""
    down, right = (-length % side for length, side in zip(x.shape[1:3], tile, strict=True))
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, radius, radius + right, radius, radius + down))
    return _Overlapping.apply(padded, tile, radius)


class _Overlapping(torch.autograd.Function):
    """Cut a map into tiles that overlap by twice the radius.

    torch's ``unfold`` does, but its gradient takes XX times as long.
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
        # As many whole tiles as a tile with its halo reaches over; of each, all tiles' shares lie side by side.
        over = (-(-(h + halo) // h), -(-(w + halo) // w))
        dx = grad.new_zeros(len(grad), (I + over[0] - 1) * h, (J + over[1] - 1) * w, *ctx.shape[3:])
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

    The last tile needs more than ``radius``, so that its queries' neighbourhoods lie within its halo. Tiles of
    about a neighbourhood are fastest: of 56 x 56 queries with 7 x 7 neighbours, tiles of 4, 7, 10 and 14 take
    28, 21, 24 and 33 ms.
    """
    least = max(2 * radius + 1, 7)
    sides = (side for side in range(least, 4 * least) if length % side == 0 or length % side > radius)
    cost = {side: -(-length // side) * side * (side + 2 * radius) for side in sides if side < length}
    return min(cost, key=lambda side: cost[side], default=length)


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
