"""EDT equals the released code, and keeps its promises about tasks, sizes, precision and randomness."""

from __future__ import annotations

import pytest
import torch
from recorded import SHIPPED, find, load

import basicsr_ext as bx
from basicsr_ext.archs.edt_arch import EDT
from basicsr_ext.archs.padding import crop_to, pad_to

TINY = {"window_size": [2, 4], "embed_dim": 8, "num_feat": 2, "depth": 1, "depths": [2], "num_heads": [2]}


def tiny(**options: object) -> EDT:
    torch.manual_seed(0)
    net = bx.build_network({"type": "EDT", **TINY, **options})
    assert isinstance(net, EDT)
    return net


@pytest.mark.parametrize("path", find(SHIPPED, "edt_"), ids=lambda path: path.stem)
def test_the_state_dict_has_the_released_keys_without_the_masks(path):
    meta = load(path).meta
    options = {key.lower(): value for key, value in load(path).kwargs.items()}
    net = EDT(**options, full_resolution=meta["file"].endswith("edtsf.py"))
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == meta["keys"]
    assert all(net.derived_keys.search(key) for key in meta["derived"])


def test_defaults_are_edt_b():
    with torch.device("meta"):
        assert sum(p.numel() for p in EDT(scales=[2]).parameters()) == 11_479_355


class TestTasks:
    def test_are_ordered_by_kind_then_as_listed(self):
        net = tiny(rain_levels=["L"], noise_levels=[50, 15], scales=[4, 2])
        assert net.tasks == ["sr_x4", "sr_x2", "dn_g50", "dn_g15", "dr_L"]

    def test_a_single_task_network_takes_and_returns_one_tensor(self):
        assert tiny(scales=[2])(torch.rand(2, 3, 8, 4)).shape == (2, 3, 16, 8)

    def test_a_single_task_network_also_takes_a_list_of_one(self):
        net, x = tiny(noise_levels=[15]).eval(), torch.rand(1, 3, 8, 8)
        assert torch.equal(net([x])[0], net(x))

    def test_a_list_gives_each_task_what_it_gives_alone(self):
        net = tiny(scales=[2, 3], noise_levels=[15]).eval()
        images = [torch.rand(1, 3, 8, 4), torch.rand(2, 3, 4, 4), torch.rand(1, 3, 8, 16)]
        for task, x, y in zip(net.tasks, images, net(images), strict=True):
            assert torch.equal(net(x, task), y)

    def test_in_training_a_list_of_one_size_goes_through_the_body_at_once_with_the_same_result(self):
        net = tiny(scales=[2], rain_levels=["H"], full_resolution=True, drop_path_rate=0.0)
        images = [torch.rand(2, 3, 8, 8), torch.rand(1, 3, 8, 8)]
        batches = []
        net.body.register_forward_pre_hook(lambda body, inputs: batches.append(len(inputs[0])))
        together, apart = net.train()(images), net.eval()(images)
        assert batches == [3, 2, 1]
        for a, b in zip(together, apart, strict=True):
            torch.testing.assert_close(a, b)

    def test_one_tensor_for_several_tasks_asks_which(self):
        with pytest.raises(ValueError, match=r"name the task .*sr_x2.*dn_g15"):
            tiny(scales=[2], noise_levels=[15])(torch.rand(1, 3, 8, 8))

    def test_an_unknown_task_is_answered_with_the_known_ones(self):
        with pytest.raises(ValueError, match=r"'sr_x3' is not one of .*sr_x2"):
            tiny(scales=[2])(torch.rand(1, 3, 8, 8), task="sr_x3")

    def test_a_list_of_another_length_is_refused(self):
        with pytest.raises(ValueError, match="one image for each"):
            tiny(scales=[2, 3])([torch.rand(1, 3, 8, 8)])


class TestSizes:
    @pytest.mark.parametrize("options", [{"scales": [3]}, {"noise_levels": [15]}], ids=str)
    @pytest.mark.parametrize("size", [(1, 1), (3, 17), (8, 9)], ids=str)
    def test_any_size_comes_out_times_scale(self, options, size):
        net = tiny(**options)
        scale = 3 if "scales" in options else 1
        assert net(torch.rand(1, 3, *size)).shape[-2:] == (size[0] * scale, size[1] * scale)

    def test_sizes_that_do_not_fit_are_padded_as_in_the_official_test_script(self):
        net, x = tiny(scales=[2]).eval(), torch.rand(1, 3, 7, 8)
        padded = pad_to(x, net.size_requirement())
        assert padded.shape[-2:] == (8, 12)
        assert torch.equal(net(x), crop_to(net(padded), (14, 16)))

    def test_the_requirement_counts_windows_and_halvings(self):
        net = tiny(scales=[2], noise_levels=[15], window_size=[4, 6], depth=2)
        requirements = {task: net.size_requirement(task).multiple_of for task in net.tasks}
        assert requirements == {"sr_x2": 12, "dn_g15": 48}
        assert net.size_requirement().multiple_of == 48
        assert tiny(noise_levels=[15], depth=2, full_resolution=True).size_requirement().multiple_of == 4

    def test_one_channel_images_are_not_centred(self):
        net = tiny(noise_levels=[15], in_channel=1)
        assert net(torch.rand(1, 1, 8, 8)).shape == (1, 1, 8, 8)
        assert net.mean.tolist() == [[[[0.0]]]]


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "at least one task"),
            ({"scales": [2], "window_size": [8]}, "window_size"),
            ({"scales": [2], "depths": [2, 2]}, "depths and num_heads"),
            ({"scales": [2], "embed_dim": 10}, r"2 \* num_heads = 4"),
            ({"scales": [6]}, "3 or a power of 2"),
            ({"scales": [2], "upsampler": "nearest"}, "pixelshuffledirect"),
            ({"scales": [2], "resi_connection": "2conv"}, "3conv"),
        ],
        ids=str,
    )
    def test_that_make_no_network_say_so(self, options, message):
        with pytest.raises(ValueError, match=message):
            tiny(**options)

    @pytest.mark.parametrize("scale", [2, 3, 4, 8])
    @pytest.mark.parametrize("upsampler", ["pixelshuffle", "pixelshuffledirect"])
    def test_every_upsampler_reaches_every_scale(self, scale, upsampler):
        net = tiny(scales=[scale], upsampler=upsampler, resi_connection="3conv")
        assert net(torch.rand(1, 3, 4, 4)).shape[-1] == 4 * scale


class TestRandomness:
    def test_stochastic_depth_grows_linearly_over_all_blocks(self):
        net = tiny(scales=[2], depths=[2, 3], num_heads=[2, 2], drop_path_rate=0.2)
        rates = [module.rate for module in net.modules() if type(module).__name__ == "DropPath"]
        assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])

    def test_training_draws_from_torchs_default_generator_alone(self):
        net, x = tiny(scales=[2], drop_path_rate=0.5).train(), torch.rand(8, 3, 4, 4)
        torch.manual_seed(1)
        first, state = net(x), torch.get_rng_state()
        torch.manual_seed(1)
        assert torch.equal(net(x), first)
        assert torch.equal(torch.get_rng_state(), state)
        assert not torch.equal(net(x), first)

    def test_evaluation_draws_nothing(self):
        net, x = tiny(scales=[2], drop_path_rate=0.5).eval(), torch.rand(1, 3, 4, 4)
        before = torch.get_rng_state()
        net(x)
        assert torch.equal(torch.get_rng_state(), before)


class TestPrecision:
    def test_bf16_autocast_trains(self):
        net, x = tiny(scales=[2]).train(), torch.rand(1, 3, 8, 8)
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x)
        y.float().mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
        torch.testing.assert_close(y.float(), net.eval()(x), atol=0.05, rtol=0.05)

    def test_validation_under_inference_mode_leaves_masks_training_can_use(self):
        net, x = tiny(scales=[2]), torch.rand(1, 3, 20, 12)
        with torch.inference_mode():
            net.eval()(x)
        net.train()(x).mean().backward()


class TestCompile:
    @pytest.mark.parametrize("mode", ["train", "eval"])
    def test_captures_one_whole_graph(self, mode):
        net, x = tiny(scales=[2], drop_path_rate=0.0).train(mode == "train"), torch.rand(1, 3, 8, 8)
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), net(x))

    def test_captures_padding_tasks_and_lists(self):
        net = tiny(scales=[2, 3], noise_levels=[15])
        compiled = torch.compile(net.train(), backend="eager", fullgraph=True, dynamic=False)
        assert compiled(torch.rand(1, 3, 7, 9), "dn_g15").shape == (1, 3, 7, 9)
        assert [y.shape[-1] for y in compiled([torch.rand(1, 3, 8, 8)] * 3)] == [16, 24, 8]

    def test_serves_each_size_of_progressive_learning(self):
        net = tiny(scales=[2]).eval()
        compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
        for side in (8, 12, 16):
            x = torch.rand(1, 3, side, side)
            torch.testing.assert_close(compiled(x), net(x))
