"""Crossed local attention (EDT, arXiv:2112.10175): half of the channels in (h, w) windows, half in (w, h).

Shapes: B batch, H x W map, C channels, C2 = C / 2, h x w a window, N = h * w its tokens, M = B * (H / h) * (W
/ w) windows, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .attention import attention
from .windows import Side, shifted_window_mask, window_partition, window_places, window_reverse


class LocalAttention(nn.Module):
    """Attention within (h, w) windows for one half of the channels, plus LePE.

    LePE (CSWin Transformer, arXiv:2107.00652) is a depthwise convolution of the values, padded with zeros
    at each window's border.
    """

    def __init__(self, dim: int, window: tuple[int, int], heads: int) -> None:
        super().__init__()
        self.window = window
        self.heads = heads
        self.lepe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, H, W, 3, C2) to (B, H, W, C2); with a mask (windows, 1, N, N) windows are shifted."""
        (B, H, W), (h, w) = qkv.shape[:3], self.window
        if mask is not None:
            qkv = qkv.roll((-(h // 2), -(w // 2)), (1, 2))
        windows = window_partition(qkv, self.window)  # (M, h, w, 3, C2)
        heads = windows.unflatten(-1, (self.heads, -1)).flatten(1, 2)  # (M, N, 3, heads, D)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (M, heads, N, D)
        shift = (0, 0) if mask is None else (h // 2, w // 2)
        places = partial(window_places, (H, W), self.window, shift, (B, H, W), qkv.device)
        x = attention(q, k, v, mask, places=places).transpose(1, 2).reshape(-1, h, w, windows.shape[-1])
        x = x + self.lepe(windows[:, :, :, 2].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = window_reverse(x, (H, W))
        return x if mask is None else x.roll((h // 2, w // 2), (1, 2))


def attend_crosswise(qkv: Tensor, halves: Iterable[nn.Module], masks: Sequence[Tensor | None]) -> Tensor:
    """Let each half of the channels attend within its windows.

    Args:
        qkv: (B, H, W, 3 * C), H and W multiples of both window sides.
        halves: the :class:`LocalAttention` of each half.
        masks: of each half's windows; they are shifted where there is one.

    Returns:
        (B, H, W, C).
    """
    shares = qkv.unflatten(-1, (3, 2, -1)).unbind(-2)
    return torch.cat([half(*pair) for half, *pair in zip(halves, shares, masks, strict=True)], -1)


def crossed_masks(x: Tensor, windows: Sequence[Side]) -> list[Tensor]:
    """Return the masks of windows shifted by half their sides, for a map (B, H, W, ...)."""
    size = (x.shape[1], x.shape[2])
    return [shifted_window_mask(size, (h, w), (h // 2, w // 2), x.device, x.dtype) for h, w in windows]


def both_ways(window: Side) -> tuple[Side, Side]:
    """Return (h, w) and (w, h)."""
    h, w = window
    return (h, w), (w, h)
