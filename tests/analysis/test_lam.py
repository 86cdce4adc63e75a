"""Local attribution maps of networks whose sight is known."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import basicsr_ext as bx
from basicsr_ext.analysis.lam import Attribution, Patch, Path, attribute, gini

SHORT = Path(steps=3)


def image(side=24, seed=0):
    return torch.rand(3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(scale, reach=2, seed=0):
    """Convolutions that look ``reach`` input pixels far."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.Tanh()] + [nn.Conv2d(8, 8, 3, padding=1), nn.Tanh()] * (
        reach - 2
    )
    last = nn.Conv2d(8, 3 * scale**2, 3, padding=1)
    return nn.Sequential(*layers, last, nn.PixelShuffle(scale)).double()


@pytest.mark.parametrize(("scale", "reach"), [(1, 2), (2, 3)])
def test_nothing_is_attributed_beyond_what_the_network_sees(scale, reach):
    patch = Patch(top=8 * scale, left=10 * scale, side=4)
    found = attribute(network(scale, reach), image(), patch, SHORT).signed
    # The detector compares with the next pixel below and to the right.
    rows, columns = (
        slice(start // scale - reach, (start + patch.side) // scale + reach + 1)
        for start in (patch.top, patch.left)
    )
    seen = np.zeros_like(found, bool)
    seen[rows, columns] = True
    assert (found[~seen] == 0).all()
    inside = np.argwhere(found != 0)
    assert inside.min(0).tolist() == [rows.start, columns.start]
    assert (inside.max(0) + 1).tolist() == [rows.stop, columns.stop]


@pytest.mark.parametrize(
    "net",
    [
        {
            "type": "EDT",
            "scales": [2],
            "embed_dim": 12,
            "depths": [2],
            "num_heads": [2],
            "window_size": [2, 4],
            "num_feat": 4,
        },
        {
            "type": "SwinIR",
            "upscale": 2,
            "embed_dim": 12,
            "depths": [2],
            "num_heads": [2],
            "window_size": 4,
            "img_size": 16,
            "upsampler": "pixelshuffledirect",
        },
    ],
    ids=lambda net: net["type"],
)
def test_transformers_use_the_windows_around(net):
    torch.manual_seed(0)
    built = bx.build_network(net).double().eval()
    found = attribute(built, image(16), Patch(14, 14, 4), SHORT)
    assert np.isfinite(found.signed).all()
    assert np.unravel_index(found.magnitude.argmax(), (16, 16))[0] in range(5, 11)
    assert 0 < found.diffusion_index < 100


def test_contributions_add_up_to_what_the_way_has_changed():
    net, x, patch = network(2), image(), Patch(20, 20, 6)
    path = Path(steps=400)
    before, after = (patch.response(net(path.images(x)[[i]])).item() for i in (0, -1))
    assert attribute(net, x, patch, path).signed.sum() == pytest.approx(after - before, rel=0.01)


def test_the_path_leads_from_the_gaussian_blur_to_the_image():
    x = image()
    images = Path(sigma=1.2, steps=4, side=9).images(x)
    for i, sigma in enumerate([1.2, 0.9, 0.6, 0.3]):
        blurred = cv2.GaussianBlur(
            x.permute(1, 2, 0).numpy(), (9, 9), sigma, borderType=cv2.BORDER_REFLECT_101
        )
        np.testing.assert_allclose(images[i], blurred.transpose(2, 0, 1), atol=1e-12)
    assert torch.equal(images[4], x)


def test_how_many_images_run_at_once_does_not_matter():
    maps = [attribute(network(2), image(), Patch(20, 20), SHORT, batch).signed for batch in (1, 3)]
    np.testing.assert_allclose(*maps, rtol=1e-12)


def test_flat_output_has_no_contributions():
    flat = attribute(lambda x: 0 * x, image(), Patch(4, 4), SHORT)
    assert not flat.signed.any()
    assert not flat.magnitude.any()


def test_the_detector_sums_the_gradients_magnitudes():
    y = torch.zeros(1, 1, 8, 8)
    y[0, 0, 3, 3] = 2  # the pixels above and left of it differ from it, and it from two others
    assert Patch(0, 0, 2).response(y).item() == 0
    assert Patch(0, 0, 6).response(y).item() == pytest.approx(2 + 2 + 8**0.5)
    assert Patch(1, 1, 3).response(y).item() == pytest.approx(2 + 2 + 8**0.5)


# --- summaries --------------------------------------------------------------------------------------


def test_the_diffusion_index_is_100_for_all_pixels_alike_and_small_for_one():
    even, single = np.full((5, 8), -0.3), np.zeros((5, 8))
    single[2, 3] = 7
    indices = [Attribution(part, Patch(0, 0, 4), 2).diffusion_index for part in (even, single)]
    assert indices == pytest.approx([100, 100 / 40])
    assert gini(np.array([1.0, 3.0])) == pytest.approx(0.25)  # mean difference 1 over twice the mean


def test_shares_are_counted_from_the_largest_and_from_the_nearest():
    signed = np.zeros((4, 6))
    signed[1, 1], signed[1, 2], signed[3, 5] = 2, -1, 1
    found = Attribution(signed, Patch(2, 2, 4), 2)  # rows and columns 1 and 2 of the input
    pixels, share = found.share_by_pixels()
    assert share[:4].tolist() == [0.5, 0.75, 1, 1]
    assert pixels[[0, -1]].tolist() == [1 / 24, 1]
    distances, near = found.share_by_distance()
    assert distances.tolist() == [0, 1, 2, 3]
    assert near.tolist() == [0.75, 0.75, 0.75, 1]


@pytest.mark.parametrize("patch", [Patch(-1, 0, 4), Patch(45, 0, 3), Patch(0, 40, 8)])
def test_a_patch_outside_of_the_output_is_refused(patch):
    with pytest.raises(ValueError, match="do not lie in an output of 48x48"):
        attribute(network(2), image(), patch, SHORT)


def test_an_image_smaller_than_the_blur_is_refused():
    with pytest.raises(ValueError, match="4x4 pixels, less than the blur"):
        attribute(network(2), image(4), Patch(0, 0, 2))
