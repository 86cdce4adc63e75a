"""Scaled dot-product attention: the one place that decides how it is computed.

Milliseconds on one CPU thread (AMD EPYC, torch 2.15, median of 20) for 16 windows of 144 tokens, 6 heads,
with an additive mask (half of EDT-B's attention at 48 x 48): forward / forward and backward.

==============  ===========  ===========  ================  ================
head dimension  plain        fused        plain, padded 16  fused, padded 16
==============  ===========  ===========  ================  ================
5, float32      13.8 / 24.6  4.3 / 23.9   8.8 / 14.0        3.2 / 10.4
15, float32     14.9 / 20.1  4.6 / 17.3   8.8 / 22.0        3.3 / 10.7
5, bfloat16     4.8 / 8.1    5.5 / 36.1   5.0 / 8.3         4.3 / 38.3
15, bfloat16    4.9 / 7.8    5.8 / 39.9   5.3 / 9.0         4.3 / 38.2
==============  ===========  ===========  ================  ================

A bias that learns has no gradient from torch's fused kernels: its own fallback takes 5.8 ms, forward and
backward, for 64 windows of 49 tokens and 3 heads of 32 channels, where the plain formula takes 3.0.

So: fused, heads padded with zeros to a multiple of 16, except for half precision and learning biases on CPU.
On GPUs the fused kernels that accept a mask need rows of 16 bytes, so heads are padded to a multiple of 8
there (not timed).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .onlooker import Places, show

_CHUNK = 2**17  # logits whose two or three copies fit a core's cache


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    places: Callable[[], Places] | None = None,
) -> Tensor:
    """Return ``softmax(scale * q @ k^T + bias) @ v``.

    Args:
        q: (M, heads, N, D) queries; ``k`` and ``v`` are (M, heads, K, D).
        k: keys.
        v: values.
        bias: (G, 1 or heads, N, K) added to the logits, where M is a multiple of G: row m uses
            ``bias[m % G]``, so a bias a window serves every image of a batch.
        scale: default ``D ** -0.5``.
        dropout: probability that a weight is dropped; the others are scaled up.
        places: of queries and keys, for an onlooker.

    Returns:
        (M, heads, N, D).
    """
    return _attention((q, k, v), bias, scale, dropout, places)


def attention_weights(
    q: Tensor, k: Tensor, bias: Tensor | None, scale: float, rows: slice = slice(None)
) -> Tensor:
    """Return ``softmax(scale * q @ k^T + bias)`` of some queries, (M, heads, n, K); see :func:`attention`."""
    logits = (q[..., rows, :] * scale) @ k.transpose(-2, -1)
    if bias is not None:
        logits = (logits.unflatten(0, (-1, len(bias))) + bias[..., rows, :]).flatten(0, 1)
    return logits.softmax(-1)


def self_attention(
    qkv: Tensor,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
    places: Callable[[], Places] | None = None,
) -> Tensor:
    """Return :func:`attention` of queries, keys and values that lie in one tensor (3, M, heads, N, D).

    So do their gradients: they need not be joined.
    """
    return _attention((qkv,), bias, scale, dropout, places)


def _attention(
    parts: tuple[Tensor, ...],
    bias: Tensor | None,
    scale: float | None,
    dropout: float,
    places: Callable[[], Places] | None,
) -> Tensor:
    q, k, v = parts if len(parts) == 3 else parts[0]
    dim = q.shape[-1]
    factor = dim**-0.5 if scale is None else scale
    if bias is not None:
        bias = bias.to(q.dtype)
    show(partial(attention_weights, q, k, bias, factor), places)
    learns = bias is not None and bias.requires_grad and torch.is_grad_enabled()
    if learns and q.device.type == "cpu" and not dropout and not torch.compiler.is_compiling():
        return _BiasedAttention.apply(bias, factor, *parts)
    if q.device.type == "cpu" and (learns or q.dtype not in (torch.float32, torch.float64)):
        logits = (q * factor) @ k.transpose(-2, -1)
        if bias is not None and len(bias) in (1, len(q)):
            logits = logits + bias
        elif bias is not None:
            logits = (logits.unflatten(0, (-1, len(bias))) + bias).flatten(0, 1)
        return F.dropout(logits.softmax(-1).to(v.dtype), dropout) @ v
    if bias is not None and bias.shape[0] not in (1, q.shape[0]):
        bias = bias.repeat(q.shape[0] // bias.shape[0], 1, 1, 1)
    padding = -dim % (16 if q.device.type == "cpu" else 8)
    if padding:
        q, k, v = (F.pad(part, (0, padding)) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, bias, dropout, scale=factor)[..., :dim]


class _BiasedAttention(torch.autograd.Function):
    """Attention whose bias learns, computed in parts that fit a core's cache."""

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx: Any, bias: Tensor, scale: float, *parts: Tensor) -> Tensor:
        q, k, v = (x.flatten(0, 1) for x in (parts if len(parts) == 3 else parts[0]))
        (M, heads), D = parts[0].shape[-4:-2], q.shape[2]
        weights, y = q.new_empty(*q.shape[:2], k.shape[1]), q.new_empty(*q.shape[:2], D)
        for rows, biases in _pieces(M, heads, bias.shape):
            logits = torch.baddbmm(q.new_zeros(1), q[rows], k[rows].transpose(1, 2), beta=0, alpha=scale)
            logits.unflatten(0, (-1, heads)).add_(bias[biases])
            torch.softmax(logits, -1, out=weights[rows])
            torch.bmm(weights[rows], v[rows], out=y[rows])
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale, ctx.bias_shape, ctx.shapes = scale, bias.shape, [part.shape for part in parts]
        return y.unflatten(0, (M, heads))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, weights = ctx.saved_tensors
        (M, heads), grad = grads[0].shape[:2], grads[0].flatten(0, 1)
        dparts = [q.new_empty(shape) for shape in ctx.shapes]
        dq, dk, dv = (x.flatten(0, 1) for x in (dparts if len(dparts) == 3 else dparts[0]))
        zero, dbias = q.new_zeros(1), q.new_zeros(ctx.bias_shape)
        for rows, biases in _pieces(M, heads, ctx.bias_shape):
            torch.bmm(weights[rows].transpose(1, 2), grad[rows], out=dv[rows])
            dweights = torch.bmm(grad[rows], v[rows].transpose(1, 2))
            dlogits = torch._softmax_backward_data(dweights, weights[rows], -1, weights.dtype)
            torch.baddbmm(zero, dlogits, k[rows], beta=0, alpha=ctx.scale, out=dq[rows])
            torch.baddbmm(zero, dlogits.transpose(1, 2), q[rows], beta=0, alpha=ctx.scale, out=dk[rows])
            dbias[biases] += dlogits.unflatten(0, (-1, heads)).sum_to_size(dbias[biases].shape)
        return dbias, None, *dparts


def _pieces(count: int, heads: int, bias_shape: torch.Size) -> Iterator[tuple[slice, slice]]:
    """Divide M rows: yield slices of rows times heads, and of the biases (G, ...) that they use."""
    biases = bias_shape[0]
    step = max(1, _CHUNK // (heads * bias_shape[2] * bias_shape[3]))
    period = count if biases == 1 else biases
    for first in range(0, count, period):
        for start in range(0, period, step):
            stop = min(start + step, period)
            rows = slice((first + start) * heads, (first + stop) * heads)
            yield rows, slice(None) if biases == 1 else slice(start, stop)
