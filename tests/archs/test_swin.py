"""Swin Transformer equals the released code, takes images of any size and weights of any window."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from recorded import SHIPPED, find, load

import basicsr_ext as bx
from basicsr_ext.archs.layers.window_attention import (
    WindowAttention,
    attend_within_windows,
    bias_from_table,
)
from basicsr_ext.archs.swin_arch import SwinTransformer

TINY = {
    "img_size": 32,
    "num_classes": 5,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
}


def tiny(**options: object) -> SwinTransformer:
    torch.manual_seed(0)
    net = bx.build_network({"type": "SwinTransformer", **TINY, **options})
    assert isinstance(net, SwinTransformer)
    return net


@pytest.mark.parametrize("path", find(SHIPPED, "swin_"), ids=lambda path: path.stem)
def test_the_state_dict_has_the_released_keys_without_masks_and_index_tables(path):
    meta = load(path).meta
    net = SwinTransformer(**meta["kwargs"])
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == meta["keys"]
    released = {**net.state_dict(), **{key: torch.zeros(1) for key in meta["derived"]}}
    bx.load_weights(net, {"model": released})


@pytest.mark.parametrize(
    ("options", "parameters"),  # published in table 1 of the paper: 29 M, 50 M, 88 M
    [
        ({}, 28_288_354),
        ({"depths": [2, 2, 18, 2]}, 49_606_258),
        ({"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}, 87_768_224),
    ],
    ids=["T", "S", "B"],
)
def test_the_published_networks_have_the_published_parameters(options, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in SwinTransformer(**options).parameters()) == parameters


class TestSizes:
    @pytest.mark.parametrize("size", [(32, 32), (1, 1), (7, 70), (64, 96)], ids=str)
    @pytest.mark.parametrize("ape", [False, True])
    def test_any_size_is_classified(self, size, ape):
        assert tiny(ape=ape)(torch.rand(2, 3, *size)).shape == (2, 5)

    def test_a_size_that_windows_tile_gives_what_a_network_made_for_it_gives(self):
        net, made_for_it = tiny(img_size=64).eval(), tiny(img_size=[64, 96]).eval()
        x = torch.rand(1, 3, 64, 96)
        torch.testing.assert_close(net(x), made_for_it(x))

    def test_pixels_that_are_missing_are_black(self):
        net, x = tiny().eval(), torch.rand(1, 3, 30, 29)
        torch.testing.assert_close(net(x), net(F.pad(x, (0, 3, 0, 2))))

    def test_windows_are_clipped_to_small_maps_and_then_rest(self):
        net = tiny(img_size=[16, 32], window_size=8)
        attentions = [module for module in net.modules() if isinstance(module, WindowAttention)]
        assert [(a.window, a.shift) for a in attentions] == [((4, 4), (0, 0))] * 2 + [((2, 2), (0, 0))] * 2

    def test_without_classes_the_features_come_out(self):
        assert tiny(num_classes=0)(torch.rand(2, 3, 32, 32)).shape == (2, 16)


class TestWeightsOfOtherNetworks:
    def test_of_another_window_load_with_resized_tables(self):
        source, net = tiny(img_size=64, window_size=4), tiny(img_size=96, window_size=6)
        bx.load_weights(net, source.state_dict())
        before, after = (
            n.layers[0].blocks[0].attn.relative_position_bias_table.detach() for n in (source, net)
        )
        assert after.shape == (11 * 11, 2)
        expected = F.interpolate(before.t().view(1, 2, 7, 7), (11, 11), mode="bicubic")
        torch.testing.assert_close(after.t().view(1, 2, 11, 11), expected)
        assert torch.equal(net.head.weight, source.head.weight)

    def test_of_another_image_size_load_with_a_resized_embedding(self):
        source, net = tiny(img_size=32, ape=True), tiny(img_size=[48, 64], ape=True)
        assert source.absolute_pos_embed is not None
        bx.load_weights(net, source.state_dict())
        x = torch.rand(1, 3, 48, 64)
        torch.testing.assert_close(net._positions((12, 16)), source._positions((12, 16)))
        assert net(x).shape == (1, 5)

    def test_under_timms_keys_give_the_same_network(self):
        source, net = tiny(), tiny()
        torch.nn.init.normal_(source.layers[0].downsample.reduction.weight)
        renamed = {
            re.sub(r"^head\.", "head.fc.", key).replace("layers.0.downsample", "layers.1.downsample"): value
            for key, value in source.state_dict().items()
        }
        assert renamed.keys() != source.state_dict().keys()
        bx.load_weights(net, renamed)
        assert all(torch.equal(value, net.state_dict()[key]) for key, value in source.state_dict().items())

    def test_that_do_not_fit_otherwise_are_still_refused(self):
        with pytest.raises(ValueError, match=r"shape: head\.bias is \[4\] in the weights, \[5\]"):
            bx.load_weights(tiny(), tiny(num_classes=4).state_dict())


class TestWindowAttention:
    def test_equals_the_formula_with_gradients(self):
        torch.manual_seed(0)
        layer = WindowAttention(8, (2, 3), 2, shift=(1, 1)).double()
        x = torch.randn(2, 4, 6, 8, dtype=torch.float64, requires_grad=True)
        tables = [x, *layer.parameters()]

        rolled = x.roll((-1, -1), (1, 2))
        wanted = torch.zeros_like(x)
        row, column = torch.arange(4).view(4, 1), torch.arange(6).view(1, 6)
        region = 3 * ((row >= 2).int() + (row >= 3).int()) + (column >= 3).int() + (column >= 5).int()
        bias = bias_from_table(layer.relative_position_bias_table, (2, 3))
        for top in (0, 2):
            for left in (0, 3):
                here = (slice(None), slice(top, top + 2), slice(left, left + 3))
                q, k, v = layer.qkv(rolled[here].flatten(1, 2)).unflatten(-1, (3, 2, 4)).unbind(2)
                logits = torch.einsum("bnhd,bkhd->bhnk", q, k) / 2 + bias
                label = region[here[1:]].flatten()
                logits = logits - 100.0 * (label[:, None] != label)
                y = torch.einsum("bhnk,bkhd->bnhd", logits.softmax(-1), v).flatten(2)
                place = (torch.tensor([0, 1]).view(2, 1, 1), row[here[1]], column[:, here[2]])
                wanted = wanted.index_put(place, layer.proj(y).unflatten(1, (2, 3)))
        wanted = wanted.roll((1, 1), (1, 2))

        got = layer(x)
        torch.testing.assert_close(got, wanted)
        weight = torch.randn_like(got)
        gradients = (torch.autograd.grad(y, tables, weight) for y in (got, wanted))
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("size", [(3, 5), (4, 12)], ids=str)
    def test_evaluation_and_training_agree(self, size):
        layer, x = WindowAttention(8, (4, 4), 2, shift=(2, 2)), torch.randn(2, *size, 8)
        with torch.no_grad():
            resting = layer.eval()(x)
        torch.testing.assert_close(layer.train()(x), resting)

    def test_dropout_leaves_the_mean_as_it_is(self):
        torch.manual_seed(0)
        x, bias = torch.randn(1, 4, 4, 24, requires_grad=True), torch.zeros(1, 16, 16)
        draws = [
            attend_within_windows(x, lambda y: y, bias, (4, 4), 2, dropout=0.5).detach() for _ in range(2000)
        ]
        assert not torch.equal(draws[0], draws[1])
        wanted = attend_within_windows(x, lambda y: y, bias, (4, 4), 2)
        torch.testing.assert_close(torch.stack(draws).mean(0), wanted, atol=0.05, rtol=0)

    def test_the_bias_of_two_tokens_is_that_of_their_offset(self):
        table = torch.arange(3 * 5.0).view(15, 1)
        bias = bias_from_table(table, (2, 3))[0]
        for query in range(6):
            for key in range(6):
                row, column = query // 3 - key // 3 + 1, query % 3 - key % 3 + 2
                assert bias[query, key] == table[row * 5 + column]


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"depths": [2]}, "differ in length: 1 and 2"),
            ({"num_heads": [2, 3]}, "3 does not divide 16, the width of stage 2"),
            ({"img_size": [32, 32, 32]}, "img_size.*height and width"),
        ],
        ids=str,
    )
    def test_that_make_no_network_say_so(self, options, message):
        with pytest.raises(ValueError, match=message):
            tiny(**options)

    def test_reach_what_they_are_for(self):
        net = tiny(qkv_bias=False, qk_scale=0.5, patch_norm=False, mlp_ratio=2.0, drop_path_rate=0.3)
        assert net.layers[0].blocks[0].attn.qkv.bias is None
        assert net.layers[1].blocks[1].attn.scale == 0.5
        assert not list(net.patch_embed.norm.parameters())
        assert net.layers[0].blocks[0].mlp.fc1.out_features == 16
        rates = [block.drop_path.rate for stage in net.layers for block in stage.blocks]
        assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


class TestTraining:
    def test_checkpointing_changes_neither_results_nor_gradients(self):
        x, gradients = torch.rand(1, 3, 32, 32), []
        for use_checkpoint in (False, True):
            net = tiny(use_checkpoint=use_checkpoint, drop_path_rate=0.0).train()
            net(x).square().mean().backward()
            gradients.append([p.grad for p in net.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))

    def test_bf16_autocast_trains(self):
        net, x = tiny(drop_path_rate=0.0).train(), torch.rand(1, 3, 32, 32)
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x)
        y.float().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        torch.testing.assert_close(y.float(), net.eval()(x), atol=0.05, rtol=0.05)

    @pytest.mark.parametrize("mode", ["train", "eval"])
    @pytest.mark.parametrize("size", [32, 30])
    def test_compiling_captures_one_whole_graph(self, mode, size):
        net, x = tiny(ape=True, drop_path_rate=0.0).train(mode == "train"), torch.rand(1, 3, size, 36)
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), net(x))
        compiled(x).mean().backward()
