"""EMT equals the released code, and its data movement equals the released kernels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from recorded import SHARED, SHIPPED, find, load

import basicsr_ext as bx
from basicsr_ext.archs.emt_arch import EMT, ShiftConv
from basicsr_ext.archs.layers.pixel_mixing import TokenMixer, moved_by_groups, moved_in_turn

TINY = {
    "dim": 20,
    "n_blocks": 2,
    "n_layers": 3,
    "num_heads": 1,
    "window_list": [[8, 4], [4, 8]],
    "shift_list": [[4, 2], [2, 4]],
    "upscale": 2,
}
OFFICIAL = SHARED.parent / "data/emt/EMT_LSR_x4.pth"


def tiny(**options: object) -> EMT:
    torch.manual_seed(0)
    net = bx.build_network({"type": "EMT", **TINY, **options})
    assert isinstance(net, EMT)
    return net


@pytest.mark.parametrize("path", find(SHIPPED, "emt_"), ids=lambda path: path.stem)
def test_the_state_dict_has_the_released_keys_with_the_masks(path):
    meta = load(path).meta
    state = EMT(**meta["kwargs"]).state_dict()
    assert state.keys() == {*meta["keys"], *meta["derived"]}
    assert all(list(state[key].shape) == shape for key, shape in meta["keys"].items())


@pytest.mark.skipif(not OFFICIAL.is_file(), reason="../shared/data is not on this machine")
def test_derived_tensors_are_those_of_the_official_checkpoint():
    official = torch.load(OFFICIAL, weights_only=True)["params"]
    net = EMT()
    state = net.state_dict()
    assert state.keys() == official.keys()
    derived = [key for key in official if net.derived_keys.search(key)]
    assert len(derived) == 100
    assert all(torch.equal(state[key], official[key]) for key in derived)


@pytest.mark.parametrize(("upscale", "parameters"), [(2, 670_572), (3, 678_687), (4, 690_048)])
def test_defaults_are_the_published_network(upscale, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in EMT(upscale=upscale).parameters()) == parameters


def test_images_are_0_to_255():
    assert tiny().pixel_range == 255.0


def test_a_lower_case_number_of_attention_layers_means_the_same():
    assert tiny(n_gtls=1).state_dict().keys() == tiny(n_GTLs=1).state_dict().keys()


class TestMovement:
    """Channels of (B, H, W, C) that read a neighbour, against the released depthwise kernels."""

    @pytest.mark.parametrize("channels", [3, 5, 12, 20])
    @pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3)], ids=str)
    @pytest.mark.parametrize(
        ("moved", "kernel", "padding"),
        [
            (moved_by_groups, lambda channels: ShiftConv(channels, 1).mask, "constant"),
            (moved_in_turn, lambda channels: TokenMixer(channels).mask, "circular"),
        ],
        ids=["groups", "turn"],
    )
    def test_equals_the_kernels_with_gradients(self, moved, kernel, padding, size, channels):
        x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
        padded = F.pad(x, (1, 1, 1, 1), padding)
        want = F.conv2d(padded, kernel(channels).double(), groups=channels)
        got = moved(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        assert torch.equal(got, want)
        weight = torch.randn_like(want)
        (a,), (b,) = torch.autograd.grad(got, x, weight), torch.autograd.grad(want, x, weight)
        torch.testing.assert_close(a, b)


class TestSizes:
    @pytest.mark.parametrize(
        ("options", "scale"),
        [({}, 2), ({"upscale": 3}, 3), ({"task": "csr", "upscale": 3}, 3), ({"task": "denoising"}, 1)],
        ids=str,
    )
    @pytest.mark.parametrize("size", [(1, 1), (3, 17), (8, 9)], ids=str)
    def test_any_size_comes_out_times_scale(self, options, scale, size):
        y = tiny(**options).eval()(torch.rand(1, 3, *size))
        assert y.shape[-2:] == (size[0] * scale, size[1] * scale)

    def test_one_channel_images_are_not_centred(self):
        net = tiny(num_in_ch=1, num_out_ch=1)
        assert net(torch.rand(1, 1, 8, 8)).shape == (1, 1, 16, 16)
        assert not net.sub_mean.bias.any()


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_heads": 3}, "2 windows"),
            ({"shift_list": [[1, 1]]}, "differ in length"),
            ({"window_list": [[8], [8]]}, "window_list.*pairs"),
            ({"task": "sr"}, "'csr'"),
            ({"task": "csr", "upscale": 6}, "power of 2"),
        ],
        ids=str,
    )
    def test_that_make_no_network_say_so(self, options, message):
        with pytest.raises(ValueError, match=message):
            tiny(**options)


class TestTraining:
    def test_updates_the_running_statistics(self):
        net = tiny().train()
        before = net.body[0].sa_list[2].norm.running_mean.clone()
        net(torch.rand(1, 3, 8, 8) * 255)
        assert not torch.equal(net.body[0].sa_list[2].norm.running_mean, before)

    def test_checkpointing_changes_neither_gradients_nor_running_statistics(self):
        x = torch.rand(1, 3, 16, 16) * 255
        nets = [tiny(use_checkpoint=use_checkpoint).train() for use_checkpoint in (False, True)]
        for net in nets:
            net(x).square().mean().backward()
        for a, b in zip(*(net.parameters() for net in nets), strict=True):
            assert torch.equal(a.grad, b.grad)
        states = [net.state_dict() for net in nets]
        assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())

    def test_bf16_autocast_trains(self):
        net, x = tiny().train(), torch.rand(1, 3, 8, 8) * 255
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x)
        y.float().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


class TestCompile:
    @pytest.mark.parametrize("mode", ["train", "eval"])
    def test_captures_one_whole_graph(self, mode):
        net, x = tiny().train(mode == "train"), torch.rand(1, 3, 9, 8) * 255
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), net(x))

    def test_captures_gradients_of_the_movement(self):
        net, x = tiny(n_blocks=1, n_layers=2, n_GTLs=1), torch.rand(1, 3, 8, 8) * 255
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True, dynamic=False)
        gradients = []
        for call in (compiled, net):
            net.zero_grad()
            call(x).mean().backward()
            gradients.append([p.grad for p in net.parameters()])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)

    def test_captures_checkpointed_blocks(self):
        net, x = tiny(use_checkpoint=True).train(), torch.rand(1, 3, 8, 8) * 255
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), net(x))
