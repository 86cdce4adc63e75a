"""Layers that networks share: windows, masks, attention, stochastic depth, cached tables."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from basicsr_ext.archs.layers import attention as attention_module
from basicsr_ext.archs.layers.attention import attention, self_attention
from basicsr_ext.archs.layers.derived import derived
from basicsr_ext.archs.layers.drop_path import DropPath
from basicsr_ext.archs.layers.windows import shifted_window_mask, window_partition, window_reverse

CPU = torch.device("cpu")


@st.composite
def tilings(draw):
    """A window (h, w) and the size (H, W) of a map that it tiles."""
    window = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    return window, tuple(side * draw(st.integers(1, 4)) for side in window)


class TestWindows:
    @given(tilings())
    def test_reverse_undoes_partition(self, tiling):
        window, (H, W) = tiling
        x = torch.arange(2.0 * H * W * 3).view(2, H, W, 3)
        windows = window_partition(x, window)
        assert windows.shape == (2 * H * W // (window[0] * window[1]), *window, 3)
        assert torch.equal(window_reverse(windows, (H, W)), x)

    def test_are_numbered_row_by_row_image_by_image(self):
        x = torch.arange(2 * 4 * 4).view(2, 4, 4)
        windows = window_partition(x, (2, 2))
        assert torch.equal(windows[1], x[0, :2, 2:])
        assert torch.equal(windows[6], x[1, 2:, :2])


class TestMask:
    @settings(max_examples=40)
    @given(tilings(), st.data())
    def test_separates_exactly_the_tokens_that_rolling_brought_together(self, tiling, data):
        window, (H, W) = tiling
        shift = tuple(data.draw(st.integers(0, side // 2)) for side in window)
        mask = shifted_window_mask((H, W), window, shift, CPU, torch.float64)

        # Where each token of each window lay before the roll.
        place = torch.stack(torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij"), -1)
        rolled = place.roll((-shift[0], -shift[1]), (0, 1))[None]
        tokens = window_partition(rolled, window).flatten(1, 2)
        # Two tokens were neighbours before if they are as far apart as they were, on both axes.
        here = torch.stack(torch.meshgrid(*map(torch.arange, window), indexing="ij"), -1).flatten(0, 1)
        moved = tokens - here
        together = (moved[:, :, None] == moved[:, None, :]).all(-1)
        assert torch.equal(mask[:, 0] == 0, together)
        assert set(mask.unique().tolist()) <= {0.0, -100.0}

    def test_is_made_once_for_a_size(self):
        arguments = ((8, 8), (4, 2), (2, 1), CPU, torch.float32)
        assert shifted_window_mask(*arguments) is shifted_window_mask(*arguments)
        assert shifted_window_mask((8, 4), *arguments[1:]) is not shifted_window_mask(*arguments)

    def test_is_one_operator_of_compiled_graphs_for_any_size(self):
        def mask_for(x: Tensor) -> Tensor:
            return shifted_window_mask((2 * len(x), 8), (4, 4), (2, 2), x.device, x.dtype)

        graphs = []
        compiled = torch.compile(mask_for, backend=lambda graph, _: graphs.append(graph) or graph.forward)
        for rows in (4, 6, 8):
            x = torch.zeros(rows)
            assert torch.equal(compiled(x), mask_for(x))
        operator = torch.ops.basicsr_ext.shifted_window_mask.default
        assert {[node.target for node in graph.graph.nodes].count(operator) for graph in graphs} == {1}
        torch.library.opcheck(operator, ((8, 12), (4, 2), (2, 1), CPU, torch.float64))


class TestDerivedTables:
    def test_serve_training_after_inference_mode(self):
        table = derived(lambda n: torch.ones(n))
        with torch.inference_mode():
            table(3)
        assert not table(3).is_inference()

    def test_do_not_keep_large_tables(self):
        table = derived(lambda n: torch.empty(n, dtype=torch.uint8))
        assert table(2**20) is table(2**20)
        assert table(2**25) is not table(2**25)

    def test_drop_the_oldest_of_many(self):
        table = derived(lambda n: torch.ones(n))
        first = table(1)
        for n in range(2, 100):
            table(n)
        assert table(1) is not first


class TestAttention:
    @staticmethod
    def by_hand(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        logits = torch.einsum("mhnd,mhkd->mhnk", q, k) * scale
        if bias is not None:
            logits = logits + torch.stack([bias[m % len(bias)] for m in range(len(q))])
        return torch.einsum("mhnk,mhkd->mhnd", logits.softmax(-1), v)

    @pytest.mark.parametrize("dim", [5, 16])
    @pytest.mark.parametrize("bias_shape", [None, (1, 1, 6, 7), (2, 1, 6, 7), (4, 3, 6, 7)], ids=str)
    @pytest.mark.parametrize("chunk", [1, 2 * 3 * 6 * 7, 2**20])
    def test_equals_the_formula_with_gradients(self, dim, bias_shape, chunk, monkeypatch):
        monkeypatch.setattr(attention_module, "_CHUNK", chunk)
        torch.manual_seed(0)
        q, k, v = (torch.randn(4, 3, n, dim, dtype=torch.float64, requires_grad=True) for n in (6, 7, 7))
        bias = (
            None if bias_shape is None else torch.randn(bias_shape, dtype=torch.float64, requires_grad=True)
        )
        inputs = [q, k, v] if bias is None else [q, k, v, bias]
        got, want = attention(q, k, v, bias, scale=0.3), self.by_hand(q, k, v, bias, 0.3)
        torch.testing.assert_close(got, want)
        weight = torch.randn_like(want)
        for a, b in zip(
            torch.autograd.grad(got, inputs, weight), torch.autograd.grad(want, inputs, weight), strict=True
        ):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("learns", [False, True])
    def test_of_one_tensor_is_that_of_its_parts(self, learns):
        torch.manual_seed(0)
        qkv = torch.randn(3, 4, 3, 6, 5, requires_grad=True)
        bias = torch.randn(2, 3, 6, 6, requires_grad=learns)
        got, want = self_attention(qkv, bias), attention(*qkv, bias)
        torch.testing.assert_close(got, want)
        weight = torch.randn_like(want)
        (a,), (b,) = (torch.autograd.grad(y, [qkv], weight) for y in (got, want))
        torch.testing.assert_close(a, b)

    def test_drops_weights_and_scales_the_others_up(self):
        torch.manual_seed(0)
        q, k, v = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1000, 4), torch.ones(1, 1, 1000, 4)
        bias = torch.zeros(1, 1, 1, 1000, requires_grad=True)
        for kind in (None, bias):
            y = attention(q, k, v, kind, dropout=0.5)
            assert y.mean().item() == pytest.approx(1.0, abs=0.1)
            assert y.mean().item() != 1.0

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_keeps_the_type_and_scales_by_the_head_dimension(self, dtype):
        q, k, v = torch.randn(3, 2, 2, 9, 5).unbind()
        got = attention(q.to(dtype), k.to(dtype), v.to(dtype))
        assert got.dtype == dtype
        tolerance = 1e-5 if dtype == torch.float32 else 0.05
        torch.testing.assert_close(got.float(), self.by_hand(q, k, v, None, 5**-0.5), atol=tolerance, rtol=0)


class TestDropPath:
    def test_zeroes_whole_samples_and_scales_the_others(self):
        torch.manual_seed(0)
        y = DropPath(0.25).train()(torch.ones(1000, 2, 3))
        assert y.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
        assert (y.flatten(1).std(1) == 0).all()
        assert y.mean().item() == pytest.approx(1.0, abs=0.05)

    @pytest.mark.parametrize("layer", [DropPath(0.5).eval(), DropPath(0.0).train()], ids=["eval", "rate 0"])
    def test_otherwise_returns_its_input(self, layer):
        x = torch.ones(3)
        assert layer(x) is x
