"""Scaled dot-product attention: the one place that decides how it is computed.

Milliseconds on one CPU thread (AMD EPYC, torch 2.15) for 16 windows of 144 tokens, 6 heads, with an
additive mask (EDT-B at 48 x 48): forward / forward and backward, the faster of three runs.

===============  =================  ==================  =================  ==================
head dimension   plain              fused               plain, padded 16   fused, padded 16
===============  =================  ==================  =================  ==================
5, float32       16.7 / 24.9        4.4 / 24.4          6.8 / 16.0         3.3 / 10.9
15, float32      7.6 / 21.7         4.6 / 18.0          6.1 / 14.0         3.3 / 10.9
15, bfloat16     5.0 / 8.0          5.8 / 38.6
===============  =================  ==================  =================  ==================

So: fused except for half precision on CPU, heads padded with zeros to a multiple of 16. On GPUs the fused
kernels that accept a mask need 16-byte rows, so heads are padded to a multiple of 8 there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Return ``softmax(scale * q @ k^T + bias) @ v``.

    Args:
        q: (M, heads, N, D) queries; ``k`` and ``v`` are (M, heads, K, D).
        k: keys.
        v: values.
        bias: (G, 1 or heads, N, K) added to the logits, where M is a multiple of G: row m uses
            ``bias[m % G]``, so a bias a window serves every image of a batch.
        scale: default ``D ** -0.5``.

    Returns:
        (M, heads, N, D).
    """
    dim = q.shape[-1]
    factor = dim**-0.5 if scale is None else scale
    if bias is not None:
        bias = bias.to(q.dtype)
        if bias.shape[0] not in (1, q.shape[0]):
            bias = bias.repeat(q.shape[0] // bias.shape[0], 1, 1, 1)
    if q.device.type == "cpu" and q.dtype not in (torch.float32, torch.float64):
        logits = (q * factor) @ k.transpose(-2, -1)
        return (logits if bias is None else logits + bias).softmax(-1).to(v.dtype) @ v
    padding = -dim % (16 if q.device.type == "cpu" else 8)
    if padding:
        q, k, v = (F.pad(part, (0, padding)) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=factor)[..., :dim]
