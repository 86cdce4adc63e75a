"""Published weights are recognised by their keys and shapes, with every argument that matters."""

import inspect
import json

import pytest
import torch
import yaml
from helpers import ROOT
from recorded import SHARED

from basicsr_ext import build_network
from basicsr_ext.inference.recognise import CannotTellError, recognise
from basicsr_ext.registry import NETWORKS

# What decides nothing in an evaluation.
INDIFFERENT = {"img_size", "image_size", "drop_path_rate", "use_checkpoint", "layernorm_type", "n_gtls"}
INDIFFERENT |= {"device", "downsample"}
PUBLISHED = [
    *("edt_tiny_x2", "edt_small_x3", "edt_x4", "emt_x2", "emt_x3", "emt_x4"),
    *("grl_tiny_x2", "grl_small_x3", "grl_base_x4"),
    *("restormer_denoise_gray_15", "restormer_denoise_color_50", "restormer_deraining"),
    *("restormer_defocus_dual", "restormer_defocus_single"),
    *("swinir_x3", "swinir_light_x4", "swinir_denoise_gray_15", "swinir_denoise_color_25"),
    "swinir_jpeg_gray_40",
]


def arguments(described):
    """Return all arguments of a network that matter, defaults included, as they can be compared."""
    constructor = NETWORKS.find(described["type"])
    given = {key: value for key, value in described.items() if key != "type"}
    bound = inspect.signature(constructor).bind(**given)
    bound.apply_defaults()
    plain = json.loads(json.dumps(bound.arguments, default=str))
    return {key: value for key, value in plain.items() if key not in INDIFFERENT}


def shapes_of(described):
    # basicsr's constructor looks at values, ours take no memory for them.
    with torch.device("cpu" if described["type"] == "SwinIR" else "meta"):
        network = build_network(described)
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def network_of(recipe):
    return yaml.safe_load((ROOT / f"options/{recipe}.yml").read_text())["network_g"]


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_the_network_of_a_recipe_is_recognised(recipe):
    described = network_of(recipe)
    found = recognise(shapes_of(described))
    if described["type"] == "GRL":  # either spelling of "in_channels"
        described.setdefault("out_channels", None)
    assert found["type"] == described["type"]
    assert arguments(found) == arguments(described)


@pytest.mark.parametrize(
    "described",
    [
        {"type": "EDT", "scales": [2, 3, 4], "embed_dim": 60, "num_feat": 8, "depths": [6] * 4},
        {"type": "EDT", "noise_levels": [15, 25], "rain_levels": ["L", "H"], "depths": [6, 6]},
        {"type": "EDT", "noise_levels": [50], "full_resolution": True, "in_channel": 1, "depths": [6]},
        {"type": "EDT", "scales": [2], "embed_dim": 240, "num_feat": 64, "depths": [6] * 2},
        {"type": "EMT", "task": "csr", "upscale": 4},
        {"type": "EMT", "task": "denoising", "upscale": 1, "num_in_ch": 1, "num_out_ch": 1},
        {"type": "Restormer", "dim": 32, "ffn_expansion_factor": 2.0, "bias": True},
        {"type": "Restormer", "dim": 24, "ffn_expansion_factor": 2.3, "num_blocks": [1, 2, 3, 1]},
        {"type": "SwinIR", "upsampler": "nearest+conv", "upscale": 4, "resi_connection": "3conv"},
    ],
    ids=str,
)
def test_variants_are_recognised(described):
    described = dict(described)
    if described["type"] == "EDT":
        heads = 8 if described.get("embed_dim") == 240 else 6
        described["num_heads"] = [heads] * len(described["depths"])
    if described["type"] == "SwinIR":
        described |= {"embed_dim": 240, "depths": [6, 6], "num_heads": [8, 8], "window_size": 8}
    shapes = shapes_of(described)
    found = recognise(shapes)
    assert shapes_of(found).items() == shapes.items()
    own, expected = arguments(found), arguments(described)
    factor = "ffn_expansion_factor"
    if factor in own:  # any factor with the same widths will do
        own[factor] = expected[factor]
    assert own == expected


@pytest.mark.parametrize(
    ("recipe", "window", "stripe", "factor"),
    [
        ("grl_denoise_color_15", 16, (64, 128), 4),
        ("grl_jpeg_gray_10", 36, (72, 144), 4),
        ("grl_deblur_motion", 12, (48, 96), 4),
    ],
)
def test_windows_of_a_released_grl_follow_from_its_tables(recipe, window, stripe, factor):
    described = network_of(recipe)
    shapes = shapes_of(described)
    with pytest.raises(CannotTellError, match="window_size and stripe_size"):
        recognise(shapes)
    anchors = [side // factor for side in stripe]
    shapes["table_w"] = (1, 2 * window - 1, 2 * window - 1, 2)
    shapes["table_sh"] = (1, *(a + b - 1 for a, b in zip(stripe, anchors, strict=True)), 2)
    shapes["index_sh_a2w"] = (anchors[0] * anchors[1], stripe[0] * stripe[1])
    found, expected = arguments(recognise(shapes)), arguments(described)
    for key in ("window_size", "stripe_size", "anchor_window_down_factor"):
        assert found[key] == expected[key]


@pytest.mark.parametrize(
    ("described", "unknown"),
    [
        ({"type": "EDT", "scales": [2], "embed_dim": 24, "num_heads": [2], "depths": [2]}, "num_heads"),
        ({"type": "EMT", "dim": 20, "num_heads": 2}, "num_heads and window_list"),
        (
            {"type": "GRL", "embed_dim": 32, "window_size": 8, "stripe_size": [8, 8]},
            "window_size and stripe_size",
        ),
    ],
)
def test_what_no_published_variant_settles_is_said(described, unknown):
    with pytest.raises(CannotTellError, match=unknown):
        recognise(shapes_of(described))


def test_other_networks_are_not_recognised():
    assert recognise({"conv_first.weight": (64, 3, 3, 3), "body.0.rdb1.conv1.weight": (32, 64, 3, 3)}) is None
    assert recognise({}) is None


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the lists of keys are in {SHARED}, which is not there")
@pytest.mark.parametrize(
    "fixture",
    [
        *("edt_b_x2", "edt_t_x2", "edt_t_x2x3x4", "edt_b_dn_g25", "edt_bsf_dn_g15", "emt_lsr_x4"),
        *("grl_base_x4", "grl_tiny_x4", "restormer_deblur", "restormer_dualpixel"),
        *("swinir_classical_x4", "swinir_color_dn", "swinir_color_jpeg", "swinir_light_x4"),
    ],
)
def test_a_released_file_has_the_keys_of_the_network_recognised(fixture):
    meta = json.loads((SHARED / f"{fixture}.json").read_text())
    shapes = {key: tuple(shape) for key, shape in meta["keys"].items()}
    assert shapes.items() <= shapes_of(recognise(shapes)).items()
