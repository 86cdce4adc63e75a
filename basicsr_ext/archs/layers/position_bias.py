"""Continuous relative-position bias (Swin Transformer V2, arXiv:2111.09883), also between window and anchors.

A small network maps every relative position to one bias a head; attention between n1 x n2 queries and
m1 x m2 keys looks it up for each pair. Both steps are larger than the attention itself where windows are:
64 x 64 tokens and their 16 x 16 anchors have 6241 relative positions and a million pairs. Training on a CPU
therefore goes through operators of our own. Milliseconds, forward and backward, one thread (AMD EPYC, torch
2.15), 6241 positions, 2 heads: network 18 by autograd, 4 here; look-up of a million pairs 16 by an index
table, 2 here.

Shapes: R x Q relative positions, R = n1 + m1 - 1, Q = n2 + m2 - 1; N = n1 * n2, K = m1 * m2.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .derived import derived
from .windows import Side

_HIDDEN = 512
_CHUNK = 512  # positions whose hidden activations fit a core's second-level cache
_HIGHEST = 16.0


class PositionBias(nn.Sequential):
    """The network of the bias: 2 coordinates, 512 hidden, one value a head."""

    def __init__(self, heads: int) -> None:
        super().__init__(nn.Linear(2, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, heads, bias=False))

    def forward(self, window: Side, anchors: Side) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the biases (heads, R, Q) of all relative positions of a window and its anchors.

        Window attention has ``anchors == window``. Always in the weights' precision, also under autocast.
        """
        first, _, second = self
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        coordinates = log_coordinates(window, anchors, first.weight.device, first.weight.dtype)
        with _full_precision(first.weight.device.type):
            values = coordinate_mlp(coordinates.flatten(0, 1), first.weight, first.bias, second.weight)
            return (_HIGHEST * values.sigmoid()).t().unflatten(1, coordinates.shape[:2])


def _full_precision(device: str) -> AbstractContextManager[Any]:
    # Tensors without values have no autocast to switch off.
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


@derived
def log_coordinates(window: Side, anchors: Side, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the logarithmic coordinates (R, Q, 2) of all relative positions, about -1 to 1.

    Computed in float32 whatever ``dtype`` is: the released networks were trained with that rounding.
    """
    axes = []
    for side, anchor in zip(window, anchors, strict=True):
        centre = (side - anchor) // 2
        last = side - 1 - centre
        offset = torch.arange(1 - anchor - centre, last + 1, dtype=torch.float32, device=device) / last * 8
        axes.append(offset.sign() * (offset.abs() + 1).log2() / 3)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).to(dtype)


# --- the network -----------------------------------------------------------------------------------


def coordinate_mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor) -> Tensor:
    """Return ``relu(x @ weight1^T + bias1) @ weight2^T``: (positions, 2) to (positions, heads).

    ``x`` is a table: no gradient reaches it.
    """
    if x.device.type == "cpu" and torch.is_grad_enabled() and weight1.requires_grad:
        return _mlp(x, weight1, bias1, weight2)
    return F.linear(F.relu(F.linear(x, weight1, bias1)), weight2)


@torch.library.custom_op(
    "basicsr_ext::coordinate_mlp",
    mutates_args=(),
    schema="(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2) -> Tensor",
)
@torch.autocast("cpu", enabled=False)
def _mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor) -> Tensor:
    out = x.new_empty(x.shape[0], len(weight2))
    for part, result in zip(x.split(_CHUNK), out.split(_CHUNK), strict=True):
        torch.mm(torch.addmm(bias1, part, weight1.t()).relu_(), weight2.t(), out=result)
    return out


@torch.library.custom_op(
    "basicsr_ext::coordinate_mlp_backward",
    mutates_args=(),
    schema="(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2, Tensor grad)"
    " -> (Tensor, Tensor, Tensor)",
)
@torch.autocast("cpu", enabled=False)
def _mlp_backward(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of both weights and the bias.

    All follow from ``sums[h, c, k]``, the sum over the positions where hidden unit k is positive of
    gradient h times coordinate c (1 for the bias). So the hidden gradients are never formed.
    """
    extended = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    products = (grad.unsqueeze(2) * extended.unsqueeze(1)).flatten(1)
    sums = x.new_zeros(products.shape[1], len(weight1))
    for part, product in zip(x.split(_CHUNK), products.split(_CHUNK), strict=True):
        hidden = torch.addmm(bias1, part, weight1.t())
        sums.addmm_(product.t(), torch.gt(hidden, 0, out=hidden))
    sums = sums.unflatten(0, (len(weight2), 3))
    first = torch.cat([weight1, bias1.unsqueeze(1)], 1)
    grad_first = (sums * weight2.unsqueeze(1)).sum(0).t()
    return grad_first[:, :2].contiguous(), grad_first[:, 2].contiguous(), (sums * first.t()).sum(1)


@_mlp.register_fake
def _(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], len(weight2))


@_mlp_backward.register_fake
def _(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(part) for part in (weight1, bias1, weight2))


def _mlp_setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _mlp_autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return None, *_mlp_backward(*ctx.saved_tensors, grad)


_mlp.register_autograd(_mlp_autograd, setup_context=_mlp_setup)


# --- the look-up -----------------------------------------------------------------------------------


def look_up(by_offset: Tensor, queries: Side, keys: Side) -> Tensor:
    """Return (heads, N, K) from (heads, R, Q): entry (r, c), (r', c') is that of r - r', c - c'."""
    if by_offset.device.type == "cpu" and torch.is_grad_enabled() and by_offset.requires_grad:
        return _look_up(by_offset, queries, keys)
    return _spread(by_offset, queries, keys)


def _spread(by_offset: Tensor, queries: Side, keys: Side) -> Tensor:
    # With queries in reverse order both indices grow along rows and columns: a strided view.
    pairs = by_offset.flip(1, 2).unfold(1, keys[0], 1).unfold(2, keys[1], 1)
    return pairs.reshape(len(by_offset), queries[0] * queries[1], -1).flip(1)


@torch.library.custom_op(
    "basicsr_ext::look_up",
    mutates_args=(),
    schema="(Tensor by_offset, SymInt[] queries, SymInt[] keys) -> Tensor",
)
def _look_up(by_offset: Tensor, queries: Side, keys: Side) -> Tensor:
    return _spread(by_offset, queries, keys)


@torch.library.custom_op(
    "basicsr_ext::look_up_backward",
    mutates_args=(),
    schema="(Tensor grad, SymInt[] queries, SymInt[] keys) -> Tensor",
)
def _look_up_backward(grad: Tensor, queries: Side, keys: Side) -> Tensor:
    """Sum the gradients (heads, N, K) of the pairs with one offset: first over rows, then over columns."""
    (n1, n2), (m1, m2), heads = queries, keys, len(grad)
    pairs = grad.view(heads, n1, n2, m1, m2)
    rows = grad.new_zeros(heads, n2, n1 + m1 - 1, m2)  # keys in order: offset grows as theirs falls
    for r in range(n1):
        start = n1 - 1 - r
        rows[:, :, start : start + m1] += pairs[:, r]
    both = grad.new_zeros(heads, n1 + m1 - 1, n2 + m2 - 1)
    for c in range(n2):
        start = n2 - 1 - c
        both[:, :, start : start + m2] += rows[:, c]
    return both.flip(1, 2)


@_look_up.register_fake
def _(by_offset: Tensor, queries: Side, keys: Side) -> Tensor:
    return by_offset.new_empty(by_offset.shape[0], queries[0] * queries[1], keys[0] * keys[1])


@_look_up_backward.register_fake
def _(grad: Tensor, queries: Side, keys: Side) -> Tensor:
    return grad.new_empty(grad.shape[0], queries[0] + keys[0] - 1, queries[1] + keys[1] - 1)


def _look_up_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.queries, ctx.keys = inputs


def _look_up_autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _look_up_backward(grad.contiguous(), ctx.queries, ctx.keys), None, None


_look_up.register_autograd(_look_up_autograd, setup_context=_look_up_setup)
