"""Pictures fit networks of one, three and six channels, and come back as pictures."""

import cv2
import numpy as np
import pytest

from basicsr_ext.data.images import ImageError
from basicsr_ext.data.resize import upscale
from basicsr_ext.data.transforms import grey, luma, matlab_grey
from basicsr_ext.inference.channels import to_channels, to_picture
from basicsr_ext.inference.pictures import Picture

RNG = np.random.default_rng(0)
COLOUR = Picture(RNG.integers(0, 256, (6, 7, 3), np.uint8), icc=b"profile", exif=b"notes")
GREY = Picture(RNG.integers(0, 256, (6, 7, 1), np.uint8))


def test_grey_is_repeated_for_three_channels_and_comes_back_grey():
    image = to_channels([GREY], 3, None)
    np.testing.assert_array_equal(image, GREY.pixels.repeat(3, 2))
    tinted = image.copy()
    tinted[..., 0] -= tinted[..., 0] // 2
    back = to_picture(tinted, GREY, None, 1)
    np.testing.assert_array_equal(back.pixels[..., 0], np.rint(tinted.mean(2)))


@pytest.mark.parametrize(
    ("color", "expected"), [(None, grey), ("gray", grey), ("matlab_gray", matlab_grey), ("y", luma)]
)
def test_colour_is_reduced_to_one_channel_as_in_training(color, expected):
    np.testing.assert_array_equal(to_channels([COLOUR], 1, color), expected(COLOUR.pixels))


@pytest.mark.parametrize("color", [None, "gray", "matlab_gray"])
def test_grey_goes_to_a_grey_network_as_it_is_and_comes_back_grey(color):
    np.testing.assert_array_equal(to_channels([GREY], 1, color), GREY.pixels)
    np.testing.assert_array_equal(to_picture(GREY.pixels, GREY, color, 1).pixels, GREY.pixels)


def test_a_network_of_one_channel_makes_grey_pictures_of_colour():
    assert to_picture(grey(COLOUR.pixels), COLOUR, "gray", 1).is_grey


def test_a_network_of_y_changes_brightness_and_leaves_colours_to_bicubic_interpolation():
    enlarged = upscale(COLOUR.pixels, 2) // 2 + 64  # room for what is added
    source = Picture(COLOUR.pixels // 2 + 64)
    bicubic = upscale(source.pixels, 2)
    brighter = luma(bicubic) + 20 / 255
    back = to_picture(brighter, source, "y", 2)
    ycrcb = [cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb).astype(int) for image in (bicubic, back.pixels)]
    np.testing.assert_allclose(ycrcb[1][..., 1:], ycrcb[0][..., 1:], atol=2)
    np.testing.assert_allclose(luma(back.pixels), brighter, atol=1 / 255)
    assert back.pixels.shape == enlarged.shape


def test_y_unchanged_gives_the_source_back_in_grey_too():
    for source in (COLOUR, GREY):
        image = to_channels([source], 1, "y")
        np.testing.assert_array_equal(to_picture(image, source, "y", 1).pixels, source.pixels)


def test_two_views_are_joined_left_first():
    right = Picture(255 - COLOUR.pixels)
    image = to_channels([COLOUR, right], 6, None)
    np.testing.assert_array_equal(image, np.concatenate([COLOUR.pixels, right.pixels], 2))


@pytest.mark.parametrize(
    ("views", "channels", "message"),
    [
        ([COLOUR], 6, "--right"),
        ([COLOUR, COLOUR], 3, "two views are 6 channels, the network takes 3"),
        ([COLOUR, Picture(COLOUR.pixels[1:])], 6, "differ in size"),
        ([COLOUR, Picture(COLOUR.pixels.astype(np.uint16))], 6, "differ in size or depth"),
        ([COLOUR], 4, "the network takes 4"),
    ],
)
def test_pictures_that_do_not_fit_the_network_are_refused(views, channels, message):
    with pytest.raises(ImageError, match=message):
        to_channels(views, channels, None)


def test_alpha_is_enlarged_and_the_rest_is_kept():
    alpha = RNG.integers(0, 256, (6, 7, 1), np.uint8)
    source = Picture(COLOUR.pixels, alpha, COLOUR.icc, COLOUR.exif)
    back = to_picture(upscale(COLOUR.pixels, 3), source, None, 3)
    np.testing.assert_array_equal(back.alpha, upscale(alpha, 3))
    assert (back.icc, back.exif) == (b"profile", b"notes")


def test_a_result_that_is_no_picture_is_refused():
    with pytest.raises(ImageError, match="gave 12 channels"):
        to_picture(np.zeros((6, 7, 12), np.uint8), COLOUR, None, 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_of_many_rows_and_either_depth_keep_their_colours_and_do_not_overflow(dtype):
    peak = np.iinfo(dtype).max
    pixels = np.linspace(0, peak, 150 * 2 * 3).reshape(150, 2, 3).astype(dtype)
    source = Picture(pixels)
    y = to_channels([source], 1, "y")
    np.testing.assert_array_equal(to_picture(y, source, "y", 1).pixels, pixels)
    change = 0.2 * 255 / 219 * peak
    for sign in (1, -1):
        expected = (pixels + sign * change).clip(0, peak)
        changed = to_picture(y + np.float32(sign * 0.2), source, "y", 1).pixels
        np.testing.assert_allclose(changed, expected, atol=1 + peak / 10**5)
    grey = Picture(pixels[..., :1])
    np.testing.assert_array_equal(
        to_picture(pixels, grey, None, 1).pixels, np.rint(pixels.mean(2, keepdims=True))
    )


def test_only_networks_of_one_channel_take_colours_from_the_source():
    found = to_picture(255 - COLOUR.pixels, COLOUR, "y", 1)
    np.testing.assert_array_equal(found.pixels, 255 - COLOUR.pixels)
