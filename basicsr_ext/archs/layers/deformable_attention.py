"""Attention to features that are sampled where queries ask for them (DAT, arXiv:2201.00520, and DAT++).

Shapes: B batch, H x W map, N = H * W, C channels, G groups of C / G channels, Hk x Wk sampled points, K = Hk
* Wk keys, D channels of a head. Positions are rows, then columns, -1 to 1 from the first to the last.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attention
from .convolution import in_nchw, pointwise
from .derived import derived
from .onlooker import Places, pooled_places, positions
from .resized import resized
from .windows import Side

Position = Literal["none", "table", "network", "fixed", "convolution"]


class ChannelNorm(nn.Module):
    """Layer normalisation of (..., C), under the releases' key."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.norm(x)


class DeformableAttention(nn.Module):
    """Attention of all positions to keys that are sampled at learned offsets from a grid of references.

    Each group of channels has its own keys, and the heads that attend to them. Maps of any size.

    The two releases differ. DAT (CVPR 2022) has references and queries at the centres of cells; a negative
    ``offset_range`` takes ``tanh`` of positions, 0 leaves them as they are. DAT++ (arXiv:2309.01430) has its
    first and last query at the border, but references half a cell further; a negative ``offset_range`` clamps
    positions to the map. Both bound offsets to a positive ``offset_range``, counted in cells, by ``tanh``.

    Args:
        dim: channels, a multiple of ``heads``.
        heads: number of heads, a multiple of ``groups``.
        groups: number of groups of channels.
        size: (H, W) of the maps that the position bias is learned for. Maps of another size have offsets that
            lie closer in the same table, or a "fixed" bias that is resized.
        stride: rows and columns from one reference to the next.
        kernel: side of the convolution that looks for offsets.
        offset_range: how far offsets reach.
        position: "table", a bias learned for every offset on a grid and interpolated between them; "network",
            a bias that a small network makes of offsets; "fixed", a bias learned for each pair of query and
            key; "convolution", no bias, but queries filtered by a depthwise 3 x 3 convolution are added to
            the result; "none".
        offsets: look for offsets; otherwise keys are averages of ``stride`` x ``stride`` features, and there
            is no position bias.
        release: whose rules apply.
        attn_drop: probability that a weight is dropped.
        proj_drop: probability that an output is dropped.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        groups: int,
        size: Side,
        stride: int = 1,
        kernel: int = 3,
        offset_range: float = -1.0,
        position: Position = "table",
        offsets: bool = True,
        release: Literal["dat", "dat++"] = "dat++",
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.groups, self.size, self.stride = heads, groups, size, stride
        self.offset_range, self.offsets, self.plus = offset_range, offsets, release == "dat++"
        self.attn_drop = attn_drop
        width = dim // groups
        padding = 0 if self.plus and kernel == stride else kernel // 2
        self.conv_offset = nn.Sequential(
            nn.Conv2d(width, width, kernel, stride, padding, groups=width),
            ChannelNorm(width),
            nn.GELU(),
            nn.Conv2d(width, 2, 1, bias=False),
        )
        self.proj_q, self.proj_k, self.proj_v, self.proj_out = (nn.Conv2d(dim, dim, 1) for _ in range(4))
        self.proj_drop = nn.Dropout(proj_drop)
        self.position: Position = position if offsets else "none"
        self.rpe_table = self._position_table(dim)

    def _position_table(self, dim: int) -> nn.Module | nn.Parameter | None:
        H, W = self.size
        if self.position == "none":
            return None
        if self.position == "convolution":
            return nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        if self.position == "network":
            heads = self.heads // self.groups
            return nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, heads, bias=False))
        shape = (2 * H - 1, 2 * W - 1)
        if self.position == "fixed":
            shape = (H * W, (H // self.stride) * (W // self.stride))
        return nn.Parameter(nn.init.trunc_normal_(torch.empty(self.heads, *shape), std=0.01))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.attend(x)[0]

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map (B, H, W, C) to the same, and say where it was sampled.

        Returns:
            The result; the sampled positions and their references, both (B, G, Hk, Wk, 2).
        """
        q = pointwise(self.proj_q, x)
        if self.offsets:
            positions, references = self._positions(self._offsets(q))
            sampled = self._sampled(x, positions)
            places = partial(self._places, x, positions)
        else:
            sampled = F.avg_pool2d(x.permute(0, 3, 1, 2), self.stride, ceil_mode=True).permute(0, 2, 3, 1)
            nowhere = sampled.new_zeros(x.shape[0], self.groups, *sampled.shape[1:3], 2)
            positions, references = self._positions(nowhere)
            places = partial(pooled_places, x, self.stride)
        bias = self._bias((x.shape[1], x.shape[2]), positions)
        y = self._attended(q, sampled.flatten(1, 2), bias, places)
        if isinstance(self.rpe_table, nn.Conv2d):
            y = y + in_nchw(self.rpe_table, q)
        return self.proj_drop(pointwise(self.proj_out, y)), positions, references

    def _offsets(self, q: Tensor) -> Tensor:
        """Return what the convolutions make of each group of queries (B, H, W, C): (B, G, Hk, Wk, 2)."""
        depthwise, norm, activation, last = self.conv_offset
        assert isinstance(depthwise, nn.Conv2d)
        assert isinstance(last, nn.Conv2d)
        least = depthwise.kernel_size[0] - 2 * int(depthwise.padding[0])
        if min(q.shape[1:3]) < least:
            q = F.pad(q, (0, 0, 0, max(least - q.shape[2], 0), 0, max(least - q.shape[1], 0)))
        groups = q.unflatten(3, (self.groups, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)
        y = pointwise(last, activation(norm(in_nchw(depthwise, groups))))
        return y.unflatten(0, (q.shape[0], -1))

    def _positions(self, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Return sampled positions and their references (B, G, Hk, Wk, 2) from offsets of this shape."""
        offsets = offsets.to(self.proj_q.weight.dtype)
        Hk, Wk = offsets.shape[2:4]
        cells = (max(Hk - self.plus, 1), max(Wk - self.plus, 1))
        references = _grid((Hk, Wk), 0.5, cells, offsets.device, offsets.dtype).expand_as(offsets)
        if self.offset_range > 0 or (self.plus and self.offset_range == 0):
            cell = _cell(cells, offsets.device, offsets.dtype)
            return torch.addcmul(references, offsets.tanh(), cell, value=self.offset_range), references
        positions = references + offsets
        if self.offset_range < 0:
            positions = positions.clamp(-1, 1) if self.plus else positions.tanh()
        return positions, references

    def _sampled(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return what each group of channels of (B, H, W, C) is at its positions: (B, Hk, Wk, C)."""
        groups = x.unflatten(3, (self.groups, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        grid = positions.flatten(0, 1).flip(-1)  # torch asks for columns, then rows
        y = F.grid_sample(groups.to(grid.dtype), grid, align_corners=True).to(x.dtype)
        return y.unflatten(0, (x.shape[0], -1)).permute(0, 3, 4, 1, 2).flatten(3).contiguous()

    def _bias(self, size: Side, positions: Tensor) -> Tensor | None:
        """Return what is added to the logits (B or 1, heads, N, K) of keys at (B, G, Hk, Wk, 2)."""
        table, grid = self.rpe_table, (positions.shape[2], positions.shape[3])
        if table is None or isinstance(table, nn.Conv2d):
            return None
        if self.position == "fixed":
            assert isinstance(table, nn.Parameter)
            return self._fixed_bias(table, size, grid).unsqueeze(0)
        shift, cells = (0.0, (max(size[0] - 1, 1), max(size[1] - 1, 1))) if self.plus else (0.5, size)
        queries = _grid(size, shift, cells, positions.device, positions.dtype).view(-1, 1, 2)
        keys = positions.flatten(2, 3).unsqueeze(2)
        if isinstance(table, nn.Sequential):
            offsets = 4 * queries - 4 * keys  # (B, G, N, K, 2)
            bias = table(offsets.sign() * (offsets.abs() + 1).log2() / 3).permute(0, 1, 4, 2, 3)
            return bias.flatten(1, 2)
        assert isinstance(table, nn.Parameter)
        tables = table.unflatten(0, (self.groups, -1)).expand(keys.shape[0], -1, -1, -1, -1).flatten(0, 1)
        places = (0.5 * queries).flip(-1) - (0.5 * keys).flip(-1).flatten(0, 1)  # (B * G, N, K, 2)
        bias = F.grid_sample(tables, places, align_corners=True)
        return bias.view(keys.shape[0], -1, *bias.shape[2:])

    def _fixed_bias(self, table: Tensor, size: Side, grid: Side) -> Tensor:
        """Return the bias (heads, N, K) learned for each pair, resized for maps and grids of another size."""
        made_for = (self.size[0] // self.stride, self.size[1] // self.stride)
        if grid != made_for:
            table = resized(table.unflatten(2, made_for), grid).flatten(2)
        if size != self.size:
            by_query = table.transpose(1, 2).unflatten(2, self.size)
            table = resized(by_query, size).flatten(2).transpose(1, 2)
        return table

    def _places(self, x: Tensor, sampled: Tensor) -> Places:
        B, H, W = x.shape[:3]
        # -1 and 1 are the first and the last position of the map.
        last = torch.tensor([H - 1, W - 1], device=x.device)
        keys = ((sampled.float() + 1) / 2 * last).flatten(2, 3)
        keys = keys.repeat_interleave(self.heads // self.groups, 1)
        return Places(positions((H, W), x.device).view(1, 1, -1, 2), keys, (B, H, W))

    def _attended(
        self, q: Tensor, sampled: Tensor, bias: Tensor | None, places: Callable[[], Places]
    ) -> Tensor:
        """Let queries (B, H, W, C) attend to keys and values projected from (B, K, C): (B, H, W, C)."""
        k, v = (
            pointwise(project, sampled).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.proj_k, self.proj_v)
        )
        tokens = q.flatten(1, 2).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, D)
        dropout = self.attn_drop if self.training else 0.0
        y = attention(tokens, k, v, bias, dropout=dropout, places=places)
        return y.transpose(1, 2).flatten(2).view(q.shape)


@derived
def _grid(size: Side, shift: float, cells: Side, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return positions (H, W, 2): point i of an axis is ``(i + shift) / cells`` of the way from -1 to 1."""
    axes = [
        (torch.arange(count, device=device, dtype=dtype) + shift) / cell * 2 - 1
        for count, cell in zip(size, cells, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


@derived
def _cell(cells: Side, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the side of one of so many cells along each axis (2,), in the releases' units of offsets."""
    return torch.tensor([1 / count for count in cells], device=device, dtype=dtype)
