"""Attention with a learned bias for every pair of tokens, and a mask where windows are shifted.

torch's fused kernels give no gradient of the bias on CPUs, and the plain formula writes every logit to
memory several times. So training on a CPU computes blocks of rows that stay in cache, and in the backward
pass the logits again from the queries and keys. Milliseconds on one thread (AMD EPYC, torch 2.15, float32),
forward and backward:

===========================================  ======  ====
windows x heads x queries x keys, 16 wide    plain   here
===========================================  ======  ====
4 x 2 x 1024 x 1024                          116     53
1 x 2 x 256 x 4096                           15.5    14
1 x 2 x 4096 x 256                           16      12
===========================================  ======  ====

Memory falls further: no logits are kept for the backward pass.

Shapes: B batch, I x J windows of an image, N queries and K keys of a window, D channels of a head, M = B * I
* J. Only windows at the bottom and right of a shifted map are masked, so masks are those of 1 or 2 rows by
1 or 2 columns of windows (all but the last, the last), whatever the map's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .attention import attention, attention_weights
from .onlooker import Places, show

_CHUNK = 2**19  # logits whose two or three copies fit a core's cache


class Mask(NamedTuple):
    """What is added to the logits: row n of windows [i, j] gets ``table[i, j, regions[i, j, n]]``.

    Attributes:
        regions: (1 or 2, 1 or 2, N) integers.
        table: (1 or 2, 1 or 2, number of regions, K).
    """

    regions: Tensor
    table: Tensor


def biased_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    mask: Mask | None = None,
    places: Callable[[], Places] | None = None,
) -> Tensor:
    """Return ``softmax(q @ k^T + bias + mask) @ v``.

    Args:
        q: (B, I, J, heads, N, D) queries, scaled; ``k`` and ``v`` are (B, I, J, heads, K, D).
        k: keys.
        v: values.
        bias: (heads, N, K), one for all windows.
        mask: of windows at the border of a shifted map.
        places: of queries and keys, for an onlooker.

    Returns:
        (B, I, J, heads, N, D).
    """
    regions, table = mask or (None, None)
    show(partial(_weights, q, k, bias, mask), places)
    on_cpu = q.device.type == "cpu"
    if on_cpu and torch.is_grad_enabled() and (q.requires_grad or bias.requires_grad):
        return _attend(q, k, v, bias.to(v.dtype), regions, table)
    if on_cpu and not torch.compiler.is_compiling():
        return _in_rows(q, k, v, bias, regions, table)
    rows = []
    for i in range(1 if mask is None else len(mask.regions)):
        row = []
        for j in range(1 if mask is None else mask.regions.shape[1]):
            queries, keys, values = (_windows(part, regions, i, j) for part in (q, k, v))
            added = bias if mask is None else bias + mask.table[i, j][mask.regions[i, j]]
            row.append(_attend_to(queries, keys, values, added))
        rows.append(torch.cat(row, 2))
    return torch.cat(rows, 1)


def _weights(q: Tensor, k: Tensor, bias: Tensor, mask: Mask | None, rows: slice) -> Tensor:
    """Return the weights of some queries: (B * I * J, heads, n, K)."""
    added = bias[None, None, :, rows].to(q.dtype)
    if mask is not None:
        # Of the windows along an axis, the last is of the last kind, all others of the first.
        kinds = [
            torch.tensor([0] * (count - 1) + [types - 1], device=q.device)
            for count, types in zip(q.shape[1:3], mask.regions.shape, strict=False)
        ]
        of_kinds = torch.stack(
            [
                torch.stack([table[regions[rows]] for table, regions in zip(*row, strict=True)])
                for row in zip(mask.table, mask.regions, strict=True)
            ]
        )
        added = added + of_kinds[kinds[0]][:, kinds[1]].unsqueeze(2)
    return attention_weights(q[..., rows, :].flatten(0, 2), k.flatten(0, 2), added.flatten(0, 1), 1.0)


def _attend_to(q: Tensor, k: Tensor, v: Tensor, added: Tensor) -> Tensor:
    done = attention(q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2), added.unsqueeze(0), scale=1.0)
    return done.unflatten(0, q.shape[:3])


def _windows(x: Tensor, regions: Tensor | None, i: int, j: int) -> Tensor:
    """Return the windows (B, I', J', ...) of ``x`` whose mask is [i, j]."""
    return x if regions is None else x[:, _part(i, regions.shape[0]), _part(j, regions.shape[1])]


def _part(index: int, count: int) -> slice:
    if count == 1:
        return slice(None)
    return slice(None, -1) if index == 0 else slice(-1, None)


class _Block(NamedTuple):
    """Some rows of the logits of all windows with one mask."""

    windows: tuple[slice, slice, slice]
    rows: slice
    added: Tensor


def _blocks(bias: Tensor, regions: Tensor | None, table: Tensor | None) -> Iterator[_Block]:
    """Yield every row of the logits once, with the bias and mask (heads, rows, K) to add."""
    heads, N, K = bias.shape
    step = max(1, min(N, _CHUNK // (heads * K)))
    grid = (1, 1) if regions is None else regions.shape[:2]
    for i in range(grid[0]):
        for j in range(grid[1]):
            windows = (slice(None), _part(i, grid[0]), _part(j, grid[1]))
            for start in range(0, N, step):
                rows = slice(start, start + step)
                added = bias[:, rows]
                if regions is not None and table is not None:
                    added = added + table[i, j].index_select(0, regions[i, j, rows])
                yield _Block(windows, rows, added)


@torch.autocast("cpu", enabled=False)
def _in_rows(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, regions: Tensor | None, table: Tensor | None
) -> Tensor:
    # A bias that could have a gradient keeps torch from its fused kernels, even where none is recorded.
    bias = bias.detach()
    out = torch.empty_like(q, memory_format=torch.contiguous_format, dtype=v.dtype)
    for windows, rows, added in _blocks(bias, regions, table):
        queries, keys, values = q[windows][..., rows, :], k[windows], v[windows]
        out[windows][..., rows, :] = _attend_to(queries, keys, values, added)
    return out


_attend = torch.library.custom_op(
    "basicsr_ext::biased_attention",
    _in_rows,
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor bias, Tensor? regions, Tensor? table) -> Tensor",
)


@torch.library.custom_op(
    "basicsr_ext::biased_attention_backward",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor bias, Tensor? regions, Tensor? table, Tensor grad)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
@torch.autocast("cpu", enabled=False)
def _attend_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    regions: Tensor | None,
    table: Tensor | None,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dq = torch.empty_like(q, memory_format=torch.contiguous_format)
    # Sums over rows are several times faster as (D, K) than as (K, D).
    dk, dv = (part.new_zeros(part.transpose(-2, -1).shape) for part in (k, v))
    dbias = torch.zeros_like(bias)
    for windows, rows, added in _blocks(bias, regions, table):
        at = (*windows, slice(None), rows)
        shape = dq[at].shape
        step = max(1, _CHUNK // added.numel())
        parts = (part.flatten(0, 2).split(step) for part in (q[at], grad[at], k[windows], v[windows]))
        done = [_row_gradients(Q, G, K, V, added, dbias[:, rows]) for Q, G, K, V in zip(*parts, strict=True)]
        dQ, dK, dV = (torch.cat(part) for part in zip(*done, strict=True))
        dq[at] = dQ.view(shape)
        dk[windows] += dK.view(dk[windows].shape)
        dv[windows] += dV.view(dv[windows].shape)
    return dq, dk.transpose(-2, -1).contiguous(), dv.transpose(-2, -1).contiguous(), dbias


def _row_gradients(
    q: Tensor, grad: Tensor, k: Tensor, v: Tensor, added: Tensor, dbias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients (m, heads, rows, D), (m, heads, D, K) twice of some windows; add to ``dbias``."""
    m = len(q)
    q, grad, k, v = (part.flatten(0, 1) for part in (q, grad, k, v))
    added = added.expand(m, -1, -1, -1).flatten(0, 1)
    weights = torch.baddbmm(added, q, k.transpose(1, 2)).softmax(-1)
    dv = grad.transpose(1, 2) @ weights
    dlogits = torch._softmax_backward_data(grad @ v.transpose(1, 2), weights, -1, weights.dtype)
    dbias += dlogits if m == 1 else dlogits.unflatten(0, (m, -1)).sum(0)
    dq, dk = dlogits @ k, q.transpose(1, 2) @ dlogits
    return dq.unflatten(0, (m, -1)), dk.unflatten(0, (m, -1)), dv.unflatten(0, (m, -1))


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, regions: Tensor | None, table: Tensor | None) -> Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format, dtype=v.dtype)


@_attend_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    regions: Tensor | None,
    table: Tensor | None,
    grad: Tensor,
) -> tuple[Tensor, ...]:
    like = [torch.empty_like(part, memory_format=torch.contiguous_format) for part in (q, k, v)]
    return *like, torch.empty_like(bias)


def _setup(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_attend_backward(*ctx.saved_tensors, grad.contiguous()), None, None


_attend.register_autograd(_autograd, setup_context=_setup)
