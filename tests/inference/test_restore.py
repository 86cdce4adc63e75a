"""Whole images in, whole images out: any size, any data type, tiles or not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from basicsr_ext import restore
from basicsr_ext.inference import comparison


class Enlarge(nn.Module):
    """Repeat each pixel ``scale`` times; refuses sizes that are not multiples of its window."""

    def __init__(self, scale: int, window_size: int = 1, white: float = 1.0) -> None:
        super().__init__()
        self.scale, self.window_size, self.pixel_range = scale, window_size, white
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] % self.window_size == x.shape[-2] % self.window_size == 0
        assert x.max() <= self.pixel_range
        if self.pixel_range > 1:
            assert x.max() > 1
        return x.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)


def photo(height, width, dtype=np.uint8, channels=3):
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels))
    return (values / 255).astype(dtype) if np.issubdtype(dtype, np.floating) else values.astype(dtype)


def repeated(image, scale):
    return image.repeat(scale, 0).repeat(scale, 1)


@settings(deadline=None, max_examples=40)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    scale=st.integers(1, 4),
    window=st.sampled_from([1, 8]),
    tile=st.sampled_from([None, 9, 16]),
)
def test_every_pixel_is_restored_whatever_the_size_and_the_tiles(height, width, scale, window, tile):
    image = photo(height, width)
    restored = restore(Enlarge(scale, window), image, scale, tile, tile_overlap=4)
    np.testing.assert_array_equal(restored, repeated(image, scale))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_the_data_type_is_kept(dtype):
    image = photo(5, 6, dtype)
    restored = restore(Enlarge(2), image, 2)
    assert restored.dtype == dtype
    np.testing.assert_allclose(restored, repeated(image, 2), rtol=1e-6)


def test_a_grey_image_without_channels_stays_one():
    image = photo(4, 4, channels=1)[..., 0]
    assert restore(Enlarge(2), image, 2).shape == (8, 8)


def test_a_network_sees_its_own_pixel_range():
    image = photo(4, 4)
    np.testing.assert_array_equal(restore(Enlarge(2, white=255.0), image, 2), repeated(image, 2))


@pytest.mark.parametrize("mode", [True, False])
def test_a_network_is_in_eval_mode_for_the_call_alone(mode):
    network, seen = Enlarge(2).train(mode), []
    network.register_forward_hook(lambda module, args, result: seen.append(module.training))
    restore(network, photo(4, 4), 2)
    assert seen == [False]
    assert network.training is mode


class Twisted(Enlarge):
    """Gives 2 x - 1/2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x - 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_results_are_clamped_and_whole_numbers_rounded(dtype):
    peak = np.iinfo(dtype).max if dtype != np.float32 else 1
    image = np.linspace(0, peak, 256 * 3).reshape(16, 16, 3).astype(dtype)
    restored = restore(Twisted(1), image, 1)
    expected = (2 * image.astype(np.float64) - peak / 2).clip(0, peak)
    if dtype == np.float32:
        np.testing.assert_allclose(restored, expected, atol=1e-6)
    else:
        assert np.abs(restored - expected).max() <= 0.5 + 1e-2
        assert {0, peak} < set(restored.ravel().tolist())


def test_an_image_is_enlarged_four_times_and_run_whole_unless_told():
    network, seen = Enlarge(4), []
    network.register_forward_hook(lambda module, args, result: seen.append(tuple(args[0].shape)))
    image = photo(70, 80)
    np.testing.assert_array_equal(restore(network, image), repeated(image, 4))
    assert seen == [(1, 3, 70, 80)]
    restore(network, image, tile=64)  # neighbours share 32 pixels
    assert {shape[2:] for shape in seen[1:]} == {(64, 64), (64, 48), (38, 64), (38, 48)}


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((0, 4, 3), np.uint8), ValueError),
        (np.zeros(4, np.uint8), ValueError),
        (np.zeros((4, 4, 3), np.int32), TypeError),
    ],
)
def test_what_is_no_image_is_refused(image, error):
    with pytest.raises(error, match="expected"):
        restore(Enlarge(2), image, 2)


def test_an_overlap_as_large_as_the_tile_is_refused():
    with pytest.raises(ValueError, match="tile_overlap 16 must be smaller than tile 16"):
        restore(Enlarge(2), photo(40, 40), 2, tile=16, tile_overlap=16)


def test_a_comparison_shows_the_middle_of_each_version_at_the_size_of_the_last():
    picture = comparison({"LQ": photo(10, 10), "GT": photo(40, 40)}, side=16)
    assert picture.shape == (36, 32, 3)
    np.testing.assert_array_equal(picture[20:, 16:], photo(40, 40)[12:28, 12:28])
    np.testing.assert_array_equal(picture[20:, :16], repeated(photo(10, 10), 4)[12:28, 12:28])


def test_a_comparison_is_labelled_and_shows_any_number_of_channels_as_colour():
    grey, many = photo(300, 290, channels=1), photo(300, 290, channels=5)
    picture = comparison({"LQ": grey, "restored": many})
    assert picture.shape == (276, 512, 3)
    np.testing.assert_array_equal(picture[20:, :256], grey.repeat(3, 2)[22:278, 17:273])
    np.testing.assert_array_equal(picture[20:, 256:], many[22:278, 17:273, :3])
    labels = picture[:20]
    assert labels[:, :256].min() < 64
    assert not np.array_equal(labels[:, :256], labels[:, 256:])
    assert (labels[:, 40:256] == 255).all()  # two letters, of a size that fits
    np.testing.assert_array_equal(comparison({"LQ": grey[..., 0]})[20:], grey.repeat(3, 2)[22:278, 17:273])
