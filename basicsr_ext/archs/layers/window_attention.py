"""Attention within windows with a learned bias a relative position (Swin Transformer, arXiv:2103.14030).

B batch, H x W map, C channels, h x w window, N = h * w its tokens, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .attention import attention
from .derived import derived
from .position_bias import look_up
from .windows import Side, shifted_window_mask, window_partition, window_reverse


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
    (H, W), (h, w) = x.shape[1:3], window
    if H % h or W % w:
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % h))
    size = (x.shape[1], x.shape[2])
    added = bias.unsqueeze(0)
    if any(shift):
        x = x.roll((-shift[0], -shift[1]), (1, 2))
        added = added + shifted_window_mask(size, window, shift, x.device, bias.dtype)
    windows = window_partition(x, window).flatten(1, 2)
    qkv = to_qkv(windows).unflatten(-1, (3, heads, -1))
    y = window_reverse(_attend(qkv, added.to(qkv.dtype), scale, dropout).unflatten(1, window), size)
    if any(shift):
        y = y.roll(shift, (1, 2))
    return y[:, :H, :W]


def _attend(qkv: Tensor, bias: Tensor, scale: float | None, dropout: float) -> Tensor:
    """Map (M, N, 3, heads, D), with biases for M windows or for each image's, to (M, N, heads * D)."""
    trains = torch.is_grad_enabled() and qkv.requires_grad
    if qkv.device.type == "cpu" and trains and not dropout and not torch.compiler.is_compiling():
        return _PackedAttention.apply(qkv, bias, qkv.shape[-1] ** -0.5 if scale is None else scale)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return attention(q, k, v, bias, scale, dropout).transpose(1, 2).flatten(2)


class _PackedAttention(torch.autograd.Function):
    """Attention that rearranges queries, keys and values in one copy, and works on what fits a core's cache.

    Milliseconds an image, forward and backward, one thread (AMD EPYC, torch 2.15, float32), of 64 windows of
    49 tokens, 3 heads of 32 channels, in batches of 1 and of 8: 5.3 and 7.1 by autograd, 4.6 and 5.6 here.
    """

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx: Any, qkv: Tensor, bias: Tensor, scale: float) -> Tensor:
        M, N, _, heads, D = qkv.shape
        q, k, v = qkv.permute(2, 0, 3, 1, 4).flatten(1, 2)  # (M * heads, N, D)
        weights, y = q.new_empty(M * heads, N, N), q.new_empty(M * heads, N, D)
        for part, biases in _parts(M, heads, bias.shape):
            logits = torch.baddbmm(q.new_zeros(1), q[part], k[part].transpose(1, 2), beta=0, alpha=scale)
            logits.unflatten(0, (-1, heads)).add_(bias[biases])
            torch.softmax(logits, -1, out=weights[part])
            torch.bmm(weights[part], v[part], out=y[part])
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale, ctx.bias_shape = scale, bias.shape
        return y.unflatten(0, (M, heads)).transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, weights = ctx.saved_tensors
        by_window = grads[0].unflatten(2, (-1, q.shape[-1])).transpose(1, 2)  # (M, heads, N, D)
        (M, heads), grad = by_window.shape[:2], by_window.flatten(0, 1)
        zero, dbias = q.new_zeros(1), q.new_zeros(ctx.bias_shape)
        dq, dk, dv = dqkv = q.new_empty(3, *q.shape)
        for part, biases in _parts(M, heads, ctx.bias_shape):
            torch.bmm(weights[part].transpose(1, 2), grad[part], out=dv[part])
            dweights = torch.bmm(grad[part], v[part].transpose(1, 2))
            dlogits = torch._softmax_backward_data(dweights, weights[part], -1, weights.dtype)
            torch.baddbmm(zero, dlogits, k[part], beta=0, alpha=ctx.scale, out=dq[part])
            torch.baddbmm(zero, dlogits.transpose(1, 2), q[part], beta=0, alpha=ctx.scale, out=dk[part])
            dbias[biases] += dlogits.unflatten(0, (-1, heads)).sum_to_size(dbias[biases].shape)
        return dqkv.unflatten(1, (M, heads)).permute(1, 3, 0, 2, 4), dbias, None


_CHUNK = 2**17  # logits whose two or three copies fit a core's cache


def _parts(count: int, heads: int, bias_shape: torch.Size) -> Iterator[tuple[slice, slice]]:
    """Divide ``count`` windows: yield slices of windows times heads, and of the biases (G, ...) they have."""
    biases = bias_shape[0]
    step = max(1, _CHUNK // (heads * bias_shape[2] * bias_shape[3]))
    period = count if biases == 1 else biases
    for first in range(0, count, period):
        for start in range(0, period, step):
            stop = min(start + step, period)
            part = slice((first + start) * heads, (first + stop) * heads)
            yield part, slice(None) if biases == 1 else slice(start, stop)


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
