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

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
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

    Returns:
        (M, heads, N, D).
    """
    dim = q.shape[-1]
    factor = dim**-0.5 if scale is None else scale
    if bias is not None:
        bias = bias.to(q.dtype)
    if q.device.type == "cpu" and (q.dtype not in (torch.float32, torch.float64) or _learns(bias)):
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


def _learns(bias: Tensor | None) -> bool:
    return bias is not None and bias.requires_grad and torch.is_grad_enabled()
