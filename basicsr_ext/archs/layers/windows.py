"""Non-overlapping windows of a feature map (Swin Transformer, arXiv:2103.14030).

B batch, H x W map, h x w window, nW = (H / h) * (W / w) windows an image, N = h * w tokens a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .derived import derived
from .onlooker import Places, positions

Side = tuple[int, int]


def window_partition(x: Tensor, window: Side) -> Tensor:
    """Cut (B, H, W, ...) into (B * nW, h, w, ...); H and W must be multiples of h and w."""
    (B, H, W), rest, (h, w) = x.shape[:3], x.shape[3:], window
    return x.reshape(B, H // h, h, W // w, w, *rest).transpose(2, 3).reshape(-1, h, w, *rest)


def window_reverse(windows: Tensor, size: Side) -> Tensor:
    """Put (B * nW, h, w, ...) back together to (B, H, W, ...), where ``size`` is (H, W)."""
    (h, w), rest, (H, W) = windows.shape[1:3], windows.shape[3:], size
    return windows.reshape(-1, H // h, W // w, h, w, *rest).transpose(2, 3).reshape(-1, H, W, *rest)


def window_places(
    padded: Side, window: Side, shift: Side, maps: tuple[int, int, int], device: torch.device, part: int = 0
) -> Places:
    """Return where the tokens of windows lie that attend to themselves.

    Args:
        padded: (H, W) of the map that is divided.
        window: (h, w).
        shift: rows and columns by which windows are shifted to the bottom right.
        maps: B, H, W of the layer's input.
        device: of the result.
        part: see :class:`.Places`.
    """
    rolled = positions(padded, device).roll((-shift[0], -shift[1]), (1, 2))
    tokens = window_partition(rolled, window).flatten(1, 2).unsqueeze(1)
    return Places(tokens, tokens, maps, part)


@derived
def shifted_window_mask(
    size: Side,
    window: Side,
    shift: Side,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return what is added to the attention logits of a map rolled by ``-shift``: (nW, 1, N, N).

    Rolling brings opposite borders of the image together. Tokens of one window that were not neighbours
    before get -100 (Swin's value, finite: a released network is trained with it), all others 0.
    """
    # Compiled loops over logits would compute the mask anew for each: in bfloat16 on a CPU, that doubles
    # the time of EDT-T. Exporters know no operators of ours, so they get the formula.
    make = _opaque_window_mask if torch.compiler.is_dynamo_compiling() else _window_mask
    return make(size, window, shift, device, dtype)


def _window_mask(size: Side, window: Side, shift: Side, device: torch.device, dtype: torch.dtype) -> Tensor:
    rows, columns = (
        _regions(length, side, step, device) for length, side, step in zip(size, window, shift, strict=True)
    )
    label = (3 * rows[:, None] + columns).unsqueeze(0)
    tokens = window_partition(label, window).flatten(1)
    apart = tokens.unsqueeze(1) != tokens.unsqueeze(2)
    return (apart.to(dtype) * -100.0).unsqueeze(1)


_opaque_window_mask = torch.library.custom_op(
    "basicsr_ext::shifted_window_mask",
    _window_mask,
    mutates_args=(),
    schema="(SymInt[] size, SymInt[] window, SymInt[] shift, Device device, ScalarType dtype) -> Tensor",
)


@_opaque_window_mask.register_fake
def _(size: Side, window: Side, shift: Side, device: torch.device, dtype: torch.dtype) -> Tensor:
    windows, tokens = (size[0] // window[0]) * (size[1] // window[1]), window[0] * window[1]
    return torch.empty(windows, 1, tokens, tokens, device=device, dtype=dtype)


def _regions(length: int, side: int, step: int, device: torch.device) -> Tensor:
    """Label each position of a rolled axis: 0 up to the last window, then 1, 2 for what was rolled round."""
    position = torch.arange(length, device=device)
    return (position >= length - side).int() + (position >= length - step).int()
