"""Attention to keys at learned places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ..layers.deformable_attention import DeformableAttention
from ..layers.deformable_window_attention import DeformableWindowBranch, deformable_window_branches
from ..layers.multi_window_attention import MultiWindowAttention, window_branches
from . import MIXERS, require_divisor
from .regions import in_regions

Fusion = Literal["split_attn", "naive"]


@MIXERS.register("deformable")
class Deformable(DeformableAttention):
    """DAT++'s attention to sampled keys (arXiv:2309.01430), in regions of equal size.

    Args:
        dim: channels, a multiple of ``heads``.
        index: of the block.
        heads: number of heads, a multiple of ``groups``.
        groups: groups of channels that sample keys of their own.
        stride: pixels from one reference point to the next.
        region: longest side of the regions that larger maps are divided into.
        reach: largest offset, in cells of the reference points.
        table: side of the map whose offsets the table of position biases has; those of larger ones lie
            between them.
        offsets: look for offsets; otherwise keys are averages of cells.
    """

    def __init__(
        self,
        dim: int,
        index: int,
        heads: int = 4,
        groups: int = 2,
        stride: int = 4,
        region: int = 64,
        reach: float = 2.0,
        table: int = 8,
        offsets: bool = True,
    ) -> None:
        require_divisor(dim, "heads", heads)
        if heads % groups:
            raise ValueError(f"groups: {groups} does not divide {heads} heads")
        super().__init__(
            dim, heads, groups, (table, table), stride, stride + 1, reach, "table", offsets, "dat++"
        )
        self.region = region

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return in_regions(super().forward, x, self.region)


@MIXERS.register("mswin_deformable_branch")
class WindowsBesideDeformable(MultiWindowAttention):
    """MSwin with a deformable branch beside its windows: see :mod:`..mswin_deformable_arch`.

    Args:
        dim: channels, a multiple of all numbers of heads.
        index: of the block.
        windows: sides of the windows of each branch.
        heads: numbers of heads of each of them.
        fusion: "split_attn" weighs the branches channel by channel, "naive" takes their mean.
        region: side of the regions of the deformable branch.
        region_heads: its heads.
        stride: pixels from one of its reference points to the next.
        reach: its largest offset, in regions.
        offsets: look for offsets; otherwise the keys stay at their reference points.
    """

    def __init__(
        self,
        dim: int,
        index: int,
        windows: Sequence[int] = (4, 8, 16),
        heads: Sequence[int] = (4, 2, 1),
        fusion: Fusion = "split_attn",
        region: int = 16,
        region_heads: int = 1,
        stride: int = 2,
        reach: float = 0.5,
        offsets: bool = True,
    ) -> None:
        require_divisor(dim, "heads", math.lcm(region_heads, *heads))
        branches = window_branches(dim, windows, heads, [dim // count for count in heads])
        deformable = DeformableWindowBranch(
            dim, region, region_heads, dim // region_heads, stride=stride, reach=reach, offsets=offsets
        )
        super().__init__(dim, [*branches, deformable], fusion, newcomer=True)
        self.multiple_of = math.lcm(region, *windows)


@MIXERS.register("mswin_deformable_keys")
class DeformableWindows(MultiWindowAttention):
    """MSwin whose windows sample their keys at learned offsets: see :mod:`..mswin_deformable_arch`.

    Args:
        dim: channels, a multiple of all numbers of heads.
        index: of the block.
        windows: sides of the windows of each branch.
        heads: numbers of heads of each branch.
        fusion: "split_attn" weighs the branches channel by channel, "naive" takes their mean.
        strides: pixels from one reference point of each branch to the next.
        reach: largest offset, in windows.
        offsets: look for offsets; otherwise the keys stay at their reference points.
    """

    def __init__(
        self,
        dim: int,
        index: int,
        windows: Sequence[int] = (4, 8, 16),
        heads: Sequence[int] = (4, 2, 1),
        fusion: Fusion = "split_attn",
        strides: Sequence[int] = (1, 1, 1),
        reach: float = 0.5,
        offsets: bool = True,
    ) -> None:
        require_divisor(dim, "heads", math.lcm(*heads))
        widths = [dim // count for count in heads]
        branches = deformable_window_branches(
            dim, windows, heads, widths, strides, reach=reach, offsets=offsets
        )
        super().__init__(dim, branches, fusion)
        self.multiple_of = math.lcm(*windows)
