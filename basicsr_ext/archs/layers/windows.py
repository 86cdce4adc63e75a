"""Non-overlapping windows of a feature map (Swin Transformer, arXiv:2103.14030).

B batch, H x W map, h x w window, nW = (H / h) * (W / w) windows an image, N = h * w tokens a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .derived import derived


def window_partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut (B, H, W, ...) into (B * nW, h, w, ...); H and W must be multiples of h and w."""
    (B, H, W), rest, (h, w) = x.shape[:3], x.shape[3:], window
    return x.reshape(B, H // h, h, W // w, w, *rest).transpose(2, 3).reshape(-1, h, w, *rest)


def window_reverse(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Put (B * nW, h, w, ...) back together to (B, H, W, ...), where ``size`` is (H, W)."""
    (h, w), rest, (H, W) = windows.shape[1:3], windows.shape[3:], size
    return windows.reshape(-1, H // h, W // w, h, w, *rest).transpose(2, 3).reshape(-1, H, W, *rest)


@derived
def shifted_window_mask(
    size: tuple[int, int],
    window: tuple[int, int],
    shift: tuple[int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return what is added to the attention logits of a map rolled by ``-shift``: (nW, 1, N, N).

    Rolling brings opposite borders of the image together. Tokens of one window that were not neighbours
    before get -100 (Swin's value, finite: a released network is trained with it), all others 0.
    """
    rows, columns = (
        _regions(length, side, step, device) for length, side, step in zip(size, window, shift, strict=True)
    )
    label = (3 * rows[:, None] + columns).unsqueeze(0)
    tokens = window_partition(label, window).flatten(1)
    apart = tokens.unsqueeze(1) != tokens.unsqueeze(2)
    return (apart.to(dtype) * -100.0).unsqueeze(1)


def _regions(length: int, side: int, step: int, device: torch.device) -> Tensor:
    """Label each position of a rolled axis: 0 up to the last window, then 1, 2 for what was rolled round."""
    position = torch.arange(length, device=device)
    return (position >= length - side).int() + (position >= length - step).int()
