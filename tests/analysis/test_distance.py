"""Attention distances: what layers show is what they apply, and is counted as it is."""

import numpy as np
import pytest
import torch
from torch import nn

import basicsr_ext as bx
from basicsr_ext.analysis.distance import AttentionDistances, by_block
from basicsr_ext.archs.layers.context_convolution import AttnConv
from basicsr_ext.archs.layers.deformable_attention import DeformableAttention
from basicsr_ext.archs.layers.neighborhood_attention import NeighborhoodAttention
from basicsr_ext.archs.layers.onlooker import looking_on, positions
from basicsr_ext.archs.layers.window_attention import WindowAttention
from basicsr_ext.archs.mixers import build_mixer

SIDE, DIM, HALF = 12, 8, 4
MAP = positions((SIDE, SIDE), torch.device("cpu")).flatten(0, 2).double()
LAST_THIRD = range(2 * DIM, 3 * DIM)
KINDS = {
    # What is built, its projections' names, and which outputs of the first are values.
    "swin": ({"window": 4, "heads": 2}, "qkv", LAST_THIRD, "proj"),
    "crossed_local": ({"window": [2, 4], "heads": 2}, "qkv", LAST_THIRD, "proj"),
    "striped": (
        {"windows": [[2, 6], [4, 2]], "heads": 2},
        "attn.0",
        [*range(4, 8), *range(12, 16)],
        "proj.0",
    ),
    "neighborhood": (NeighborhoodAttention(DIM, 3, 2), "qkv", LAST_THIRD, "proj"),
    "attn_conv": (AttnConv(DIM, (0, 2), (3,), 5), "global_kv", range(DIM, 2 * DIM), "proj"),
    "mswin_deformable_keys": (
        {"windows": [6], "heads": [2], "strides": [2], "reach": 0.1, "fusion": "naive"},
        "pwmsa.0.to_qkv",
        LAST_THIRD,
        "pwmsa.0.to_out.0",
    ),
    "deformable": (DeformableAttention(DIM, 2, 1, (6, 6), 3), "proj_v", range(DIM), "proj_out"),
    "anchored_stripe": (
        {"window": 4, "stripe": [4, 12], "anchor_factor": 2, "heads": 2},
        "attend.qkv.body",
        [*range(8, 12), *range(20, 24)],
        "attend.proj",
    ),
}
LEFT_AS_THEY_ARE = ("offset", "cpb")


@torch.no_grad()
def attention_by_points(kind, index):
    """Return a layer and its attention (heads, H * W, H * W), by what becomes of single bright points.

    Its queries and keys are made the same everywhere, so that weights follow from places alone, and all its
    values the input's first channel.
    """
    torch.manual_seed(index)
    what, values, rows, projection = KINDS[kind]
    layer = what if isinstance(what, nn.Module) else build_mixer({"type": kind, **what}, DIM, index)
    layer = layer.double().eval()
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and not any(part in name for part in LEFT_AS_THEY_ARE):
            module.weight.zero_()
        elif isinstance(module, nn.Linear) and module.weight.abs().sum() == 0:  # offsets start with 0
            nn.init.normal_(module.weight)
    layer.get_submodule(values).weight[list(rows), 0] = 1
    weight = layer.get_submodule(projection).weight
    weight.copy_(torch.eye(DIM).reshape(weight.shape))
    points = torch.zeros(
        SIDE**2 + 1, SIDE**2, DIM, dtype=torch.float64
    )  # one at each place, none at the last
    points[:-1, :, 0] = torch.eye(SIDE**2)
    y = layer(points.unflatten(1, (SIDE, SIDE))).flatten(1, 2)
    heads = (y[:-1] - y[-1]).permute(2, 1, 0)[:: DIM // (4 if kind in FOUR else 2)]
    return layer, heads / heads.sum(-1, keepdim=True)


FOUR = ("crossed_local", "striped", "anchored_stripe")
"""Kinds with two sets of two heads."""


def shown(layer):
    seen = []
    with looking_on(seen.append):
        layer(torch.rand(1, SIDE, SIDE, DIM, dtype=torch.float64))
    return seen


def centres(call, of_keys=None):
    """Return where queries lie (M, 1, N, 2), and the mean places (M, heads, N, 2) of what they attend to."""
    weights = call.weights(slice(None))
    places, keys = (
        part.repeat(len(weights) // len(part), 1, 1, 1) for part in (call.places.queries, call.places.keys)
    )
    return places, weights @ (keys.double() if of_keys is None else of_keys)


def on_the_map(places, values):
    """Put values (M, heads, N, 2) of queries at their places: (heads, H * W, 2)."""
    found = torch.full((values.shape[1], SIDE, SIDE, 2), torch.nan, dtype=torch.float64)
    for place, value in zip(places[:, 0].long(), values, strict=True):
        inside = (place < SIDE).all(1)
        found[:, place[inside, 0], place[inside, 1]] = value[:, inside]
    return found.flatten(1, 2)


@pytest.mark.parametrize(
    ("kind", "index"), [*((kind, 0) for kind in KINDS), *((kind, 1) for kind in list(KINDS)[:3])]
)
def test_weights_and_places_that_are_shown_are_those_applied(kind, index):
    layer, attention = attention_by_points(kind, index)
    found = []
    for call in shown(layer):
        weights = call.weights(slice(None))
        torch.testing.assert_close(call.weights(slice(1, 3)), weights[:, :, 1:3])
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        found.append(centres(call))
    if kind == "anchored_stripe":
        gathering, spreading = shown(layer)[1:]
        found[1:] = [centres(spreading, of_keys=centres(gathering)[1])]
    at_places = [on_the_map(*part) for part in found]
    if kind == "neighborhood":  # heads are the same in all calls, which are for tiles at different borders
        at_places = [torch.stack(at_places).nansum(0)]
    torch.testing.assert_close(torch.cat(at_places), attention @ MAP, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "index"),
    [(kind, index) for kind in ("swin", "crossed_local", "striped") for index in (0, 1)]
    + [("neighborhood", 0)],
)
def test_distances_are_weighed_means_over_all_queries(kind, index):
    layer, attention = attention_by_points(kind, index)
    expected = (attention * torch.cdist(MAP, MAP)).sum(-1).mean(-1)
    distances = AttentionDistances(layer)
    for _ in range(2):
        distances.run(
            lambda x: layer(x.permute(0, 2, 3, 1)), torch.rand(1, DIM, SIDE, SIDE, dtype=torch.float64)
        )
    np.testing.assert_allclose(np.concatenate(list(distances.by_head().values())), expected, rtol=1e-5)


def test_tokens_that_a_layer_adds_ask_nothing_but_are_attended_to():
    layer = WindowAttention(DIM, (5, 5), 1).eval()
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    distances = AttentionDistances(layer)
    distances.run(lambda x: layer(x.permute(0, 2, 3, 1)), torch.rand(1, DIM, 7, 5))
    rows = np.arange(10)
    places = np.stack(np.meshgrid(rows, rows[:5], indexing="ij"), -1).reshape(2, 25, 2)
    each = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1).mean(-1).ravel()
    assert distances.by_head()[""] == pytest.approx(each[:35].mean(), rel=1e-6)


def test_pixels_of_the_image_are_the_unit():
    torch.manual_seed(0)
    sizes = {"depths": [1], "num_heads": [1], "embed_dim": 8, "num_feat": 4, "window_size": [2, 4]}
    net = bx.build_network({"type": "EDT", "scales": [2], "noise_levels": [25], **sizes}).eval()
    for name, parameter in net.body.named_parameters():
        if "qkv" in name:
            nn.init.zeros_(parameter)  # attention is even within windows
    for task, pixels in (("sr_x2", 1), ("dn_g25", 4)):
        distances = AttentionDistances(net)
        distances.run(lambda x, task=task: net(x, task), torch.rand(1, 3, 16, 32))
        (heads,) = by_block(distances.by_head(), net).values()
        places = positions((2, 4), torch.device("cpu")).view(-1, 2)
        assert heads == pytest.approx(torch.cdist(places, places).mean().item() * pixels, rel=1e-5)
        assert list(distances.by_head()) == [
            f"body.layers.0.residual_group.blocks.0.attns.{i}" for i in (0, 1)
        ]


@pytest.mark.parametrize("mixer", ["swin", "crossed_local"])
def test_compiled_layers_are_one_graph_and_show_nothing(mixer):
    torch._dynamo.reset()
    layer = build_mixer({"type": mixer, **KINDS[mixer][0]}, DIM, 1).eval()
    x = torch.rand(1, SIDE, SIDE, DIM)
    with torch.no_grad():
        expected = layer(x)
        with looking_on(lambda seen: pytest.fail("a compiled layer was shown")):
            torch.testing.assert_close(torch.compile(layer, backend="eager", fullgraph=True)(x), expected)


def test_nothing_is_computed_twice_unless_someone_looks_on(monkeypatch):
    layer = build_mixer({"type": "swin", "window": 4, "heads": 2}, DIM, 0)
    monkeypatch.setattr("basicsr_ext.archs.layers.window_attention.window_places", pytest.fail)
    layer(torch.rand(1, SIDE, SIDE, DIM))


def test_looking_on_ends_with_an_error_and_keeps_no_hooks():
    layer = build_mixer({"type": "swin", "window": 4, "heads": 2}, DIM, 0)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        AttentionDistances(layer).run(layer, torch.rand(1, SIDE, SIDE, DIM + 1))
    assert not layer._forward_hooks
    assert not layer._forward_pre_hooks
    distances = AttentionDistances(layer)
    layer(torch.rand(1, SIDE, SIDE, DIM))
    assert distances.by_head() == {}
