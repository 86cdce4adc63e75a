"""Attention within windows with a learned bias a relative position (Swin Transformer, arXiv:2103.14030).

B batch, H x W map, C channels, h x w window, N = h * w its tokens, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import self_attention
from .derived import derived
from .position_bias import look_up
from .windows import Side, shifted_window_mask, window_partition, window_places, window_reverse


class WindowAttention(nn.Module):
    """Attention within (shifted) windows, with a learned bias for every relative position.

    Maps of any size: see :func:`attend_within_windows`. Where a side is no longer than the window's, windows
    are not shifted.

    Args:
        dim: channels.
        window: (h, w).
        heads: number of heads; divides ``dim``.
        shift: rows and columns by which windows are shifted.
        qkv_bias: give queries, keys and values a bias.
        scale: of the logits; default: the width of a head to the power of -0.5.
        attn_drop: probability that a weight is dropped.
        proj_drop: probability that an output is dropped.
    """

    def __init__(
        self,
        dim: int,
        window: Side,
        heads: int,
        shift: Side = (0, 0),
        qkv_bias: bool = True,
        scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.window, self.shift, self.heads = window, shift, heads
        self.scale, self.attn_drop = scale, attn_drop
        offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        covered = x.shape[1] <= self.window[0] or x.shape[2] <= self.window[1]
        y = attend_within_windows(
            x,
            self.qkv,
            bias_from_table(self.relative_position_bias_table, self.window),
            self.window,
            self.heads,
            shift=(0, 0) if covered else self.shift,
            scale=self.scale,
            dropout=self.attn_drop if self.training else 0.0,
        )
        return self.proj_drop(self.proj(y))


def attend_within_windows(
    x: Tensor,
    to_qkv: Callable[[Tensor], Tensor],
    bias: Tensor,
    window: Side,
    heads: int,
    *,
    shift: Side = (0, 0),
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Let the tokens of each window of ``x`` attend to each other.

    A map that windows do not tile is extended with zeros at the bottom and the right; these tokens are
    attended to, as in the detection code of Swin.

    Args:
        x: (B, H, W, C).
        to_qkv: maps (..., C) to (..., 3 * heads * D): queries, keys, values, each head after head.
        bias: (1 or heads, N, N), added to the logits of every window.
        window: (h, w).
        heads: number of heads.
        shift: rows and columns by which windows are shifted to the bottom right.
        scale: of the logits; default ``D ** -0.5``.
        dropout: probability that a weight is dropped.

    Returns:
        (B, H, W, heads * D).
    """
    (B, H, W), (h, w) = x.shape[:3], window
    if H % h or W % w:
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % h))
    size = (x.shape[1], x.shape[2])
    added = bias.unsqueeze(0)
    if any(shift):
        x = x.roll((-shift[0], -shift[1]), (1, 2))
        added = added + shifted_window_mask(size, window, shift, x.device, bias.dtype)
    windows = window_partition(x, window).flatten(1, 2)
    qkv = to_qkv(windows).unflatten(-1, (3, heads, -1))
    qkv = qkv.permute(2, 0, 3, 1, 4).contiguous()  # (3, B * nW, heads, N, D)
    places = partial(window_places, size, window, shift, (B, H, W), x.device)
    y = self_attention(qkv, added, scale, dropout, places).transpose(1, 2).flatten(2)
    y = window_reverse(y.unflatten(1, window), size)
    if any(shift):
        y = y.roll(shift, (1, 2))
    return y[:, :H, :W]


def bias_from_table(table: Tensor, window: Side) -> Tensor:
    """Return the bias (heads, N, N) of Swin's table ((2h - 1) * (2w - 1), heads).

    The row for a query at (r, c) and a key at (r', c') is ``(r - r' + h - 1) * (2w - 1) + c - c' + w - 1``.
    """
    return bias_from_offsets(table.t().unflatten(1, (2 * window[0] - 1, 2 * window[1] - 1)), window)


def bias_from_offsets(by_offset: Tensor, window: Side) -> Tensor:
    """Return (heads, N, N) from (heads, 2h - 1, 2w - 1): :func:`look_up` within a window."""
    if by_offset.device.type != "cpu":
        return look_up(by_offset, window, window)
    # Microseconds, forward and backward, 7 x 7 tokens, 3 heads: 30; look_up, made for larger windows: 143.
    pairs = by_offset.flatten(1).index_select(1, _offsets(window))
    return pairs.unflatten(1, (window[0] * window[1], -1))


@derived
def _offsets(window: Side) -> Tensor:
    """Number the offsets of all pairs of tokens: (N * N)."""
    rows, columns = (
        torch.arange(side).unsqueeze(1) - torch.arange(side).unsqueeze(0) + side - 1 for side in window
    )
    return (rows[:, None, :, None] * (2 * window[1] - 1) + columns[None, :, None, :]).flatten()
