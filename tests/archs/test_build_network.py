"""Networks are built by name: ours, and all of basicsr's that need no compiled extension or download."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import basicsr_ext as bx
from basicsr_ext.archs import NETWORKS
from basicsr_ext.registry import UnknownTypeError

IMAGE = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_block": 1}

BASICSR = {
    "BasicVSR": {"num_feat": 4, "num_block": 1},
    "BasicVSRPlusPlus": {"mid_channels": 16, "num_blocks": 1},
    "DUF": {"num_layer": 16},
    "ECBSR": {
        "num_in_ch": 3,
        "num_out_ch": 3,
        "num_block": 1,
        "num_channel": 4,
        "with_idt": True,
        "act_type": "prelu",
        "scale": 2,
    },
    "EDSR": IMAGE,
    "EDVR": {"num_feat": 8},
    "HiFaceGAN": {"num_feat": 4, "crop_size": 64},
    "HiFaceGANDiscriminator": {"num_feat": 4},
    "IconVSR": {"num_feat": 8, "num_block": 1},
    "MSRResNet": {"num_feat": 4, "num_block": 1},
    "RCAN": {**IMAGE, "num_feat": 16, "num_group": 1},
    "RIDNet": {"in_channels": 3, "mid_channels": 16, "out_channels": 3, "num_block": 1},
    "RRDBNet": {**IMAGE, "num_grow_ch": 4},
    "SRVGGNetCompact": {"num_feat": 4, "num_conv": 1},
    "SpyNet": {},
    "StyleGAN2Discriminator": {"out_size": 16, "narrow": 0.05},
    "StyleGAN2Generator": {"out_size": 16, "narrow": 0.05},
    "SwinIR": {"img_size": 16, "embed_dim": 4, "depths": [1], "num_heads": [1], "window_size": 8},
    "TOFlow": {},
    "UNetDiscriminatorSN": {"num_in_ch": 3, "num_feat": 4},
    "VGGStyleDiscriminator": {"num_in_ch": 3, "num_feat": 4},
}
NEED_DOWNLOADS = {
    "DFDNet",  # its dictionary of facial components
    "VGGFeatureExtractor",  # ImageNet weights
}


@pytest.mark.parametrize("name", sorted(BASICSR))
def test_basicsrs_networks_are_built(name):
    assert isinstance(bx.build_network({"type": name, **BASICSR[name]}), nn.Module)


def test_the_list_above_is_all_of_basicsr():
    from basicsr.utils.registry import ARCH_REGISTRY

    theirs = {name for name, network in ARCH_REGISTRY if network.__module__.startswith("basicsr.")}
    assert {name.removesuffix("_basicsr") for name in theirs} == BASICSR.keys() | NEED_DOWNLOADS


def test_basicsr_builds_ours():
    from basicsr.archs import build_network

    assert type(build_network({"type": "EDT", "scales": [2]})) is NETWORKS.find("EDT")


def test_options_are_left_as_they_are():
    opt = {"type": "EDT", "scales": [2], "depths": [1], "num_heads": [6]}
    before = copy.deepcopy(opt)
    bx.build_network(opt)
    assert opt == before


def test_a_missing_type_is_asked_for():
    with pytest.raises(ValueError, match=r"needs a 'type'.*\['scales'\]"):
        bx.build_network({"scales": [2]})


def test_a_misspelt_type_suggests_the_nearest():
    with pytest.raises(UnknownTypeError, match=r"no network is called 'SwinIr'.*did you mean 'SwinIR'"):
        bx.build_network({"type": "SwinIr"})


def test_an_unknown_argument_names_network_and_argument():
    with pytest.raises(TypeError, match=r"EDT.*'scale'"):
        bx.build_network({"type": "EDT", "scale": 4})


def test_every_own_network_has_its_file():
    for name, network in NETWORKS.own().items():
        assert network.__module__.startswith("basicsr_ext.archs."), name
        assert network.__module__.split(".")[2].endswith("_arch"), name


def test_building_is_a_function_of_torchs_seed():
    def weights() -> list[torch.Tensor]:
        torch.manual_seed(3)
        return list(
            bx.build_network({"type": "EDT", "scales": [2], "depths": [1], "num_heads": [6]}).parameters()
        )

    assert all(torch.equal(a, b) for a, b in zip(weights(), weights(), strict=True))
