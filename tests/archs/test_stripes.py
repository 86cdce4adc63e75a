"""What GRL's attention is made of: stripes and their masks, learned biases, and operators for training."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from basicsr_ext.archs.layers import biased_attention as attention_module
from basicsr_ext.archs.layers.biased_attention import Mask, biased_attention
from basicsr_ext.archs.layers.position_bias import coordinate_mlp, log_coordinates, look_up
from basicsr_ext.archs.layers.stripes import Tiling, mask_between
from basicsr_ext.archs.layers.windows import shifted_window_mask

CPU = torch.device("cpu")


@st.composite
def tilings(draw):
    """A shifted tiling and the grid (rows, columns) of windows of a map."""
    window = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    shift = tuple(draw(st.integers(0, side // 2)) for side in window)
    return Tiling(window, shift), draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))


def every_mask(mask: Mask, grid: tuple[int, int]) -> Tensor:
    """Return the masks (I * J, N, K) of all windows."""
    rows, columns = (
        [0] * (count - 1) + [kinds - 1] for count, kinds in zip(grid, mask.regions.shape[:2], strict=True)
    )
    return torch.stack([mask.table[i, j][mask.regions[i, j]] for i in rows for j in columns])


class TestTilings:
    @given(tilings())
    def test_join_undoes_split(self, drawn):
        tiling, (I, J) = drawn  # noqa: E741
        (h, w), heads = tiling.window, 2
        x = torch.arange(2.0 * I * h * J * w * 12).view(2, I * h, J * w, 12)
        parts = tiling.split(x, 3, heads)
        assert parts.shape == (3, 2, I, J, heads, h * w, 2)
        assert torch.equal(torch.cat([tiling.join(part) for part in parts], -1), x)

    def test_at_rest_are_not_shifted(self):
        tiling = Tiling((4, 4), (2, 2)).at_rest
        x = torch.arange(16.0).view(1, 4, 4, 1)
        assert torch.equal(tiling.split(x, 1, 1).flatten(), x.flatten())

    def test_of_coarser_maps_round_shifts_down(self):
        assert Tiling((8, 12), (4, 6)).coarser(4) == Tiling((2, 3), (1, 1))


class TestMasks:
    @settings(max_examples=40)
    @given(tilings())
    def test_of_windows_are_swins(self, drawn):
        tiling, grid = drawn
        size = tuple(side * count for side, count in zip(tiling.window, grid, strict=True))
        mask = mask_between(tiling, tiling, grid, CPU, torch.float64)
        want = shifted_window_mask(size, tiling.window, tiling.shift, CPU, torch.float64)
        assert torch.equal(every_mask(mask, grid), want[:, 0])

    @settings(max_examples=40)
    @given(tilings(), st.integers(1, 4))
    def test_between_windows_and_anchors_follow_the_windows(self, drawn, factor):
        tiling, grid = drawn
        fine = Tiling(tuple(side * factor for side in tiling.window), tuple(s * factor for s in tiling.shift))
        to_anchors = every_mask(mask_between(fine, tiling, grid, CPU, torch.float64), grid)
        among = every_mask(mask_between(fine, fine, grid, CPU, torch.float64), grid)
        (h, w), (a, b) = fine.window, tiling.window
        corners = torch.arange(h * w).view(h, w)[::factor, ::factor].reshape(a * b)
        assert torch.equal(to_anchors, among[:, :, corners])

    def test_do_not_grow_with_the_map(self):
        tiling = Tiling((4, 4), (2, 2))
        masks = [mask_between(tiling, tiling, (n, n), CPU, torch.float32) for n in (2, 50)]
        assert masks[0].regions is masks[1].regions
        assert masks[0].table is masks[1].table

    def test_of_unshifted_tilings_are_none(self):
        tiling = Tiling((4, 4), (2, 2)).at_rest
        assert mask_between(tiling, tiling, (2, 2), CPU, torch.float32) is None

    def test_take_a_shift_that_is_nothing_to_the_anchors_as_released(self):
        fine, coarse = Tiling((2, 2), (1, 1)), Tiling((1, 1), (0, 0))
        mask = every_mask(mask_between(fine, coarse, (2, 2), CPU, torch.float32), (2, 2))
        assert mask[:, :, 0].tolist() == [[-100] * 4, [-100] * 4, [-100] * 4, [-100, -100, -100, 0]]


class TestPositionBias:
    def test_coordinates_are_logarithms_of_scaled_offsets(self):
        table = log_coordinates((3, 3), (3, 3), CPU, torch.float64)
        half, whole = math.log2(4 + 1) / 3, math.log2(8 + 1) / 3  # offsets 1 and 2 of 2, times 8
        assert table[:, 0, 0].tolist() == pytest.approx([-whole, -half, 0, half, whole])
        assert torch.equal(table[..., 0], table[..., 1].t())

    def test_anchors_stand_in_the_middle_of_their_window(self):
        # Window positions 0..7 and anchor positions 0..1 moved by (8 - 2) // 2 = 3: offsets -4..4.
        table = log_coordinates((8, 8), (2, 2), CPU, torch.float32)[:, 0, 0]
        assert torch.equal(table, -table.flip(0))

    def test_coordinates_have_float32s_rounding_in_float64(self):
        exact = log_coordinates((6, 6), (6, 6), CPU, torch.float64)
        assert torch.equal(exact, exact.float().double())

    @pytest.mark.parametrize(("queries", "keys"), [((3, 4), (3, 4)), ((4, 6), (2, 3)), ((2, 3), (4, 6))])
    def test_look_up_finds_every_pairs_offset_with_gradients(self, queries, keys):
        sides = [n + m - 1 for n, m in zip(queries, keys, strict=True)]
        table = torch.randn(2, *sides, dtype=torch.float64, requires_grad=True)
        rows, columns = (
            torch.arange(n)[:, None] - torch.arange(m) + m - 1 for n, m in zip(queries, keys, strict=True)
        )
        want = table[:, rows[:, None, :, None], columns[None, :, None, :]].flatten(3, 4).flatten(1, 2)
        got = look_up(table, queries, keys)
        assert torch.equal(got, want)
        weight = torch.randn_like(want)
        gradients = (torch.autograd.grad(y, table, weight)[0] for y in (got, want))
        torch.testing.assert_close(*gradients)
        with torch.no_grad():
            assert torch.equal(look_up(table, queries, keys), want)

    def test_the_network_equals_its_layers_with_gradients(self):
        torch.manual_seed(0)
        x = torch.randn(1100, 2, dtype=torch.float64)  # more than two parts
        weights = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in [(40, 2), (40,), (3, 40)]]
        got = coordinate_mlp(x, *weights)
        want = F.linear(F.relu(F.linear(x, weights[0], weights[1])), weights[2])
        torch.testing.assert_close(got, want)
        cotangent = torch.randn_like(want)
        for a, b in zip(*(torch.autograd.grad(y, weights, cotangent) for y in (got, want)), strict=True):
            torch.testing.assert_close(a, b)


class TestBiasedAttention:
    @staticmethod
    def by_hand(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Mask | None) -> Tensor:
        logits = q @ k.transpose(-2, -1) + bias
        if mask is not None:
            logits = logits + every_mask(mask, q.shape[1:3]).view(*q.shape[1:3], 1, *bias.shape[1:])
        return logits.softmax(-1) @ v

    @pytest.mark.parametrize("chunk", [8, 100, 2**19])
    @pytest.mark.parametrize("grid", [(1, 1), (1, 3), (3, 2)], ids=str)
    @pytest.mark.parametrize("masked", [False, True])
    def test_equals_the_formula_with_gradients_whatever_the_block(self, monkeypatch, chunk, grid, masked):
        monkeypatch.setattr(attention_module, "_CHUNK", chunk)
        torch.manual_seed(0)
        fine, coarse = Tiling((4, 4), (2, 2)), Tiling((2, 2), (1, 1))
        mask = mask_between(fine, coarse, grid, CPU, torch.float64) if masked else None
        q, k, v = (torch.randn(2, *grid, 3, n, 5, dtype=torch.float64) for n in (16, 4, 4))
        bias = torch.randn(3, 16, 4, dtype=torch.float64)
        inputs = [part.requires_grad_() for part in (q, k, v, bias)]
        got, want = biased_attention(*inputs, mask), self.by_hand(*inputs, mask)
        torch.testing.assert_close(got, want)
        weight = torch.randn_like(want)
        for a, b in zip(*(torch.autograd.grad(y, inputs, weight) for y in (got, want)), strict=True):
            torch.testing.assert_close(a, b)
        with torch.no_grad():
            torch.testing.assert_close(biased_attention(*inputs, mask), want)

    def test_operators_meet_torchs_checks(self):
        q, k, v = (torch.randn(1, 2, 1, 2, n, 4, requires_grad=True) for n in (4, 1, 1))
        bias = torch.randn(2, 4, 1, requires_grad=True)
        mask = mask_between(Tiling((2, 2), (1, 1)), Tiling((1, 1), (0, 0)), (2, 1), CPU, torch.float32)
        assert mask is not None
        torch.library.opcheck(attention_module._attend, (q, k, v, bias, *mask))
        torch.library.opcheck(attention_module._attend, (q, k, v, bias, None, None))
