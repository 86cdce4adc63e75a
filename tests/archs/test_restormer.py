"""Restormer equals the released code, for any size, and keeps its rewrites' promises."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recorded import SHIPPED, find, load

import basicsr_ext as bx
from basicsr_ext.archs.layers.transposed_attention import _ChannelCosines
from basicsr_ext.archs.padding import crop_to, pad_to
from basicsr_ext.archs.restormer_arch import Restormer

TINY = {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 2, 2, 4]}


def tiny(**options: object) -> Restormer:
    torch.manual_seed(0)
    net = bx.build_network({"type": "Restormer", **TINY, **options})
    assert isinstance(net, Restormer)
    return net


@pytest.mark.parametrize("path", find(SHIPPED, "restormer_"), ids=lambda path: path.stem)
def test_the_state_dict_has_the_released_keys(path):
    meta = load(path).meta
    net = Restormer(**meta["kwargs"])
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == meta["keys"]


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 26_126_644),
        ({"LayerNorm_type": "BiasFree"}, 26_111_668),
        ({"inp_channels": 6, "dual_pixel_task": True}, 26_132_548),
    ],
    ids=str,
)
def test_the_published_networks_have_the_published_parameters(options, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in Restormer(**options).parameters()) == parameters


def test_a_lower_case_norm_type_means_the_same():
    assert tiny(layernorm_type="BiasFree").state_dict().keys() == (
        tiny(LayerNorm_type="BiasFree").state_dict().keys()
    )


def test_biases_reach_both_halves_of_the_feed_forward_network():
    net = tiny(bias=True).double().eval()
    x = torch.rand(1, 8, 8, 8, dtype=torch.float64)
    block = net.encoder_level1[0]
    gate, value = block.ffn.dwconv(block.ffn.project_in(x)).chunk(2, 1)
    expected = block.ffn.project_out(F.gelu(gate) * value)
    got = block.ffn(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(got, expected)


class TestSizes:
    @pytest.mark.parametrize("size", [(1, 1), (3, 17), (8, 9)], ids=str)
    def test_any_size_comes_out_as_it_went_in(self, size):
        assert tiny()(torch.rand(2, 3, *size)).shape == (2, 3, *size)

    def test_sizes_that_do_not_fit_are_mirrored_as_in_the_official_test_scripts(self):
        net, x = tiny().eval(), torch.rand(1, 3, 13, 16)
        padded = pad_to(x, net.size_requirement())
        assert torch.equal(padded, F.pad(x, (0, 0, 0, 3), "reflect"))
        assert torch.equal(net(x), crop_to(net(padded), (13, 16)))

    def test_two_views_make_one_image(self):
        net = tiny(inp_channels=6, dual_pixel_task=True)
        assert net(torch.rand(1, 6, 8, 16)).shape == (1, 3, 8, 16)

    def test_a_batch_gives_each_image_what_it_gives_alone(self):
        net, x = tiny().double().eval(), torch.rand(2, 3, 8, 8, dtype=torch.float64)
        torch.testing.assert_close(net(x)[1:], net(x[1:]))


class TestChannelCosines:
    @staticmethod
    def released(q, k):
        q, k = (F.normalize(x.transpose(-2, -1), dim=-1) for x in (q, k))
        return q @ k.transpose(-2, -1)

    def test_have_the_value_and_gradients_of_normalised_products(self):
        q, k = (torch.randn(2, 3, 10, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
        got, want = _ChannelCosines.apply(q, k), self.released(q, k)
        torch.testing.assert_close(got, want)
        weight = torch.randn_like(want)
        for a, b in zip(
            torch.autograd.grad(got, (q, k), weight), torch.autograd.grad(want, (q, k), weight), strict=True
        ):
            torch.testing.assert_close(a, b)

    def test_of_empty_channels_are_zero_with_finite_gradients(self):
        q = torch.zeros(1, 1, 10, 4, dtype=torch.float64, requires_grad=True)
        k = torch.randn(1, 1, 10, 4, dtype=torch.float64)
        got = _ChannelCosines.apply(q, k)
        assert not got.any()
        (gradient,) = torch.autograd.grad(got.sum(), q)
        (expected,) = torch.autograd.grad(self.released(q, k).sum(), q)
        torch.testing.assert_close(gradient, expected)

    def test_refuse_to_be_differentiated_twice(self):
        q, k = (torch.randn(1, 1, 5, 2, requires_grad=True) for _ in range(2))
        (gradient,) = torch.autograd.grad(_ChannelCosines.apply(q, k).square().sum(), q, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            gradient.sum().backward()


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_blocks": [1, 1, 1]}, "num_blocks.*4 levels"),
            ({"heads": [1, 2, 4]}, "heads.*4 levels"),
            ({"heads": [1, 3, 4, 8]}, "3 does not divide 16"),
            ({"dim": 7, "heads": [1, 1, 1, 1]}, "even"),
            ({"inp_channels": 6}, "dual_pixel_task"),
        ],
        ids=str,
    )
    def test_that_make_no_network_say_so(self, options, message):
        with pytest.raises(ValueError, match=message):
            tiny(**options)


class TestCheckpointing:
    def test_changes_neither_results_nor_gradients(self):
        x = torch.rand(1, 3, 16, 16)
        gradients = []
        for use_checkpoint in (False, True):
            net = tiny(use_checkpoint=use_checkpoint).train()
            net(x).square().mean().backward()
            gradients.append([p.grad for p in net.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


class TestPrecision:
    @pytest.mark.parametrize("norm", ["WithBias", "BiasFree"])
    def test_bf16_autocast_trains(self, norm):
        net, x = tiny(LayerNorm_type=norm).train(), torch.rand(1, 3, 8, 8)
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x)
        y.float().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        torch.testing.assert_close(y.float(), net.eval()(x), atol=0.05, rtol=0.05)


class TestCompile:
    @pytest.mark.parametrize(
        "options", [{}, {"LayerNorm_type": "BiasFree"}, {"use_checkpoint": True}], ids=str
    )
    @pytest.mark.parametrize("mode", ["train", "eval"])
    def test_captures_one_whole_graph(self, mode, options):
        net, x = tiny(**options).train(mode == "train"), torch.rand(1, 3, 9, 8)
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), net(x))
