"""Every released weight file that a recorded fixture knows fits the recipes that train its like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import pytest
import torch
import yaml
from helpers import ROOT
from recorded import SHARED
from torch import nn

from basicsr_ext import build_network, load_weights

# Fixture: recipes, parameters, and the digest of all names and shapes in the file but for derived buffers.
RELEASED = {
    "edt_b_x2": ("edt_x2", 11_479_355, "4705f32566ccfca1"),
    "edt_t_x2": ("edt_tiny_x2", 916_924, "fb6274e521186dec"),
    "emt_lsr_x2": ("emt_x2", 670_572, "bc1799860cb4be7a"),
    "emt_lsr_x4": ("emt_x4", 690_048, "240cfef78ce53f19"),
    "grl_base_x4": ("grl_base_x4*", 20_201_299, "04b4e949733fa652"),
    "grl_small_x3": ("grl_small_x3*", 3_524_643, "be1df586206ba997"),
    "grl_small_dn_color": ("grl_denoise_color_* grl_jpeg_color_* grl_dm", 3_120_227, "a67523c85d4e8bfe"),
    "grl_tiny_x4": ("grl_tiny_x4*", 906_192, "0083e2125f51a6e5"),
    "restormer_deblur": (
        "restormer_deraining restormer_motion_deblurring restormer_defocus_single",
        26_126_644,
        "d57d2671dadc520f",
    ),
    "restormer_denoise_color": (
        "restormer_denoise_color_* restormer_denoise_real",
        26_111_668,
        "ca09af311db50417",
    ),
    "restormer_dualpixel": ("restormer_defocus_dual", 26_132_548, "b2758b10f36ca65c"),
    "swinir_classical_x4": ("swinir_x4", 11_900_199, "96a0b42b3269259b"),
    "swinir_color_dn": ("swinir_denoise_color_*", 11_504_163, "afcfe133be138d32"),
    "swinir_light_x4": ("swinir_light_x4", 929_628, "d4c85e8c76fcaa89"),
}
CASES = [
    (fixture, recipe.stem)
    for fixture, (patterns, *_) in RELEASED.items()
    for pattern in patterns.split()
    for recipe in sorted((ROOT / "options").glob(f"{pattern}.yml"))
]


def network(recipe: str) -> nn.Module:
    return build_network(yaml.safe_load((ROOT / f"options/{recipe}.yml").read_text())["network_g"])


def digest(shapes: Mapping[str, Sequence[int]]) -> str:
    lines = (f"{key} {list(shapes[key])}\n" for key in sorted(shapes))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("fixture", "recipe"), CASES)
def test_a_recipes_network_has_the_parameters_and_the_keys_of_the_released_weights(fixture, recipe):
    net, (_, parameters, released) = network(recipe), RELEASED[fixture]
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    state = net.state_dict()
    key = next(iter(dict(net.named_parameters())))
    demanded = [key, *load_weights(net, {key: state[key]}, strict=False).missing]
    assert digest({key: state[key].shape for key in demanded}) == released


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the lists of keys are in {SHARED}, which is not there")
@pytest.mark.parametrize("fixture", RELEASED)
def test_released_weights_load_strictly(fixture):
    meta = json.loads((SHARED / f"{fixture}.json").read_text())
    assert RELEASED[fixture][1:] == (meta["params"], digest(meta["keys"]))
    net = network(dict(reversed(CASES))[fixture])
    # The shapes of derived buffers are not recorded.
    derived = {key: net.state_dict().get(key, torch.zeros(1)) for key in meta["derived"]}
    weights = {key: torch.ones(shape) for key, shape in meta["keys"].items()}
    report = load_weights(net, derived | weights)
    assert set(weights) <= set(report.taken)
    assert all(bool((net.state_dict()[key] == 1).all()) for key in weights)
