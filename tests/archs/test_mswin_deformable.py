"""MSwin with deformable attention starts as MSwin, and its keys move from there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import basicsr_ext as bx
from basicsr_ext.archs.layers.deformable_window_attention import DeformableWindowBranch
from basicsr_ext.archs.layers.multi_window_attention import SplitAttention, WindowBranch

MSWIN: dict[str, Any] = {
    "dim": 8,
    "heads": [2, 1],
    "dim_heads": [4, 6],
    "window_size": [2, 4],
    "drop_out": 0.0,
}
BRANCH = {"type": "MSwinDeformableBranch", "region": 8, "stride": 2, "region_heads": 2, "region_dim_head": 4}
KEYS = {"type": "MSwinDeformableKeys", "strides": [1, 1]}
BOTH = pytest.mark.parametrize("design", [BRANCH, KEYS], ids=lambda design: design["type"])


def built(design: dict[str, Any], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return bx.build_network({**MSWIN, **design, **options}).double()


def branch(**options: Any) -> DeformableWindowBranch:
    torch.manual_seed(0)
    return DeformableWindowBranch(**{"dim": 8, "window": 4, "heads": 2, "head_dim": 4, **options}).double()


def constant_offsets(layer: DeformableWindowBranch, rows: float, columns: float) -> None:
    """Let every point of ``layer`` move by so many pixels."""
    assert layer.offsets is not None
    nn.init.zeros_(layer.offsets.norm.weight)
    nn.init.ones_(layer.offsets.norm.bias)
    wanted = torch.tensor([rows, columns] * layer.groups).double() / (layer.reach * layer.window)
    per_channel = nn.functional.gelu(torch.ones(1).double()) * layer.offsets.norm.bias.numel()
    layer.offsets.proj.weight.data = (wanted.atanh() / per_channel)[:, None].expand_as(
        layer.offsets.proj.weight
    )


@BOTH
@pytest.mark.parametrize("fusion", ["split_attn", "naive"])
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "pairs"])
def test_with_the_weights_of_an_mswin_it_is_that_mswin(design, fusion, relative):
    options = {"fuse_method": fusion, "relative_pos_embedding": relative}
    plain, net = built({"type": "MSwinTransformer"}, **options), built(design, **options)
    bx.load_weights(net, plain.state_dict(), strict=False)
    x = torch.rand(2, 8, 9, 13).double()
    torch.testing.assert_close(net(x), plain(x), atol=1e-14, rtol=0)


@BOTH
@pytest.mark.parametrize("size", [(8, 12), (1, 1), (3, 17)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"fuse_method": "naive"}, {"relative_pos_embedding": False}, {"offsets": False}],
    ids=str,
)
def test_maps_of_any_size_keep_it(design, size, options):
    net, x = built(design, **options), torch.rand(2, 3, *size, 8).double()  # (B, L, H, W, C)
    y = net(x)
    assert y.shape == x.shape
    torch.testing.assert_close(net(x[:, 1].permute(0, 3, 1, 2)).permute(0, 2, 3, 1), y[:, 1])


@BOTH
def test_every_parameter_learns_within_four_steps(design):
    net, x = built(design), torch.rand(1, 8, 8, 8).double()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(4):  # the share, then the branch, then its offsets, then what makes them
        optimizer.zero_grad()
        (net(x) - x.flip(2)).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


def test_the_last_branch_gets_its_share_of_split_attention():
    torch.manual_seed(0)
    layer, x = SplitAttention(4, branches=3), torch.rand(3, 2, 5, 6, 4)
    torch.testing.assert_close(layer(list(x), torch.ones(4)), layer(list(x)))
    half = layer(list(x), torch.full((4,), 0.5))
    assert not torch.allclose(half, layer(list(x)))
    two = SplitAttention(4, branches=2)
    two.load_state_dict({**layer.state_dict(), "fc2.weight": layer.fc2.weight[:8]})
    torch.testing.assert_close(layer(list(x), torch.zeros(4)), two(list(x[:2])))


def test_keys_that_all_move_alike_are_those_of_the_moved_map():
    layer, x = branch(reach=1.0), torch.rand(1, 8, 8, 8).double()
    at_rest = branch(offsets=False)
    at_rest.load_state_dict(layer.state_dict(), strict=False)
    torch.testing.assert_close(layer(x), at_rest(x))
    constant_offsets(layer, rows=2, columns=-1)
    # Queries stay, so windows are compared by hand: those of keys are cut from the moved map.
    q, k, v = layer.to_qkv(x).chunk(3, -1)
    moved = torch.zeros_like(torch.cat([k, v], -1))
    moved[:, :6, 1:] = torch.cat([k, v], -1)[:, 2:, :7]
    y = torch.zeros_like(x)
    for row in (0, 4):
        for column in (0, 4):
            cut = (slice(None), slice(row, row + 4), slice(column, column + 4))
            heads = [part.reshape(1, 16, 2, 4).transpose(1, 2) for part in (q[cut], *moved[cut].chunk(2, -1))]
            logits = heads[0] @ heads[1].transpose(-2, -1) / 2
            seen = (logits + layer._bias()).softmax(-1) @ heads[2]
            y[cut] = layer.to_out(seen.transpose(1, 2).reshape(1, 4, 4, 8))
    torch.testing.assert_close(layer(x), y)


def test_offsets_are_bounded_by_the_reach():
    layer, x = branch(reach=0.25, stride=2), 100 * torch.randn(1, 8, 8, 8).double()
    assert layer.offsets is not None
    nn.init.normal_(layer.offsets.proj.weight, std=100)
    moved = (layer._positions(x) - branch(stride=2, offsets=False)._positions(x)).abs()
    assert 0.9 < moved.max() <= 1.0


@pytest.mark.parametrize(("stride", "first"), [(1, 0.0), (2, 0.5), (4, 1.5)])
def test_points_are_in_the_middle_of_their_cells(stride, first):
    positions = branch(window=4, stride=stride, offsets=False)._positions(torch.zeros(1, 8, 4, 8))
    assert positions.shape == (1, 8 // stride, 4 // stride, 1, 2)
    assert positions[0, 0, 0, 0].tolist() == [first, first]
    assert positions[0, -1, -1, 0].tolist() == [7 - first, 3 - first]


def test_a_position_bias_with_a_stride_is_that_of_cells():
    layer = branch(window=4, stride=2)
    bias, table = layer._bias()[0], layer.pos_embedding
    assert bias.shape == (16, 4)
    for query in range(16):
        for key in range(4):
            row, column = key // 2 - query // 4 // 2 + 1, key % 2 - query % 4 // 2 + 1
            assert bias[query, key] == table[row, column]


def test_groups_of_heads_move_apart():
    layer, x = branch(groups=2, reach=1.0), torch.rand(1, 8, 8, 8).double()
    constant_offsets(layer, 0, 0)
    assert layer.offsets is not None
    layer.offsets.proj.weight.data[2:] = 1.0
    for part in layer.to_out[0].parameters():
        nn.init.zeros_(part)
    layer.to_out[0].weight.data[:8] = torch.eye(8)
    plain = WindowBranch(8, 4, 2, 4).double()
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("offsets")})
    first, second = (layer(x) - plain(x)).abs().amax((0, 1, 2)).split(4)
    assert first.max() < 1e-12
    assert second.min() > 1e-3


@BOTH
def test_compiling_breaks_no_graph(design):
    net, x = built(design), torch.rand(1, 8, 7, 9).double()
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), net(x))


@BOTH
def test_bf16_autocast_trains(design):
    net, x = built(design).float(), torch.rand(1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x)
    y.float().square().mean().backward()
    torch.testing.assert_close(y.float(), net(x), atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("design", "options", "message"),
    [
        (KEYS, {"strides": [1]}, r"strides: found \[1\], expected one for each of 2 windows"),
        (KEYS, {"strides": [1, 3]}, "strides: 3 does not divide the window's side 4"),
        (KEYS, {"heads": [1]}, "differ in length: 2, 1 and 2"),
        (KEYS, {"offset_groups": 2}, "offset_groups: 2 does not divide 1 heads"),
        (BRANCH, {"region": 7}, "strides: 2 does not divide the window's side 7"),
        (BRANCH, {"fuse_method": "mean"}, "expected 'split_attn' or 'naive'"),
    ],
    ids=str,
)
def test_arguments_that_make_no_network_say_so(design, options, message):
    with pytest.raises(ValueError, match=message):
        built(design, **options)
