"""What released code's strict loading asks for besides weights: EDT's masks; GRL's tables, indices, masks."""

import itertools

import numpy as np
import pytest
import torch
from recorded import SHIPPED, find, load
from torch import nn

import basicsr_ext as bx
from basicsr_ext.archs.grl_arch.network import CosineAttention
from basicsr_ext.archs.weights import load_weights, released_state_dict

FIXTURES = [path.stem for kind in ("edt_", "emt_", "grl_", "restormer_") for path in find(SHIPPED, kind)]


def network(name):
    fixture = load(SHIPPED / f"{name}.json")
    kwargs = fixture.kwargs
    if name.startswith("edt"):
        kwargs = {key.lower(): value for key, value in kwargs.items()}
        kwargs["full_resolution"] = fixture.meta["file"].endswith("edtsf.py")
    return fixture, bx.build_network({"type": fixture.meta["class"].replace("Network", "EDT"), **kwargs})


@pytest.mark.parametrize("name", FIXTURES)
def test_a_released_state_dict_has_the_keys_that_strict_loading_asks_for(name):
    fixture, net = network(name)
    assert set(released_state_dict(net)) == {*fixture.meta["keys"], *fixture.meta["derived"]}


def labels(size, window, shift):
    """Return the region of every token, (windows, N), as Swin's code fills them in a rolled image."""
    regions = np.zeros(size)
    sides = [
        (slice(0, -side), slice(-side, -step), slice(-step, None))
        for side, step in zip(window, shift, strict=True)
    ]
    for label, (rows, columns) in enumerate(itertools.product(*sides)):
        regions[rows, columns] = label
    (H, W), (h, w) = size, window
    return regions.reshape(H // h, h, W // w, w).transpose(0, 2, 1, 3).reshape(-1, h * w)


def mask(queries, keys):
    """Return what is added to the logits of pairs of tokens with these labels, (windows, N, K)."""
    return np.where(queries[:, :, None] != keys[:, None], -100, 0)


@pytest.mark.parametrize("name", ["edt_tiny_multi", "edt_tiny_sr_x3_ps"])
def test_edts_masks_are_swins_for_its_own_image_size(name):
    fixture, net = network(name)
    size, (h, w) = [fixture.kwargs["IMAGE_SIZE"]] * 2, fixture.kwargs["WINDOW_SIZE"]
    buffers = net.released_buffers()
    assert len(buffers) == 4
    for key, buffer in buffers.items():
        window = (h, w) if key.endswith("_h") else (w, h)
        half = window[0] // 2, window[1] // 2
        assert buffer.dtype == torch.float32
        regions = labels(size, window, half)
        np.testing.assert_array_equal(buffer.numpy(), mask(regions, regions))


def positions(queries, keys):
    """Return which entry of the flattened table is the offset of each query from each key."""
    rows, columns = (
        np.subtract.outer(np.arange(n), np.arange(m)) + m - 1 for n, m in zip(queries, keys, strict=True)
    )
    width = queries[1] + keys[1] - 1
    pairs = rows[:, None, :, None] * width + columns[None, :, None, :]
    return pairs.reshape(queries[0] * queries[1], keys[0] * keys[1])


@pytest.mark.parametrize("name", ["grl_mini_dn_gray", "grl_mini_local_x3"])
def test_grls_buffers_are_what_its_network_computes_with(name):
    _, net = network(name)
    buffers, factor = net.released_buffers(), net.anchor_factor
    attention = next(module for module in net.modules() if isinstance(module, CosineAttention))
    stripe = tuple(side or length for side, length in zip(net.stripe_size, net.img_size, strict=True))
    for kind, tile in (("w", (net.window_size, net.window_size)), ("sh", stripe), ("sv", stripe[::-1])):
        shift = [side // 2 for side in tile]
        whole = tile, labels(net.img_size, tile, shift)
        anchor, size, step = (
            tuple(side // factor for side in sides) for sides in (tile, net.img_size, shift)
        )
        small = anchor, labels(size, anchor, step)
        pairs = {f"{kind}_a2w": (small, whole), f"{kind}_w2a": (whole, small)}
        for suffix, (queries, keys) in ({"w": (whole, whole)} if kind == "w" else pairs).items():
            index = buffers[f"index_{suffix}"]
            np.testing.assert_array_equal(index.numpy(), positions(queries[0], keys[0]))
            np.testing.assert_array_equal(buffers[f"mask_{suffix}"].numpy(), mask(queries[1], keys[1]))
            # What the released code looks up in the table is the bias of our network.
            values = nn.Sequential.forward(attention.cpb_mlp, buffers[f"table_{kind}"])
            bias = 16 * values.sigmoid().flatten(0, -2)[index].permute(2, 0, 1)
            torch.testing.assert_close(bias, attention._bias(queries[0], keys[0], None))


@pytest.mark.parametrize("name", ["edt_tiny_multi", "grl_mini_local_x3"])
def test_released_state_dicts_load_here_again(name, tmp_path):
    (_, source), (_, net) = network(name), network(name)
    torch.save({"params": released_state_dict(nn.DataParallel(source))}, tmp_path / "released.pth")
    load_weights(net, tmp_path / "released.pth")
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"type": "EDT", "scales": [2], "image_size": 50},
            "image_size: 50 is not a multiple of windows of 6",
        ),
        ({"type": "GRL", "img_size": 80}, r"img_size: \(80, 80\) is not a multiple of .* \(32, 32\)"),
    ],
)
def test_a_size_that_windows_do_not_fit_has_no_buffers(options, words):
    net = bx.build_network(options)
    with pytest.raises(ValueError, match=words):
        released_state_dict(net)
