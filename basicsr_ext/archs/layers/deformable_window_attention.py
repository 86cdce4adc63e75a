"""Window attention whose keys are sampled at learned offsets: MSwin with DAT's idea (arXiv:2201.00520).

Each window has a grid of reference points, ``stride`` pixels apart. A small network looks at the queries
there and moves every point, by at most ``reach`` windows; keys and values are interpolated where the points
have come to rest, also beyond the window. The queries of a window attend to its own points only, so that
memory is linear in pixels, whatever the map's size. Of 48 x 176 features, one head's logits take in float32

=============================================  ===================  ======
keys of a query                                logits               memory
=============================================  ===================  ======
46 x 174 points of the whole map (3 x 3, all)  8448 x 8004          270 MB
points of its window of 16, stride 1           8448 x 256           8.7 MB
points of its region of 32, stride 4           12288 (padded) x 64  3.1 MB
=============================================  ===================  ======

Shapes: B batch, H x W map, C channels, G groups of heads that share offsets, D channels of a head, w side of
a window, s stride, c = w / s points along a side of a window, N = w * w its queries, K = c * c its keys, M =
B * (H / w) * (W / w) windows, Hk x Wk = H / s x W / s points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attention
from .convolution import in_nchw
from .derived import derived
from .multi_window_attention import check_lengths
from .onlooker import Places
from .window_attention import bias_from_offsets
from .windows import Side, window_partition, window_places, window_reverse


class Offsets(nn.Module):
    """The network that looks for offsets: depthwise convolution, normalisation, GELU, linear.

    It starts with offsets of 0.

    Args:
        dim: channels of the queries.
        groups: offsets of a point.
        stride: pixels from one point to the next.
    """

    def __init__(self, dim: int, groups: int, stride: int) -> None:
        super().__init__()
        self.groups = groups
        # It sees a point's cell and a margin of one pixel.
        self.dwconv = nn.Conv2d(dim, dim, stride + 2, stride, 1, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Linear(dim, 2 * groups, bias=False)
        nn.init.zeros_(self.proj.weight)

    def forward(self, q: Tensor) -> Tensor:
        """Map (B, H, W, C) to rows and columns between -1 and 1: (B, Hk, Wk, G, 2)."""
        y = self.proj(F.gelu(self.norm(in_nchw(self.dwconv, q))))
        return y.to(self.proj.weight.dtype).tanh().unflatten(3, (self.groups, 2))


class DeformableWindowBranch(nn.Module):
    """Attention from the tokens of each window to keys at learned offsets from its reference points.

    With ``stride`` 1 it starts as a :class:`.multi_window_attention.WindowBranch`, whose state-dict keys it
    has beside those of its ``offsets``. The position bias is that of a point's place before it moves; with
    a stride, one for each pair of cells of that side. A map that windows do not tile is extended with zeros,
    and so is everything beyond it.

    Args:
        dim: channels.
        window: side of the windows.
        heads: number of heads.
        head_dim: channels of a head.
        relative: learn a bias for every relative position; otherwise for every query and key.
        dropout: probability that an output is dropped.
        stride: pixels from one reference point to the next; divides ``window``.
        groups: groups of heads with offsets of their own.
        reach: largest offset in windows.
        offsets: look for offsets; otherwise the keys stay at their reference points.

    Raises:
        ValueError: ``stride`` does not divide ``window``, or ``groups`` not ``heads``.
    """

    def __init__(
        self,
        dim: int,
        window: int,
        heads: int,
        head_dim: int,
        relative: bool = True,
        dropout: float = 0.0,
        stride: int = 1,
        groups: int = 1,
        reach: float = 0.5,
        offsets: bool = True,
    ) -> None:
        super().__init__()
        if window % stride:
            raise ValueError(f"strides: {stride} does not divide the window's side {window}")
        if heads % groups:
            raise ValueError(f"offset_groups: {groups} does not divide {heads} heads")
        self.window, self.heads, self.relative = window, heads, relative
        self.stride, self.groups, self.reach = stride, groups, reach
        cells = window // stride
        shape = (2 * cells - 1, 2 * cells - 1) if relative else (window**2, cells**2)
        self.pos_embedding = nn.Parameter(torch.randn(shape))
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, dim), nn.Dropout(dropout))
        self.offsets = Offsets(heads * head_dim, groups, stride) if offsets else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        (H, W), w = x.shape[1:3], self.window
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % w))
        size, window, cells = (x.shape[1], x.shape[2]), (w, w), self._cells
        q, k, v = self.to_qkv(x).chunk(3, -1)
        sampled = self._positions(q)
        pairs = self._sampled(torch.cat([k, v], -1), sampled)
        queries = window_partition(q, window).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        pairs = window_partition(pairs, cells).flatten(1, 2).unflatten(-1, (2, self.heads, -1))
        keys, values = pairs.permute(2, 0, 3, 1, 4)  # (M, heads, K, D)
        places = partial(self._places, sampled, size, (x.shape[0], H, W))
        y = attention(queries, keys, values, self._bias().unsqueeze(0), places=places)
        y = y.transpose(1, 2).flatten(2)
        return self.to_out(window_reverse(y.unflatten(1, window), size)[:, :H, :W])

    def _places(self, sampled: Tensor, padded: Side, maps: tuple[int, int, int]) -> Places:
        keys = window_partition(sampled, self._cells).flatten(1, 2).transpose(1, 2)  # (windows, G, K, 2)
        keys = keys.repeat_interleave(self.heads // self.groups, 1)
        window = (self.window, self.window)
        return replace(window_places(padded, window, (0, 0), maps, sampled.device), keys=keys)

    @property
    def _cells(self) -> Side:
        return (self.window // self.stride, self.window // self.stride)

    def _positions(self, q: Tensor) -> Tensor:
        """Return where queries (B, H, W, C) have keys sampled, in pixels: (B or 1, Hk, Wk, G, 2)."""
        dtype = self.pos_embedding.dtype
        points = (q.shape[1] // self.stride, q.shape[2] // self.stride)
        references = _references(points, self.stride, q.device, dtype)
        if self.offsets is None:
            return references.expand(-1, -1, -1, self.groups, -1)
        return torch.add(references, self.offsets(q), alpha=self.reach * self.window)

    def _sampled(self, x: Tensor, positions: Tensor) -> Tensor:
        """Return keys and values (B, H, W, 2C) at positions in pixels: (B, Hk, Wk, 2C)."""
        B, H, W = x.shape[:3]
        # torch asks for columns, then rows, from -1 to 1 between the map's outer edges.
        scale = _scale((H, W), x.device, positions.dtype)
        grid = (((2 * positions + 1) * scale) - 1).flip(-1)
        grid = grid.expand(B, -1, -1, -1, -1).permute(0, 3, 1, 2, 4).flatten(0, 1)
        groups = x.unflatten(3, (2, self.groups, -1)).permute(0, 4, 3, 5, 1, 2).flatten(2, 3).flatten(0, 1)
        y = F.grid_sample(groups.to(grid.dtype), grid, align_corners=False).to(x.dtype)
        y = y.unflatten(1, (2, -1)).unflatten(0, (B, -1))  # (B, G, 2, C / G, Hk, Wk)
        return y.permute(0, 4, 5, 2, 1, 3).flatten(3)

    def _bias(self) -> Tensor:
        """Return what is added to the logits of every window: (1, N, K)."""
        bias = self.pos_embedding.unsqueeze(0)
        if not self.relative:
            return bias
        cells = self._cells
        # As in MSwin, the table's rows and columns count from the query to the key.
        bias = bias_from_offsets(bias.flip(1, 2), cells)
        if self.stride == 1:
            return bias
        grid = bias.unflatten(1, cells)[:, :, None, :, None]
        return grid.expand(-1, -1, self.stride, -1, self.stride, -1).flatten(3, 4).flatten(1, 3)


def deformable_window_branches(
    dim: int,
    windows: Sequence[int],
    heads: Sequence[int],
    head_dims: Sequence[int],
    strides: Sequence[int],
    **shared: Any,
) -> list[nn.Module]:
    """Return a :class:`DeformableWindowBranch` for each size of windows; ``shared`` arguments are all theirs.

    Raises:
        ValueError: lists differ in length, or a branch's arguments do not fit together.
    """
    check_lengths(windows, heads, head_dims)
    if len(strides) != len(windows):
        raise ValueError(f"strides: found {list(strides)}, expected one for each of {len(windows)} windows")
    return [
        DeformableWindowBranch(dim, window, count, width, stride=stride, **shared)
        for window, count, width, stride in zip(windows, heads, head_dims, strides, strict=True)
    ]


@derived
def _references(points: Side, stride: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return rows and columns, in pixels, of the middle of each cell: (1, Hk, Wk, 1, 2)."""
    axes = [torch.arange(n, device=device, dtype=dtype) * stride + (stride - 1) / 2 for n in points]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)[None, :, :, None]


@derived
def _scale(size: Side, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return one over the map's height and width: (2,)."""
    return torch.tensor([1 / length for length in size], device=device, dtype=dtype)
