"""Padding to a size requirement keeps the image, mirrors its edge, and is undone by the crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import basicsr_ext as bx
from basicsr_ext.archs.padding import SizeRequirement, call_padded, crop_to, pad_to, requirement_of

requirements = st.builds(
    SizeRequirement,
    multiple_of=st.integers(1, 24),
    mode=st.sampled_from(["reflect", "flip"]),
    always=st.booleans(),
)
sides = st.integers(1, 40)
NUMPY_MODE = {"reflect": "reflect", "flip": "symmetric"}


def numbered(height: int, width: int) -> torch.Tensor:
    return torch.arange(float(height * width)).view(1, 1, height, width)


@given(requirements, sides, sides)
def test_the_result_is_numpys_mirrored_extension(requirement, height, width):
    x = numbered(height, width)
    rows, columns = (requirement.padded_length(side) for side in (height, width))
    expected = np.pad(x[0, 0], ((0, rows - height), (0, columns - width)), mode=NUMPY_MODE[requirement.mode])
    assert np.array_equal(pad_to(x, requirement)[0, 0], expected)


@given(requirements, sides)
def test_lengths_are_the_nearest_multiples_allowed(requirement, side):
    length, multiple = requirement.padded_length(side), requirement.multiple_of
    assert length % multiple == 0
    assert length - side in (range(1, multiple + 1) if requirement.always else range(multiple))


@given(requirements, sides, sides, st.integers(1, 4))
def test_a_padded_call_returns_the_images_size_times_scale(requirement, height, width, scale):
    x = numbered(height, width)

    def enlarge(image: torch.Tensor) -> torch.Tensor:
        assert requirement.fits(image)
        return image.repeat_interleave(scale, -1).repeat_interleave(scale, -2)

    assert torch.equal(call_padded(enlarge, x, scale, requirement), enlarge_exactly(x, scale))


def enlarge_exactly(x: torch.Tensor, scale: int) -> torch.Tensor:
    return x.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def test_sizes_that_fit_are_returned_as_they_are():
    x = numbered(8, 16)
    assert pad_to(x, SizeRequirement(8)) is x


def test_always_adds_a_full_multiple_where_the_size_fits():
    assert pad_to(numbered(8, 9), SizeRequirement(8, "flip", always=True)).shape[-2:] == (16, 16)


def test_gradients_flow_through_padding_and_crop():
    x = numbered(3, 5).requires_grad_()
    crop_to(pad_to(x, SizeRequirement(4)), (3, 5)).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


class TestRequirementOf:
    def test_our_networks_state_their_own(self):
        net = bx.build_network({"type": "EDT", "scales": [2], "depths": [1], "num_heads": [6]})
        assert requirement_of(net) == SizeRequirement(24, "flip", always=True)
        assert requirement_of(net, window_size=7) == SizeRequirement(24, "flip", always=True)

    def test_the_option_files_window_size_decides_for_others(self):
        assert requirement_of(nn.Identity(), window_size=16) == SizeRequirement(16, "reflect")

    @pytest.mark.parametrize(
        ("opt", "multiple"),
        [
            (
                {
                    "type": "SwinIR",
                    "img_size": 16,
                    "embed_dim": 4,
                    "depths": [1],
                    "num_heads": [1],
                    "window_size": 8,
                },
                8,
            ),
            (
                {
                    "type": "RRDBNet",
                    "num_in_ch": 3,
                    "num_out_ch": 3,
                    "num_feat": 2,
                    "num_block": 1,
                    "scale": 2,
                },
                2,
            ),
            (
                {
                    "type": "RRDBNet",
                    "num_in_ch": 3,
                    "num_out_ch": 3,
                    "num_feat": 2,
                    "num_block": 1,
                    "scale": 1,
                },
                4,
            ),
            (
                {
                    "type": "RRDBNet",
                    "num_in_ch": 3,
                    "num_out_ch": 3,
                    "num_feat": 2,
                    "num_block": 1,
                    "scale": 4,
                },
                1,
            ),
            ({"type": "MSRResNet", "num_feat": 4, "num_block": 1}, 1),
        ],
        ids=lambda value: value["type"] if isinstance(value, dict) else str(value),
    )
    def test_basicsrs_networks_are_known_and_run_on_any_size(self, opt, multiple):
        net = bx.build_network(opt)
        requirement = requirement_of(net)
        assert requirement.multiple_of == multiple
        scale = {"SwinIR": 1, "RRDBNet": opt.get("scale"), "MSRResNet": 4}[opt["type"]]
        assert call_padded(net, torch.rand(1, 3, 5, 9), scale, requirement).shape == (
            1,
            3,
            5 * scale,
            9 * scale,
        )

    def test_a_window_size_attribute_is_understood(self):
        net = nn.Identity()
        net.window_size = 16
        assert requirement_of(net).multiple_of == 16


class TestMirroringOrZeros:
    requirement = SizeRequirement(8, mode="reflect_or_zeros")

    def test_mirrors_where_one_mirroring_is_enough(self):
        x = torch.rand(1, 1, 5, 14)
        assert torch.equal(pad_to(x, self.requirement), F.pad(x, (0, 2, 0, 3), "reflect"))

    def test_appends_zeros_on_both_axes_where_either_cannot_be_mirrored(self):
        x = torch.rand(1, 1, 4, 14)
        assert torch.equal(pad_to(x, self.requirement), F.pad(x, (0, 2, 0, 4)))
