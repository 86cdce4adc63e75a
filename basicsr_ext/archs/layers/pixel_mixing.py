"""Channels moved by a pixel (EMT, arXiv:2305.11403): each position sees its neighbours without a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..exporting import is_exporting
from .convolution import in_nchw

# The neighbour that each of the first four channel groups reads: dimension of (B, H, W, C), distance.
_NEIGHBOURS = ((2, 1), (2, -1), (1, 1), (1, -1))


def _moved(x: Tensor, circular: bool, sign: int) -> Tensor:
    """Return ``x`` (B, H, W, C) with its channels read from neighbours, or, for sign -1, back to them."""
    y = torch.empty_like(x)
    groups = _in_turn(x.shape[-1]) if circular else _fifths(x.shape[-1])
    for (dim, step), channels in zip(_NEIGHBOURS, groups[:-1], strict=True):
        _read(x[..., channels], y[..., channels], dim, sign * step, circular)
    y[..., groups[-1]] = x[..., groups[-1]]
    return y


# One operator, as compiled loops over moved channels take CPUs five times as long as these copies.
_move = torch.library.custom_op(
    "basicsr_ext::move", _moved, mutates_args=(), schema="(Tensor x, bool circular, int sign) -> Tensor"
)


@_move.register_fake
def _(x: Tensor, circular: bool, sign: int) -> Tensor:
    return torch.empty_like(x)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.circular, ctx.sign = inputs


def _opposite(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return _move(grad, ctx.circular, -ctx.sign), None, None


_move.register_autograd(_opposite, setup_context=_remember)


def _fifths(channels: int) -> list[slice]:
    fifth = channels // 5
    return [*(slice(i * fifth, (i + 1) * fifth) for i in range(4)), slice(4 * fifth, None)]


def _in_turn(channels: int) -> list[slice]:
    return [slice(i, channels, 5) for i in range(5)]


def _read(source: Tensor, target: Tensor, dim: int, step: int, circular: bool) -> None:
    """Write to position i of ``target`` what stands at ``i + step`` (one away) of ``source``."""
    last = source.shape[dim] - 1
    here, there = (0, 1) if step > 0 else (1, 0)
    target.narrow(dim, here, last).copy_(source.narrow(dim, there, last))
    border = target.select(dim, last if step > 0 else 0)
    if circular:
        border.copy_(source.select(dim, 0 if step > 0 else last))
    else:
        border.zero_()


def _copied(x: Tensor, circular: bool) -> Tensor:
    """Return :func:`_moved` as operators of torch, which write to no part of a tensor."""
    groups = _in_turn(x.shape[-1]) if circular else _fifths(x.shape[-1])
    parts = [x[..., channels] for channels in groups]
    for part, (dim, step) in enumerate(_NEIGHBOURS):
        source = parts[part]
        length = source.shape[dim]
        kept = source.narrow(dim, int(step > 0), length - 1)
        beyond = source.narrow(dim, 0 if step > 0 else length - 1, 1)
        beyond = beyond if circular else torch.zeros_like(beyond)
        parts[part] = torch.cat([kept, beyond] if step > 0 else [beyond, kept], dim)
    if not circular:
        return torch.cat(parts, -1)
    order = torch.cat([torch.arange(x.shape[-1], device=x.device)[channels] for channels in groups])
    return torch.cat(parts, -1).index_select(-1, order.argsort())


def moved_by_groups(x: Tensor) -> Tensor:
    """Read, in (B, H, W, C), the right, left, lower and upper neighbour in one fifth of the channels each.

    The fifths are contiguous and rounded down; the remaining channels stay. Beyond the border is zero.
    """
    return _copied(x, circular=False) if is_exporting() else _move(x, False, 1)


def moved_in_turn(x: Tensor) -> Tensor:
    """Read the right, left, lower, upper neighbour and the pixel itself in channels 0, 1, 2, 3, 4, 5...

    Opposite borders of (B, H, W, C) are neighbours.
    """
    return _copied(x, circular=True) if is_exporting() else _move(x, True, 1)


def move_kernel(channels: int, group_of: Sequence[int]) -> Tensor:
    """Return the released code's form of the movement, a depthwise 3 x 3 kernel."""
    mask = torch.zeros(channels, 1, 3, 3)
    places = ((1, 2), (1, 0), (2, 1), (0, 1), (1, 1))
    for channel, group in enumerate(group_of):
        mask[channel, 0, places[group][0], places[group][1]] = 1.0
    return mask


class TokenMixer(nn.Module):
    """Channels moved by a pixel, in turn."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mask", move_kernel(dim, [channel % 5 for channel in range(dim)]))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return moved_in_turn(x)


class PixelMixer(nn.Module):
    """The normalised difference of each pixel and its neighbours; no learned mixing."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token_mixer = TokenMixer(dim)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return in_nchw(self.norm, self.token_mixer(x) - x)
