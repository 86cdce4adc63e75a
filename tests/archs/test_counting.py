"""Multiply-adds, activations and parameters: by hand, on any device, and as published."""

from __future__ import annotations

import pytest
import torch
from helpers import ROOT
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from basicsr_ext import build_network, load_options
from basicsr_ext.archs.counting import OWN_OPERATORS, count, hd_input
from basicsr_ext.archs.padding import SizeRequirement

# Heads of 8 channels are not widened for speed.
GRL = {"upscale": 2, "embed_dim": 16, "depths": [2], "num_heads_window": [1], "num_heads_stripe": [1]}


class Small(nn.Module):
    """A convolution, a linear layer and a product of activations, each of a known cost."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.linear = nn.Linear(8, 5, bias=False)

    def forward(self, x):
        tokens = self.linear(self.conv(x).flatten(2).transpose(1, 2))
        return tokens @ tokens.transpose(1, 2)


def test_a_small_network_counts_as_worked_out_by_hand():
    counted = count(Small(), (3, 6, 4))
    conv, linear, product = 24 * 27 * 8, 24 * 8 * 5, 24 * 24 * 5
    assert counted.multiply_adds == conv + linear + product
    assert counted.between_activations == product
    assert counted.activations == 24 * 8 + 24 * 5 + 24 * 24
    assert counted.parameters == 27 * 8 + 8 + 40
    assert [(m.name, m.multiply_adds, m.parameters) for m in counted.modules] == [
        ("", conv + linear + product, 264),
        ("conv", conv, 224),
        ("linear", linear, 40),
    ]


def test_an_image_is_counted_with_what_it_is_extended_by():
    assert count(Small(), (3, 5, 4), SizeRequirement(2)) == count(Small(), (3, 6, 4))


def test_the_network_stays_as_it_is():
    net = Small()
    weight = net.conv.weight
    count(net, (3, 4, 4))
    assert net.conv.weight is weight
    assert net.training


def test_operators_of_our_own_are_counted_where_gradients_are_wanted():
    net = build_network({"type": "GRL", "window_size": 8, "stripe_size": [8, 8], "mlp_ratio": 2, **GRL})
    expected = count(net, (3, 16, 16))
    with FlopCounterMode(display=False, custom_mapping=OWN_OPERATORS) as counter:
        net.eval()(torch.zeros(1, 3, 16, 16))
    names = {str(operator) for operator in counter.get_flop_counts()["Global"]}
    assert {"basicsr_ext.biased_attention", "basicsr_ext.coordinate_mlp"} <= names
    assert counter.get_total_flops() // 2 == expected.multiply_adds


def test_papers_on_super_resolution_speak_of_results_of_1280_by_720_pixels():
    assert [hd_input(scale) for scale in (2, 3, 4)] == [(360, 640), (240, 427), (180, 320)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "shape", "parameters", "published", "tolerance"),
    [
        # Published: parameters; multiply-adds in G, and how near ours come; None: not published.
        ("edt_tiny_x2", (3, 48, 48), 916_924, None, 0),
        ("edt_small_x2", (3, 48, 48), 4_230_323, None, 0),
        ("edt_x2", (3, 48, 48), 11_479_355, None, 0),
        ("emt_x4", (3, *hd_input(4)), 690_048, None, 0),
        ("grl_tiny_x4", (3, 64, 64), 906_192, None, 0),
        ("restormer_deraining", (3, 256, 256), 26_126_644, 141.0, 0.06),
        ("swin_tiny", (3, 224, 224), 28_288_354, 4.5, 0.02),
        # Less the products of queries, keys and values, and extended to a multiple of the window.
        ("swinir_light_x2", (3, *hd_input(2)), 910_152, 195.6, 0.03),
    ],
)
def test_published_figures_are_met(file, shape, parameters, published, tolerance):
    options = load_options(ROOT / f"options/{file}.yml", ["path=~"], phases=())
    net = build_network({"type": options.network_g.type, **options.network_g.kwargs})
    counted = count(net, shape)
    assert counted.parameters == parameters
    if published is not None:
        without = counted.between_activations if file.startswith("swinir") else 0
        assert (counted.multiply_adds - without) / 1e9 == pytest.approx(published, rel=tolerance)
