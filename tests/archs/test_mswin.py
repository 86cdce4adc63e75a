"""MSwin equals the released code, and takes maps of any size, of images and of agents."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recorded import SHIPPED, load

import basicsr_ext as bx
from basicsr_ext.archs.layers.multi_window_attention import SplitAttention, WindowBranch
from basicsr_ext.archs.mswin_arch import MSwinTransformer

TINY = {"dim": 8, "heads": [2, 1], "dim_heads": [4, 6], "window_size": [2, 4]}


def tiny(**options: object) -> MSwinTransformer:
    torch.manual_seed(0)
    net = bx.build_network({"type": "MSwinTransformer", **TINY, **options})
    assert isinstance(net, MSwinTransformer)
    return net


def test_the_state_dict_has_the_released_keys():
    meta = load(SHIPPED / "mswin_naive_tiny.json").meta
    net = MSwinTransformer(**meta["kwargs"])
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == meta["keys"]


@pytest.mark.parametrize(
    ("options", "parameters"),  # of the released configuration, and with its two other settings
    [
        ({}, 1_051_091),
        ({"relative_pos_embedding": False}, 1_119_744),
        ({"fuse_method": "naive"}, 788_435),
    ],
    ids=str,
)
def test_the_published_module_has_as_many_parameters(options, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in MSwinTransformer(**options).parameters()) == parameters


@pytest.mark.parametrize("size", [(8, 12), (1, 1), (3, 17)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"fuse_method": "naive"}, {"relative_pos_embedding": False}], ids=str
)
def test_maps_of_any_size_keep_it(size, options):
    assert tiny(**options)(torch.rand(2, 8, *size)).shape == (2, 8, *size)


def test_images_and_agents_are_treated_alike():
    net, x = tiny().eval(), torch.rand(2, 3, 8, 8, 12)  # (B, L, C, H, W)
    agents = net(x.permute(0, 1, 3, 4, 2))
    assert agents.shape == (2, 3, 8, 12, 8)
    torch.testing.assert_close(agents[1, 2].permute(2, 0, 1), net(x[1])[2])


def test_relative_positions_are_those_of_pairs():
    torch.manual_seed(0)
    relative, pairs = WindowBranch(8, 3, 2, 4), WindowBranch(8, 3, 2, 4, relative=False)
    with torch.no_grad():
        for name in ("to_qkv", "to_out"):
            getattr(pairs, name).load_state_dict(getattr(relative, name).state_dict())
        for query in range(9):
            for key in range(9):
                row, column = key // 3 - query // 3 + 2, key % 3 - query % 3 + 2
                pairs.pos_embedding[query, key] = relative.pos_embedding[row, column]
    x = torch.rand(1, 6, 9, 8)
    torch.testing.assert_close(relative(x), pairs(x))


def test_split_attention_weighs_channels_with_a_sum_of_one():
    torch.manual_seed(0)
    layer, x = SplitAttention(4, branches=2), torch.rand(3, 5, 6, 4)
    torch.testing.assert_close(layer([x, x]), x)
    torch.nn.init.zeros_(layer.fc2.weight)
    torch.testing.assert_close(layer([x, 3 * x]), 2 * x)


def test_equal_branches_fuse_to_themselves():
    net = tiny(heads=[2, 2], dim_heads=[4, 4], window_size=[4, 4], fuse_method="naive").eval()
    net.pwmsa[1].load_state_dict(net.pwmsa[0].state_dict())
    x = torch.rand(1, 8, 8, 8)
    torch.testing.assert_close(net(x).permute(0, 2, 3, 1), net.pwmsa[0](x.permute(0, 2, 3, 1)))


def test_the_missing_margin_is_zeros():
    net, x = tiny().eval(), torch.rand(1, 8, 7, 9)
    branches = net.pwmsa[1](F.pad(x, (0, 3, 0, 1)).permute(0, 2, 3, 1))[:, :7, :9]
    torch.testing.assert_close(net.pwmsa[1](x.permute(0, 2, 3, 1)), branches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": [2]}, "differ in length: 2, 1 and 2"),
        ({"fuse_method": "mean"}, "fuse_method: found 'mean', expected 'split_attn' or 'naive'"),
    ],
    ids=str,
)
def test_arguments_that_make_no_network_say_so(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_bf16_autocast_trains():
    net, x = tiny(drop_out=0.0).train(), torch.rand(1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    torch.testing.assert_close(y.float(), net.eval()(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("size", [8, 6])
def test_compiling_captures_one_whole_graph(mode, size):
    net, x = tiny(drop_out=0.0).train(mode == "train"), torch.rand(2, 8, size, 8)
    compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x), net(x))
    compiled(x).mean().backward()
