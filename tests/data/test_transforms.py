"""Orientation, colour, tensors."""

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils import rgb2ycbcr

from basicsr_ext.data.sampling import sample_rng
from basicsr_ext.data.transforms import (
    Conversion,
    Orientation,
    luma,
    matlab_grey,
    random_corner,
    random_orientation,
)


def orientation_of(code: int) -> Orientation:
    return Orientation(*(bool(code >> bit & 1) for bit in range(3)))


def test_the_eight_orientations_differ_and_are_equally_likely():
    counts: dict[Orientation, int] = {}
    for k in range(4000):
        orientation = random_orientation(sample_rng(0, k), hflip=True, rotate=True)
        counts[orientation] = counts.get(orientation, 0) + 1
    assert len(counts) == 8
    assert all(430 < count < 570 for count in counts.values())
    image = np.arange(9).reshape(3, 3, 1)
    assert len({orientation.apply(image).tobytes() for orientation in counts}) == 8


def test_corners_are_drawn_evenly_from_first_to_last():
    corners = [random_corner(sample_rng(0, k), 10, 12, 8) for k in range(3000)]
    for axis, places in ((0, 3), (1, 5)):
        counts = np.bincount([corner[axis] for corner in corners])
        assert len(counts) == places
        assert counts.min() > 0.8 * 3000 / places


def test_luma_is_basicsrs(texture):
    picture = texture(9, 11)
    expected = rgb2ycbcr(picture.astype(np.float32) / 255, y_only=True)
    np.testing.assert_allclose(luma(picture)[..., 0], expected, rtol=0, atol=6e-8)


def test_grey_is_opencvs(texture):
    picture = texture(9, 11)
    expected = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    np.testing.assert_array_equal(Conversion("gray")(picture)[0], expected)


def test_matlabs_grey_is_its_rounded_luma(texture):
    picture = texture(9, 11)
    expected = rgb2ycbcr(picture, y_only=True)
    assert expected.dtype == np.uint8
    np.testing.assert_array_equal(matlab_grey(picture)[..., 0], expected)
    np.testing.assert_array_equal(Conversion("matlab_gray")(picture)[0], expected.astype(np.float32) / 255)


def test_matlabs_grey_of_16_bits_is_that_of_8_bits_with_finer_steps():
    ends = np.array([[[0] * 3, [65535] * 3, [255 * 257, 0, 0]]], np.uint16)
    assert matlab_grey(ends).flatten().tolist() == [16 * 257, 235 * 257, round(81.481 * 257)]


def test_floating_point_images_pass_unchanged_and_unclipped():
    image = np.array([[[-0.5, 0.25, 1.5]]], np.float32)
    assert Conversion()(image).flatten().tolist() == [-0.5, 0.25, 1.5]


@pytest.mark.parametrize(
    "orientation", [Orientation(True), Orientation(False, True), Orientation(transpose=True)]
)
def test_an_oriented_view_becomes_an_array_of_its_own(texture, orientation):
    picture = texture(4, 6)
    planes = Conversion()(orientation.apply(picture))
    assert planes.flags.c_contiguous
    assert planes.dtype == np.float32
    np.testing.assert_array_equal(planes[0] * 255, orientation.apply(picture)[..., 0])


def test_normalisation_has_the_bits_of_torch(texture):
    picture, mean, std = texture(9, 11), [0.4, 0.5, 0.6], [0.2, 0.3, 0.5]
    plain = torch.from_numpy(Conversion()(picture))
    expected = (plain - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    views = Conversion(mean=mean, std=std)(np.concatenate([picture, picture], axis=2))
    assert torch.equal(torch.from_numpy(views), torch.cat([expected, expected]))


@pytest.mark.parametrize("code", range(8))
def test_a_window_of_an_oriented_image_is_found_in_its_source(code, texture):
    orientation, image = orientation_of(code), texture(9, 14)
    rows, columns = slice(2, 5), slice(1, 8)
    source = image[orientation.source_window(rows, columns, *image.shape[:2])]
    np.testing.assert_array_equal(orientation.apply(source), orientation.apply(image)[rows, columns])


@pytest.mark.parametrize("code", range(8))
def test_a_crops_corner_is_found_in_the_oriented_image(code, texture):
    orientation, image = orientation_of(code), texture(9, 14)
    top, left = orientation.corner(2, 7, 4, *image.shape[:2])
    expected = orientation.apply(image[2:6, 7:11])
    np.testing.assert_array_equal(orientation.apply(image)[top : top + 4, left : left + 4], expected)
