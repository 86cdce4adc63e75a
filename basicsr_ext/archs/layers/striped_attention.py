"""Attention in windows of several shapes, one for each share of the channels (EMT, arXiv:2305.11403).

Shapes: B batch, H x W map, C channels, G window shapes, h x w a window, N = h * w its tokens, M = B *
(windows of an image), D = C / (G * heads) channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..padding import mirror_to
from .attention import attention
from .convolution import in_nchw, pointwise
from .windows import window_places


class StripedAttention(nn.Module):
    """Attention in windows of several shapes, one for each share of the channels.

    Queries are their own keys; logits are neither scaled nor biased. Shifted windows wrap around the image
    without a mask, so they see both of its borders.
    """

    def __init__(
        self, dim: int, heads: int, windows: Sequence[tuple[int, int]], shifts: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.heads = heads
        self.windows = windows
        self.shifts = shifts
        self.attn = nn.Sequential(nn.Conv2d(dim, 2 * dim, 1), nn.BatchNorm2d(2 * dim))
        self.proj = nn.Sequential(nn.Conv2d(dim, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        convolution, norm = self.attn
        assert isinstance(convolution, nn.Conv2d)
        shares = in_nchw(norm, pointwise(convolution, x)).chunk(len(self.windows), -1)
        attended = [
            self._attend(share, window, shift, number)
            for number, (share, window, shift) in enumerate(
                zip(shares, self.windows, self.shifts, strict=True)
            )
        ]
        projection = self.proj[0]
        assert isinstance(projection, nn.Conv2d)
        return pointwise(projection, torch.cat(attended, -1))

    def _attend(self, qv: Tensor, window: tuple[int, int], shift: tuple[int, int], number: int) -> Tensor:
        """Map (B, H, W, 2C / G), queries before values, to (B, H, W, C / G)."""
        (B, H, W), (h, w) = qv.shape[:3], window
        qv = mirror_to(mirror_to(qv, 1, -(-H // h) * h), 2, -(-W // w) * w)
        if any(shift):
            qv = qv.roll(shift, (1, 2))
        rows, columns = qv.shape[1] // h, qv.shape[2] // w
        tiles = qv.reshape(-1, rows, h, columns, w, 2, self.heads, qv.shape[-1] // (2 * self.heads))
        # (2, B, rows, columns, heads, h, w, D), then (2, M, heads, N, D)
        q, v = tiles.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(1, 3).unbind()
        back, padded = (-shift[0], -shift[1]), (rows * h, columns * w)
        places = partial(window_places, padded, window, back, (B, H, W), qv.device, number)
        y = (
            attention(q, q, v, scale=1.0, places=places)
            .unflatten(2, (h, w))
            .unflatten(0, (-1, rows, columns))
        )
        y = y.permute(0, 1, 4, 2, 5, 3, 6).reshape(-1, rows * h, columns * w, qv.shape[-1] // 2)
        if any(shift):
            y = y.roll(back, (1, 2))
        return y[:, :H, :W]
