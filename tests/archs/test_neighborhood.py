"""Neighbourhood attention: every query sees its own neighbours, whatever the tiles."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from basicsr_ext.archs.layers import neighborhood_attention as module
from basicsr_ext.archs.layers.neighborhood_attention import NeighborhoodAttention, attend_to_neighbours


def by_hand(qkv: Tensor, rpb: Tensor) -> Tensor:
    """Attend query by query."""
    (H, W), k = qkv.shape[1:3], (rpb.shape[1] + 1) // 2
    q, keys, values = qkv.unbind(3)
    y = torch.zeros_like(q)
    for i in range(H):
        for j in range(W):
            top, left = min(max(i - k // 2, 0), H - k), min(max(j - k // 2, 0), W - k)
            here = (slice(None), slice(top, top + k), slice(left, left + k))
            bias = rpb[:, top - i + k - 1 : top - i + 2 * k - 1, left - j + k - 1 : left - j + 2 * k - 1]
            logits = torch.einsum("bhd,bxyhd->bhxy", q[:, i, j] * q.shape[-1] ** -0.5, keys[here]) + bias
            weights = logits.flatten(2).softmax(-1).view_as(logits)
            y[:, i, j] = torch.einsum("bhxy,bxyhd->bhd", weights, values[here])
    return y


@settings(max_examples=30)
@given(st.data(), st.sampled_from([3, 5, 7]))
def test_every_query_attends_to_its_neighbourhood(data, kernel):
    size = data.draw(st.tuples(st.integers(kernel, 30), st.integers(kernel, 30)))
    torch.manual_seed(0)
    qkv = torch.randn(1, *size, 3, 2, 2, dtype=torch.float64)
    rpb = torch.randn(2, 2 * kernel - 1, 2 * kernel - 1, dtype=torch.float64)
    torch.testing.assert_close(attend_to_neighbours(qkv, rpb), by_hand(qkv, rpb))


@pytest.mark.parametrize("size", [(7, 7), (14, 9), (15, 23)], ids=str)
def test_gradients_are_those_of_the_formula(size):
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, *size, 3, 2, 2, dtype=torch.float64, requires_grad=True),
        torch.randn(2, 13, 13, dtype=torch.float64, requires_grad=True),
    ]
    got, wanted = attend_to_neighbours(*inputs), by_hand(*inputs)
    weight = torch.randn_like(wanted)
    gradients = (torch.autograd.grad(y, inputs, weight) for y in (got, wanted))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@given(st.integers(1, 6), st.integers(1, 3000))
def test_tiles_stay_small_and_leave_the_last_one_its_halo(radius, length):
    length = max(length, 2 * radius + 1)
    side = module._tile_side(length, radius)
    assert side <= 4 * max(2 * radius + 1, 7)
    assert side == length or length % side == 0 or length % side > radius


def test_small_maps_see_zeros_at_the_bottom_and_the_right():
    torch.manual_seed(0)
    layer, x = NeighborhoodAttention(8, 7, 2), torch.randn(1, 5, 9, 8)
    padded = torch.zeros(1, 7, 9, 8)
    padded[:, :5] = x
    torch.testing.assert_close(layer(x), layer(padded)[:, :5])


def test_evaluation_gives_what_training_gives():
    layer, x = NeighborhoodAttention(8, 3, 2), torch.randn(2, 9, 11, 8)
    with torch.no_grad():
        resting = layer.eval()(x)
    torch.testing.assert_close(layer.train()(x), resting)


def test_dropout_draws_in_training_only():
    layer, x = NeighborhoodAttention(8, 3, 2, attn_drop=0.5, proj_drop=0.5), torch.randn(1, 9, 11, 8)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


@pytest.mark.parametrize("kernel", [3, 7])
def test_nattens_kernels_give_the_same(kernel):
    kernels = module.natten_kernels()
    if kernels is None:
        pytest.skip("natten 0.17, whose kernels know a position bias, cannot be imported")
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, 9, 14, 3, 2, 8, dtype=torch.float64, requires_grad=True),
        torch.randn(2, 2 * kernel - 1, 2 * kernel - 1, dtype=torch.float64, requires_grad=True),
    ]
    ours, theirs = attend_to_neighbours(*inputs), module.attend_by_natten(*inputs, 0.0, kernels)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    gradients = (torch.autograd.grad(y, inputs, weight) for y in (ours, theirs))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)
