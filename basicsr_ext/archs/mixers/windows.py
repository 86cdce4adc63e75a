"""Attention within windows and stripes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ..layers.anchored_attention import MixedAttention
from ..layers.crossed_attention import LocalAttention, attend_crosswise, both_ways, crossed_masks
from ..layers.multi_window_attention import MultiWindowAttention, window_branches
from ..layers.striped_attention import StripedAttention
from ..layers.stripes import Tiling
from ..layers.window_attention import WindowAttention
from . import MIXERS, require_divisor


@MIXERS.register("swin")
class ShiftedWindows(WindowAttention):
    """Swin's windows, shifted in every second block (arXiv:2103.14030).

    Args:
        dim: channels, a multiple of ``heads``.
        index: of the block.
        window: side of the windows.
        heads: number of heads.
    """

    def __init__(self, dim: int, index: int, window: int = 8, heads: int = 4) -> None:
        require_divisor(dim, "heads", heads)
        shift = window // 2 if index % 2 else 0
        super().__init__(dim, (window, window), heads, (shift, shift))
        self.multiple_of = window


@MIXERS.register("mswin")
class MultiScaleWindows(MultiWindowAttention):
    """MSwin: windows of several sizes side by side, in V2X-ViT (arXiv:2203.10638).

    Args:
        dim: channels, a multiple of all numbers of heads.
        index: of the block.
        windows: sides of the windows of each branch.
        heads: numbers of heads of each branch.
        fusion: "split_attn" weighs the branches channel by channel, "naive" takes their mean.
    """

    def __init__(
        self,
        dim: int,
        index: int,
        windows: Sequence[int] = (4, 8, 16),
        heads: Sequence[int] = (4, 2, 1),
        fusion: Literal["split_attn", "naive"] = "split_attn",
    ) -> None:
        require_divisor(dim, "heads", math.lcm(*heads))
        super().__init__(dim, window_branches(dim, windows, heads, [dim // count for count in heads]), fusion)
        self.multiple_of = math.lcm(*windows)


@MIXERS.register("crossed_local")
class CrossedWindows(nn.Module):
    """EDT's windows: upright for half of the channels, lying for the other (arXiv:2112.10175).

    Args:
        dim: channels, a multiple of twice ``heads``.
        index: of the block; every second one has shifted windows.
        window: (rows, columns) of the windows of the first half.
        heads: number of heads of each half.
    """

    def __init__(self, dim: int, index: int, window: Sequence[int] = (6, 24), heads: int = 2) -> None:
        super().__init__()
        require_divisor(dim, "heads", 2 * heads)
        h, w = window
        self.windows, self.shifted, self.multiple_of = both_ways((h, w)), index % 2 == 1, math.lcm(h, w)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attns = nn.ModuleList(LocalAttention(dim // 2, side, heads) for side in self.windows)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        masks = crossed_masks(x, self.windows) if self.shifted else (None, None)
        return self.proj(attend_crosswise(self.qkv(x), self.attns, masks))


@MIXERS.register("striped")
class Stripes(StripedAttention):
    """EMT's windows of several shapes, one for each share of the channels (arXiv:2305.11403).

    They extend the map to their own sizes by themselves.

    Args:
        dim: channels, a multiple of ``heads`` times the number of shapes.
        index: of the block; every second one has windows that are shifted by half their sides.
        windows: (rows, columns) of the windows of each share.
        heads: number of heads of each share.
    """

    def __init__(
        self, dim: int, index: int, windows: Sequence[Sequence[int]] = ((32, 8), (8, 32)), heads: int = 2
    ) -> None:
        require_divisor(dim, "heads", heads * len(windows))
        sides = [(h, w) for h, w in windows]
        super().__init__(dim, heads, sides, [(h // 2, w // 2) if index % 2 else (0, 0) for h, w in sides])


@MIXERS.register("anchored_stripe")
class AnchoredStripes(nn.Module):
    """GRL's windows for half of the channels, stripes through anchors for the other (arXiv:2303.00748).

    Stripes alternate between lying and upright, windows between shifted and not; stripes of every third and
    fourth block are shifted.

    Args:
        dim: channels, a multiple of twice ``heads``.
        index: of the block.
        window: side of the windows.
        stripe: (rows, columns) of a lying stripe.
        anchor_factor: anchors are this much coarser than the map; divides the sides of stripes.
        heads: number of heads of each half.
    """

    def __init__(
        self,
        dim: int,
        index: int,
        window: int = 8,
        stripe: Sequence[int] = (8, 24),
        anchor_factor: int = 4,
        heads: int = 2,
    ) -> None:
        super().__init__()
        require_divisor(dim, "heads", 2 * heads)
        if any(side % anchor_factor for side in stripe):
            raise ValueError(f"stripe: {list(stripe)} are no multiples of anchor_factor = {anchor_factor}")
        h, w = stripe if index % 2 == 0 else (stripe[1], stripe[0])
        self.window = Tiling((window, window), (window // 2, window // 2) if index % 2 == 0 else None)
        self.stripe = Tiling((h, w), (h // 2, w // 2) if index % 4 >= 2 else None)
        self.multiple_of = math.lcm(window, h, w)
        self.attend = MixedAttention(dim, heads, heads, anchor_factor)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.attend(x, self.window, self.stripe, None)
