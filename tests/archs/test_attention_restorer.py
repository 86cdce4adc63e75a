"""One body for any attention: every mixer takes every size, learns, compiles, and sees what it says."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from helpers import ROOT
from torch import nn

import basicsr_ext as bx
from basicsr_ext.archs.mixers import build_feed_forward, build_mixer, size_multiple
from basicsr_ext.archs.mixers.regions import in_regions
from basicsr_ext.registry import FEED_FORWARDS, MIXERS, UnknownTypeError

ALL = pytest.mark.parametrize("mixer", MIXERS.names())


def tiny(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return bx.build_network({"type": "AttentionRestorer", "dim": 8, "depths": [2], **options})


def test_all_mixers_and_feed_forwards_are_there():
    assert set(MIXERS.names()) >= {
        "swin",
        "mswin",
        "deformable",
        "mswin_deformable_branch",
        "mswin_deformable_keys",
        "attn_conv",
        "crossed_local",
        "striped",
        "pixel_mixer",
        "anchored_stripe",
        "transposed",
    }
    assert set(FEED_FORWARDS.names()) >= {"mlp", "depthwise_mlp", "conv_ffn", "gated"}


@ALL
@pytest.mark.parametrize("size", [(1, 1), (27, 35)], ids=str)
def test_images_of_any_size_keep_it(mixer, size):
    with torch.no_grad():
        assert tiny(mixer=mixer).eval()(torch.rand(1, 3, *size)).shape == (1, 3, *size)


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("upsampler", ["pixelshuffle", "pixelshuffledirect"])
@pytest.mark.parametrize("feed_forward", ["mlp", "gated"])
def test_images_are_enlarged(upscale, upsampler, feed_forward):
    net = tiny(upscale=upscale, upsampler=upsampler, feed_forward=feed_forward, in_channels=1)
    assert net(torch.rand(1, 1, 9, 5)).shape == (1, 1, 9 * upscale, 5 * upscale)


@pytest.mark.parametrize("upscale", [1, 2])
def test_a_body_that_adds_nothing_gives_the_image(upscale):
    net, x = tiny(upscale=upscale), torch.rand(1, 3, 8, 8)
    for parameter in net.get_submodule("tail").parameters():
        nn.init.zeros_(parameter)
    expected = nn.functional.interpolate(x, scale_factor=float(upscale), mode="bilinear")
    torch.testing.assert_close(net(x), expected)


@ALL
def test_every_parameter_learns(mixer):
    net, x = tiny(mixer=mixer, depths=[4]), torch.rand(1, 3, 24, 24)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(4):  # deformable branches begin with a share of 0
        optimizer.zero_grad()
        (net(x) - x.flip(3)).square().mean().backward()
        optimizer.step()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize("feed_forward", FEED_FORWARDS.names())
def test_every_feed_forward_keeps_maps_and_learns(feed_forward):
    torch.manual_seed(0)
    layer, x = build_feed_forward(feed_forward, 10), torch.rand(2, 5, 6, 10)
    y = layer(x)
    y.square().mean().backward()
    assert y.shape == x.shape
    assert all(p.grad is not None and p.grad.any() for p in layer.parameters())


def test_the_table_of_the_documentation_is_complete_and_right():
    page = (ROOT / "docs/architectures.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \| [\d.]+ G \|$", page, flags=re.MULTILINE))
    described = {name: {"mixer": name} for name in MIXERS.names()}
    described |= {name: {"feed_forward": name} for name in FEED_FORWARDS.names()}
    assert rows.keys() == described.keys()
    for name, options in described.items():
        with torch.device("meta"):
            net = bx.build_network({"type": "AttentionRestorer", "upscale": 2, **options})
        assert f"{sum(parameter.numel() for parameter in net.parameters()):,}" == rows[name], name


CORNER = (32, 48)
"""A map of several windows; what a value in its top left corner changes is compared with rectangles."""
SEEN: list[tuple[dict[str, Any], int, list[tuple[int, int]]]] = [
    ({"type": "swin"}, 0, [(8, 8)]),
    ({"type": "swin"}, 1, [(4, 4)]),  # shifted windows do not wrap around
    ({"type": "mswin", "fusion": "naive"}, 0, [(16, 16)]),
    ({"type": "mswin"}, 0, [CORNER]),  # split attention weighs by means of the whole map
    ({"type": "crossed_local", "window": [4, 16]}, 0, [(4, 16), (16, 4)]),
    ({"type": "striped", "windows": [[16, 8], [8, 16]]}, 0, [(16, 8), (8, 16)]),
    ({"type": "anchored_stripe", "window": 8, "stripe": [4, 16]}, 1, [(8, 8), (16, 4)]),
    ({"type": "anchored_stripe", "window": 4, "stripe": [8, 16]}, 2, [(4, 8)]),
    ({"type": "deformable", "region": 16, "offsets": False}, 0, [(16, 16)]),
    ({"type": "mswin_deformable_keys", "fusion": "naive"}, 0, [(16, 16)]),
    ({"type": "mswin_deformable_branch", "fusion": "naive", "region": 32}, 0, [(16, 16)]),
    ({"type": "attn_conv", "region": 16}, 0, [(16, 16)]),
    ({"type": "transposed"}, 0, [CORNER]),
]


@pytest.mark.parametrize(("spec", "index", "rectangles"), SEEN, ids=str)
def test_a_corner_is_seen_where_windows_say(spec, index, rectangles):
    torch.manual_seed(0)
    mixer = build_mixer(spec, 8, index).double().eval()
    x = torch.randn(1, *CORNER, 8).double()
    other = x.clone()
    other[0, 0, 0] = 3.0
    with torch.no_grad():
        changed = (mixer(x) - mixer(other)).abs().amax((0, 3)) > 1e-9
    expected = torch.zeros(CORNER, dtype=torch.bool)
    for rows, columns in rectangles:
        expected[:rows, :columns] = True
    assert torch.equal(changed, expected)


def test_shifted_crossed_windows_do_not_wrap_around_but_for_their_convolution():
    """As released: within a rolled window, the 3 x 3 convolution of the values knows no mask."""
    torch.manual_seed(0)
    mixer = build_mixer({"type": "crossed_local", "window": [4, 16]}, 8, 1).double()
    x = torch.randn(1, *CORNER, 8).double()
    other = x.clone()
    other[0, 0, 0] = 3.0
    changed = (mixer(x) - mixer(other)).abs().amax((0, 3)) > 1e-9
    expected = torch.zeros(CORNER, dtype=torch.bool)
    expected[:2, :8] = expected[:8, :2] = True
    for row in (-1, 0, 1):
        expected[row, [-1, 0, 1]] = True
    assert torch.equal(changed, expected)


def test_moving_keys_see_beyond_their_window():
    torch.manual_seed(0)
    mixer = build_mixer({"type": "mswin_deformable_keys", "windows": [4], "heads": [2], "strides": [1]}, 8, 0)
    mixer = mixer.double()
    x = torch.randn(1, 8, 8, 8).double()
    other = x.clone()
    other[0, 4:6] = 3.0  # below the first window
    assert torch.equal(mixer(x)[0, :4, :4], mixer(other)[0, :4, :4])
    nn.init.normal_(mixer.get_submodule("pwmsa.0.offsets.proj").weight, std=2.0)
    assert not torch.allclose(mixer(x)[0, :4, :4], mixer(other)[0, :4, :4])


def test_borders_matter():
    """The outermost row of pixels on each side reaches the result, also where the image is extended."""
    net, x = tiny(mixer="mswin_deformable_branch", depths=[2]).eval(), torch.rand(1, 3, 21, 19)
    with torch.no_grad():
        y = net(x)
        for border in ((0, 0), (0, 18), (20, 0), (20, 18)):
            other = x.clone()
            other[..., border[0], border[1]] += 0.5
            assert (net(other) - y).abs().amax((0, 1))[border] > 0.4


@ALL
def test_compiling_breaks_no_graph(mixer):
    torch.manual_seed(0)
    layers, x = nn.Sequential(*(build_mixer(mixer, 8, i) for i in range(2))).eval(), torch.rand(1, 48, 48, 8)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(layers, backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(compiled(x), layers(x))


def test_compiling_the_body_breaks_no_graph():
    net, x = tiny(upscale=2).train(), torch.rand(1, 3, 19, 26)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x), net(x))


@pytest.mark.parametrize("mixer", ["mswin", "pixel_mixer"])
def test_recomputed_groups_have_the_same_gradients(mixer):
    x = torch.rand(1, 3, 16, 16)
    gradients = []
    for use in (False, True):
        net = tiny(mixer=mixer, use_checkpoint=use).train()
        net(x).square().mean().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("size", "sides"), [((9, 17), (9, 9)), ((8, 8), (8, 8)), ((33, 5), (9, 5))])
def test_regions_are_few_and_equal(size, sides):
    seen: list[torch.Size] = []
    x = torch.rand(2, *size, 3)
    y = in_regions(lambda part: (seen.append(part.shape), 2 * part)[1], x, 16 if size[0] < 30 else 9)
    torch.testing.assert_close(y, 2 * x)
    assert [tuple(shape[1:3]) for shape in seen] == [sides]


def test_a_size_requirement_is_what_the_mixer_declares():
    class Even(nn.Identity):
        multiple_of = 6

    assert size_multiple(nn.Identity(), Even(), build_mixer("swin", 8, 0)) == 24
    assert (
        tiny(mixer={"type": "mswin", "windows": [2, 6], "heads": [2, 1]}).size_requirement().multiple_of == 6
    )  # pyright: ignore


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mixer": "swim"}, UnknownTypeError, "no token mixer is called 'swim'. did you mean 'swin'"),
        ({"feed_forward": "mpl"}, UnknownTypeError, "no feed-forward network is called 'mpl'"),
        ({"mixer": {"window": 8}}, ValueError, "a token mixer needs a 'type'; found \\['window'\\]"),
        ({"mixer": {"type": "swin", "heads": 3}}, ValueError, "heads: the width 8 is not a multiple of 3"),
        ({"mixer": {"type": "anchored_stripe", "stripe": [6, 8]}}, ValueError, "no multiples of anchor"),
        ({"mixer": {"type": "deformable", "groups": 3}}, ValueError, "groups: 3 does not divide 4 heads"),
        ({"upscale": 2, "upsampler": "nearest"}, ValueError, "upsampler: found 'nearest', expected"),
        ({"upscale": 5, "upsampler": "pixelshuffle"}, ValueError, "scale: found 5"),
    ],
    ids=str,
)
def test_arguments_that_make_no_network_say_so(options, error, message):
    with pytest.raises(error, match=message):
        tiny(**options)
