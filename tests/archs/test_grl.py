"""GRL equals the released code, and keeps its promises about sizes, cached biases, memory and precision."""

from __future__ import annotations

import copy

import pytest
import torch
from recorded import SHIPPED, find, load
from torch import nn
from torch._subclasses import FakeTensorMode

import basicsr_ext as bx
from basicsr_ext.archs.grl_arch import GRL
from basicsr_ext.archs.layers.position_bias import PositionBias

TINY = {
    "embed_dim": 16,
    "depths": [4],
    "num_heads_window": [2],
    "num_heads_stripe": [2],
    "window_size": 4,
    "stripe_size": [8, 4],
    "anchor_window_down_factor": 2,
    "upscale": 2,
    "drop_path_rate": 0.0,
}


def tiny(**options: object) -> GRL:
    torch.manual_seed(0)
    net = bx.build_network({"type": "GRL", **TINY, **options})
    assert isinstance(net, GRL)
    return net


def bias_computations(net: nn.Module) -> list[int]:
    """Return a list that grows whenever ``net`` runs the network of a position bias."""
    computed: list[int] = []
    for module in net.modules():
        if isinstance(module, PositionBias):
            module.register_forward_hook(lambda *_: computed.append(1))
    return computed


@pytest.mark.parametrize("path", find(SHIPPED, "grl_"), ids=lambda path: path.stem)
def test_the_state_dict_has_the_released_keys_without_the_tables(path):
    meta = load(path).meta
    net = GRL(**load(path).kwargs)
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == meta["keys"]
    assert all(net.derived_keys.search(key) for key in meta["derived"])


def test_tables_in_a_released_checkpoint_are_ignored():
    net = tiny()
    released = {**net.state_dict(), "table_w": torch.ones(1, 7, 7, 2), "mask_sv_w2a": torch.ones(3)}
    assert not bx.load_weights(tiny(), released).problems()


PUBLISHED = {  # parameters of the released networks
    "tiny x4": ({}, 906_192),
    "small x3": (
        {"embed_dim": 128, "upsampler": "pixelshuffle", "upscale": 3},
        3_524_643,
    ),
    "base x4": (
        {
            "embed_dim": 180,
            "depths": [4, 4, 8, 8, 8, 4, 4],
            "num_heads_window": [3] * 7,
            "num_heads_stripe": [3] * 7,
            "upsampler": "pixelshuffle",
            "local_connection": True,
        },
        20_201_299,
    ),
}


@pytest.mark.parametrize(("options", "parameters"), PUBLISHED.values(), ids=PUBLISHED)
def test_published_networks_have_the_published_size(options, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in GRL(**options).parameters()) == parameters


class TestSizes:
    @pytest.mark.parametrize("size", [(1, 1), (3, 20), (8, 8), (17, 9)])
    def test_any_size_in_gives_the_enlarged_size_out(self, size):
        assert tiny()(torch.rand(2, 3, *size)).shape == (2, 3, 2 * size[0], 2 * size[1])

    def test_sides_that_are_no_multiples_of_each_other_are_padded_to_a_common_one(self):
        net = tiny(window_size=6, stripe_size=[8, 4])
        assert net.size_requirement().multiple_of == 24
        assert net(torch.rand(1, 3, 9, 9)).shape == (1, 3, 18, 18)

    def test_grouped_stripes_take_images_that_are_not_square(self):
        net = tiny(stripe_size=[8, None], stripe_groups=[None, 4])
        assert net.size_requirement().multiple_of == 8
        assert net(torch.rand(1, 3, 16, 24)).shape == (1, 3, 32, 48)

    def test_padding_from_outside_changes_nothing(self):
        net = tiny().eval()
        requirement = net.size_requirement()
        for size in [(5, 13), (2, 30)]:  # mirrored; too small to be mirrored
            x = torch.rand(1, 3, *size)
            padded = bx.archs.padding.call_padded(net, x, 2, requirement)
            torch.testing.assert_close(padded, net(x))

    @pytest.mark.parametrize("size", [(16, 24), (40, 16)])
    def test_a_batch_is_restored_image_by_image(self, size):
        net, x = tiny().eval(), torch.rand(3, 3, *size)
        alone = torch.cat([net(image[None]) for image in x])
        torch.testing.assert_close(net(x), alone, atol=1e-5, rtol=1e-5)

    def test_two_dual_pixel_views_become_one_image(self):
        net = tiny(in_channels=6, out_channels=3, upsampler="", upscale=1)
        assert net(torch.rand(1, 6, 8, 8)).shape == (1, 3, 8, 8)


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"depths": [4, 4]}, "differ in length: 2, 1 and 1"),
            ({"embed_dim": 18}, "not a multiple of twice the heads = 4"),
            ({"stripe_size": [8]}, "two entries"),
            ({"stripe_size": [8, None]}, "give one of both"),
            ({"stripe_size": [8, 3]}, "3 is not a multiple of anchor_window_down_factor = 2"),
            ({"upscale": 3, "upsampler": "nearest+conv"}, "'nearest\\+conv' is for 4"),
            ({"upsampler": ""}, "does not enlarge"),
            ({"upsampler": "bicubic"}, "expected 'pixelshuffle'"),
            ({"conv_type": "2conv"}, "conv_type: found '2conv'"),
            ({"anchor_proj_type": "conv2d"}, "anchor_proj_type: found 'conv2d'"),
        ],
        ids=str,
    )
    def test_that_make_no_network_say_so(self, options, message):
        with pytest.raises(ValueError, match=message):
            tiny(**options)

    def test_three_convolutions_can_end_a_stage(self):
        assert tiny(conv_type="3conv")(torch.rand(1, 3, 8, 8)).shape == (1, 3, 16, 16)


class TestKeptBiases:
    """Evaluation computes the position biases once, as long as the weights rest."""

    @staticmethod
    def evaluated(net: GRL, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return net.eval()(x)

    def test_are_computed_once_for_all_images(self):
        net = tiny()
        computed = bias_computations(net)
        for size in [(8, 8), (16, 24), (8, 8)]:
            self.evaluated(net, torch.rand(1, 3, *size))
        assert len(computed) == 4 * 3

    def test_give_the_result_of_fresh_ones(self):
        net, x = tiny(), torch.rand(1, 3, 8, 16)
        first = self.evaluated(net, x)
        assert torch.equal(self.evaluated(net, x), first)
        torch.testing.assert_close(net(x), first)  # with gradients nothing kept is used

    @pytest.mark.parametrize(
        "change",
        [
            lambda p, _: p.add_(0.1),
            lambda p, _: p.data.add_(0.1),  # leaves version counters as they are
            lambda p, _: torch._foreach_add_([p], 0.1),
            lambda p, net: net.load_state_dict({k: v + 0.1 for k, v in net.state_dict().items()}),
            lambda p, net: net.load_state_dict(
                {k: v + 0.1 for k, v in net.state_dict().items()}, assign=True
            ),
        ],
        ids=["in place", "through data", "foreach", "loading", "loading by assignment"],
    )
    def test_are_forgotten_when_weights_change_however_they_change(self, change):
        net, x = tiny(), torch.rand(1, 3, 8, 8)
        self.evaluated(net, x)
        parameter = next(m for m in net.modules() if isinstance(m, PositionBias)).get_submodule("2").weight
        with torch.no_grad():
            change(parameter, net)
        fresh = tiny()
        fresh.load_state_dict(net.state_dict())
        assert torch.equal(self.evaluated(net, x), self.evaluated(fresh, x))

    def test_are_not_used_in_training_and_are_freed_by_it(self):
        net, x = tiny(), torch.rand(1, 3, 8, 8)
        self.evaluated(net, x)
        computed = bias_computations(net)
        net.train()(x).mean().backward()
        assert len(computed) == 4 * 3
        gradients = [m.get_submodule("2").weight.grad for m in net.modules() if isinstance(m, PositionBias)]
        assert all(gradient is not None and gradient.any() for gradient in gradients)
        self.evaluated(net, x)
        assert len(computed) == 2 * 4 * 3

    def test_of_inference_mode_serve_no_grad_and_leave_training_possible(self):
        net, x = tiny(), torch.rand(1, 3, 8, 8)
        with torch.inference_mode():
            net.eval()(x)
        self.evaluated(net, x)
        net(x).mean().backward()

    def test_stay_behind_when_the_network_is_copied(self):
        net, x = tiny(), torch.rand(1, 3, 8, 8)
        first = self.evaluated(net, x)
        other = copy.deepcopy(net)
        computed = bias_computations(other)
        assert torch.equal(self.evaluated(other, x), first)
        assert len(computed) == 4 * 3

    def test_follow_a_change_of_precision(self):
        net, x = tiny(), torch.rand(1, 3, 8, 8)
        first = self.evaluated(net, x)
        torch.testing.assert_close(self.evaluated(net.double(), x.double()).float(), first)


@pytest.mark.parametrize("gradients", [True, False])
def test_shapes_can_be_followed_without_values(gradients):
    with torch.device("meta"), torch.set_grad_enabled(gradients):
        assert tiny().eval()(torch.rand(1, 3, 9, 9)).shape == (1, 3, 18, 18)
    net = tiny().eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.set_grad_enabled(gradients):
        assert net(torch.rand(1, 3, 9, 9)).shape == (1, 3, 18, 18)


@pytest.mark.parametrize("name", ["use_checkpoint", "fairscale_checkpoint"])
def test_checkpointing_changes_no_bit_of_a_training_step(name):
    x = torch.rand(2, 3, 8, 8)
    results = []
    for setting in (False, True):
        net = tiny(**{name: setting, "depths": [2, 2], "num_heads_window": [2, 1]}, **TWO_STAGES).train()
        torch.manual_seed(1)
        y = net(x)
        y.square().mean().backward()
        results.append([y, *(p.grad for p in net.parameters()), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


TWO_STAGES = {"num_heads_stripe": [1, 2], "local_connection": True, "embed_dim": 36, "drop_path_rate": 0.5}


class TestPrecision:
    def test_bf16_autocast_trains(self):
        net, x = tiny().train(), torch.rand(1, 3, 8, 8)
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x)
        y.float().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        torch.testing.assert_close(y.float(), net.eval()(x), atol=0.05, rtol=0.05)

    def test_half_precision_stays_near_float32(self):
        net, x = tiny().eval(), torch.rand(1, 3, 8, 8)
        with torch.no_grad():
            y = net(x)
            torch.testing.assert_close(net.bfloat16()(x.bfloat16()).float(), y, atol=0.05, rtol=0.05)


class TestCompile:
    @pytest.mark.parametrize("mode", ["train", "eval"])
    @pytest.mark.parametrize("gradients", [True, False])
    def test_captures_one_whole_graph(self, mode, gradients):
        net, x = tiny(local_connection=True, embed_dim=36).train(mode == "train"), torch.rand(1, 3, 8, 11)
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        with torch.set_grad_enabled(gradients):
            torch.testing.assert_close(compiled(x), net(x))

    def test_captures_checkpointed_stages(self):
        net, x = tiny(use_checkpoint=True).train(), torch.rand(1, 3, 8, 8)
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), net(x))

    def test_gradients_of_a_captured_graph_equal_eager_ones(self):
        net, x = tiny(depths=[1]).train(), torch.rand(1, 3, 8, 8)
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True, dynamic=False)
        parameters = list(net.parameters())
        got, want = (torch.autograd.grad(f(x).square().mean(), parameters) for f in (compiled, net))
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b)
