"""DAT and DAT++ equal the released code, and take images of any size and weights of any."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recorded import SHIPPED, load
from torch import Tensor

import basicsr_ext as bx
from basicsr_ext.archs.dat_arch import DAT, LocalAttention
from basicsr_ext.archs.dat_plus_plus_arch import DATPlusPlus
from basicsr_ext.archs.layers.deformable_attention import DeformableAttention

TINY = {"img_size": 64, "num_classes": 5, "dim_stem": 8, "dims": [8, 8, 16, 16], "heads": [1, 1, 2, 2]}
TINY_DAT = {
    **TINY,
    "depths": [1, 2, 2, 1],
    "stage_spec": [["L"], ["L", "S"], ["L", "D"], ["D"]],
    "groups": [-1, -1, 1, 2],
    "window_sizes": [4, 4, 2, 2],
}
TINY_PLUS = {
    **TINY,
    "depths": [1, 1, 2, 1],
    "stage_spec": [["N"], ["D"], ["N", "D"], ["D"]],
    "groups": [1, 1, 2, 2],
    "nat_ksizes": [3, 3, 3, 3],
}
SMALL = {"depths": [2, 2, 18, 2], "stage_spec": ["LS", "LS", "LD" * 9, "LD"]}
BASE = {"dim_stem": 128, "dims": [128, 256, 512, 1024], "heads": [4, 8, 16, 32]}


def tiny(name: str = "DATPlusPlus", **options: object) -> DAT | DATPlusPlus:
    torch.manual_seed(0)
    net = bx.build_network({"type": name, **(TINY_DAT if name == "DAT" else TINY_PLUS), **options})
    assert isinstance(net, DAT | DATPlusPlus)
    return net


def layer(**options: object) -> DeformableAttention:
    torch.manual_seed(0)
    return DeformableAttention(**{"dim": 8, "heads": 4, "groups": 2, "size": (6, 8), "stride": 2} | options)


@pytest.mark.parametrize("name", ["dat_v1_unit", "dat_v2_unit"])
def test_the_state_dict_has_the_released_keys_without_masks_and_index_tables(name):
    meta = load(SHIPPED / f"{name}.json").meta
    net = (DAT if "v1" in name else DATPlusPlus)(**meta["kwargs"])
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == meta["keys"]
    released = {**net.state_dict(), **{key: torch.zeros(1) for key in meta["derived"]}}
    bx.load_weights(net, {"model": released})


@pytest.mark.parametrize(
    ("network", "options", "parameters"),  # published in the papers' tables: 29, 50, 88; 24, 53, 94 M
    [
        (DAT, {}, 28_319_138),
        (DAT, SMALL, 49_700_402),
        (DAT, {**SMALL, **BASE, "groups": [-1, -1, 4, 8]}, 87_881_632),
        (DATPlusPlus, {}, 23_962_876),
        (
            DATPlusPlus,
            {"dim_stem": 96, "dims": [96, 192, 384, 768], "heads": [3, 6, 12, 24], "groups": [1, 2, 3, 6]},
            53_127_366,
        ),
        (DATPlusPlus, {**BASE, "groups": [2, 4, 8, 16]}, 93_690_640),
    ],
    ids=["T", "S", "B", "T++", "S++", "B++"],
)
def test_the_published_networks_have_the_published_parameters(network, options, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in network(**options).parameters()) == parameters


@pytest.mark.parametrize("name", ["DAT", "DATPlusPlus"])
class TestSizes:
    @pytest.mark.parametrize("size", [(64, 64), (1, 1), (7, 70), (80, 96)], ids=str)
    def test_any_size_is_classified(self, name, size):
        assert tiny(name)(torch.rand(2, 3, *size)).shape == (2, 5)

    def test_without_classes_the_features_come_out(self, name):
        assert tiny(name, num_classes=0)(torch.rand(2, 3, 64, 64)).shape == (2, 16)

    def test_a_batch_gives_each_image_what_it_gives_alone(self, name):
        net, x = tiny(name).double().eval(), torch.rand(3, 3, 64, 64, dtype=torch.float64)
        torch.testing.assert_close(net(x)[1:2], net(x[1:2]))


class TestWeightsOfAnotherSize:
    @pytest.mark.parametrize("name", ["DAT", "DATPlusPlus"])
    def test_load_with_resized_tables(self, name):
        options = {"window_sizes": [4, 4, 3, 3]} if name == "DAT" else {}
        source, net = tiny(name), tiny(name, img_size=96, **options)
        bx.load_weights(net, source.state_dict())
        before, after = (n.stages[3].attns[0].rpe_table.detach() for n in (source, net))
        assert before.shape[1:] == (3, 3)
        torch.testing.assert_close(after, F.interpolate(before[None], (5, 5), mode="bicubic")[0])
        if name == "DAT":
            assert net.stages[2].attns[0].relative_position_bias_table.shape == (25, 2)

    def test_leave_others_alone(self):
        source, net = (tiny(fixed_pes=[True] * 4, img_size=size) for size in (64, 96))
        with pytest.raises(ValueError, match=r"shape: stages\.3\.attns\.0\.rpe_table is \[2, 4, 4\]"):
            bx.load_weights(net, source.state_dict())


class TestDeformableAttention:
    def test_without_offsets_and_bias_is_plain_attention(self):
        module, x = layer(offsets=False).double(), torch.randn(2, 6, 8, 8, dtype=torch.float64)
        pooled = F.avg_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        q, k, v = (
            F.linear(part.flatten(1, 2), conv.weight.flatten(1), conv.bias)
            .unflatten(2, (4, 2))
            .transpose(1, 2)
            for part, conv in (
                (x, module.proj_q),
                (pooled, module.proj_k),
                (pooled, module.proj_v),
            )
        )
        y = ((q @ k.transpose(2, 3) * 2**-0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        y = F.linear(y, module.proj_out.weight.flatten(1), module.proj_out.bias)
        torch.testing.assert_close(module(x), y.view_as(x))

    @pytest.mark.parametrize("release", ["dat", "dat++"])
    @pytest.mark.parametrize("reach", [-1.0, 0.0, 2.0])
    def test_offsets_keep_to_their_range(self, release, reach):
        module = layer(release=release, offset_range=reach)
        torch.nn.init.constant_(module.conv_offset[3].weight, 1e3)
        positions, references = module.attend(torch.randn(1, 6, 8, 8))[1:]
        assert positions.shape == references.shape == (1, 2, 3, 4, 2)
        moved = positions - references
        if reach < 0:
            assert positions.abs().max() <= 1
        elif reach == 0:
            assert (moved.abs().max() > 10) == (release == "dat")
        else:
            cells = torch.tensor([3.0, 4.0]) - int(release == "dat++")
            torch.testing.assert_close(moved.abs() * cells, torch.full_like(moved, reach), atol=1e-2, rtol=0)

    @pytest.mark.parametrize("position", ["none", "table", "network", "fixed", "convolution"])
    @pytest.mark.parametrize("size", [(1, 1), (3, 17), (12, 16)], ids=str)
    @pytest.mark.parametrize("release", ["dat", "dat++"])
    def test_maps_of_any_size_are_taken(self, position, size, release):
        module = layer(position=position, release=release, kernel=5)
        y = module(torch.randn(2, *size, 8))
        assert y.shape == (2, *size, 8)
        assert y.isfinite().all()

    def test_a_kernel_as_large_as_its_stride_takes_smaller_maps_too(self):
        assert layer(kernel=4, stride=4)(torch.randn(1, 2, 3, 8)).shape == (1, 2, 3, 8)

    def test_a_bias_for_pairs_is_resized_for_other_maps(self):
        module = layer(position="fixed")
        rows = torch.linspace(-1, 1, 6).view(6, 1).expand(6, 8).flatten()
        keys = torch.linspace(-1, 1, 3).view(3, 1).expand(3, 4).flatten()
        table = (rows.view(48, 1) + keys).expand(4, 48, 12)
        resized = module._fixed_bias(table, (12, 16), (6, 8))
        assert resized.shape == (4, 192, 48)
        by_row = resized.view(4, 12, 16, 6, 8)
        assert (by_row.diff(dim=1) >= -1e-6).all()
        assert (by_row.diff(dim=3) >= -1e-6).all()
        assert by_row.diff(dim=2).abs().max() < 1e-6

    def test_gradients_reach_offsets_and_tables(self):
        module = layer()
        module(torch.randn(1, 6, 8, 8)).square().mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())

    def test_dropout_draws_in_training_only(self):
        module, x = layer(attn_drop=0.5, proj_drop=0.5), torch.randn(1, 6, 8, 8)
        assert not torch.equal(module(x), module(x))
        assert torch.equal(module.eval()(x), module(x))


class TestLocalAttention:
    def test_windows_are_shifted_by_half_rounded_up(self):
        shifts = [
            module.shift
            for module in tiny("DAT", window_sizes=[4, 3, 2, 2]).modules()
            if isinstance(module, LocalAttention)
        ]
        assert shifts == [(0, 0), (0, 0), (2, 2), (0, 0)]


class TestBlocks:
    def test_local_units_scales_and_kinds_are_optional(self):
        plain, rich = (
            tiny(use_lpus=[False] * 4),
            tiny(layer_scale_values=[0.1] * 4, stage_spec=["N", "L", "SD", "D"]),
        )
        assert not any("local_perception_units" in key or "layer_scales" in key for key in plain.state_dict())
        assert torch.equal(rich.stages[2].layer_scales[3].weight, torch.full((16,), 0.1))
        assert rich(torch.rand(1, 3, 64, 64)).shape == (1, 5)

    @pytest.mark.parametrize("name", ["DAT", "DATPlusPlus"])
    def test_a_stem_of_another_width_is_projected(self, name):
        net = tiny(name, dim_stem=12)
        assert net.stages[0].proj.weight.shape == (8, 12, 1, 1)
        assert net(torch.rand(1, 3, 64, 64)).shape == (1, 5)

    def test_the_first_release_has_overlapping_patches_and_depthwise_networks_too(self):
        net = tiny("DAT", use_conv_patches=True, use_dwc_mlps=[True] * 4)
        assert net.patch_proj[0].kernel_size == (7, 7)
        assert net(torch.rand(1, 3, 64, 64)).shape == (1, 5)

    def test_stochastic_depth_grows_linearly_over_all_blocks(self):
        rates = [path.rate for stage in tiny(drop_path_rate=0.4).stages for path in stage.drop_path]
        assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


class TestArguments:
    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("DAT", {"depths": [1, 1, 1]}, "depths: found 3 entries"),
            (
                "DAT",
                {"stage_spec": [["L"], ["L", "N"], ["L", "D"], ["D"]]},
                r"stage_spec.*\['L', 'N'\] in stage 2",
            ),
            ("DAT", {"no_offs": [False, False, True, False]}, "no_offs"),
            ("DAT", {"heads": [1, 3, 2, 2]}, "heads: 3 does not divide 8, the width of stage 2"),
            ("DATPlusPlus", {"groups": [1, 1, 2, 3]}, "groups: 3 does not divide 2, the heads of stage 4"),
            (
                "DATPlusPlus",
                {"stage_spec": [["N"], ["D"], ["D"], ["D"]]},
                "in stage 3, expected 2 of N, D, L, S",
            ),
        ],
        ids=str,
    )
    def test_that_make_no_network_say_so(self, name, options, message):
        with pytest.raises(ValueError, match=message):
            tiny(name, **options)


@pytest.mark.parametrize("name", ["DAT", "DATPlusPlus"])
class TestTraining:
    def test_bf16_autocast_trains(self, name):
        net, x = tiny(name, drop_path_rate=0.0).train(), torch.rand(1, 3, 64, 64)
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x)
        y.float().square().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        torch.testing.assert_close(y.float(), net.eval()(x), atol=0.05, rtol=0.05)

    @pytest.mark.parametrize("mode", ["train", "eval"])
    @pytest.mark.parametrize("size", [64, 50])
    def test_compiling_captures_one_whole_graph(self, name, mode, size):
        net, x = tiny(name, drop_path_rate=0.0).train(mode == "train"), torch.rand(2, 3, size, 64)
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), net(x))
        compiled(x).mean().backward()

    def test_validation_under_inference_mode_leaves_tables_training_can_use(self, name):
        net, x = tiny(name), torch.rand(1, 3, 40, 72)
        with torch.inference_mode():
            net.eval()(x)
        net.train()(x).mean().backward()


def sampled_by_hand(table: Tensor, row: float, column: float) -> Tensor:
    """Interpolate (heads, R, S) at a position in pixels; zero outside."""
    padded = F.pad(table, (9, 9, 9, 9))
    top, left = int(row // 1), int(column // 1)
    a, b = row - top, column - left
    corner = padded[:, top + 9 : top + 11, left + 9 : left + 11]
    weights = torch.tensor([[(1 - a) * (1 - b), (1 - a) * b], [a * (1 - b), a * b]], dtype=table.dtype)
    return (corner * weights).sum((1, 2))


@pytest.mark.parametrize("release", ["dat", "dat++"])
def test_the_table_is_read_where_query_and_key_say(release):
    module = layer(release=release).double()
    positions = torch.rand(1, 2, 1, 3, 2, dtype=torch.float64) * 3 - 1.5
    bias = module._bias((6, 8), positions)
    assert bias is not None
    assert bias.shape == (1, 4, 48, 3)
    for query, key, group in ((0, 0, 0), (13, 2, 1), (47, 1, 1)):
        place = []
        for axis, (index, count) in enumerate(((query // 8, 6), (query % 8, 8))):
            at = (index + 0.5) / count * 2 - 1 if release == "dat" else index / (count - 1) * 2 - 1
            offset = 0.5 * (at - positions[0, group, 0, key, axis].item())
            place.append((offset + 1) / 2 * (2 * count - 2))
        wanted = sampled_by_hand(module.rpe_table[2 * group : 2 * group + 2], *place)
        torch.testing.assert_close(bias[0, 2 * group : 2 * group + 2, query, key], wanted)
