"""Orientation, colour, tensors."""

import cv2
import numpy as np
import pytest
from basicsr.utils import rgb2ycbcr
from hypothesis import given
from hypothesis import strategies as st

from basicsr_ext.data.sampling import sample_rng
from basicsr_ext.data.transforms import Orientation, ToTensor, luma, random_corner, random_orientation

orientations = st.builds(Orientation, st.booleans(), st.booleans(), st.booleans())


@given(orientations, st.integers(1, 5), st.integers(1, 5))
def test_an_orientation_can_be_undone(orientation, height, width):
    image = np.arange(height * width * 2).reshape(height, width, 2)
    np.testing.assert_array_equal(orientation.undo(orientation.apply(image)), image)


def test_the_eight_orientations_differ_and_are_equally_likely():
    counts: dict[Orientation, int] = {}
    for k in range(4000):
        way = random_orientation(sample_rng(0, k), hflip=True, rotate=True)
        counts[way] = counts.get(way, 0) + 1
    assert len(counts) == 8
    assert all(430 < count < 570 for count in counts.values())
    image = np.arange(9).reshape(3, 3, 1)
    assert len({way.apply(image).tobytes() for way in counts}) == 8


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
    tensor = ToTensor("gray")(picture)
    expected = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    np.testing.assert_array_equal(tensor[0].numpy(), expected)


def test_floating_point_images_pass_unchanged_and_unclipped():
    image = np.array([[[-0.5, 0.25, 1.5]]], np.float32)
    assert ToTensor()(image).flatten().tolist() == [-0.5, 0.25, 1.5]


@pytest.mark.parametrize(
    "orientation", [Orientation(True), Orientation(False, True), Orientation(transpose=True)]
)
def test_a_turned_view_becomes_a_tensor_of_its_own(texture, orientation):
    picture = texture(4, 6)
    tensor = ToTensor()(orientation.apply(picture))
    assert tensor.is_contiguous()
    np.testing.assert_array_equal(tensor.numpy()[0] * 255, orientation.apply(picture)[..., 0])


@pytest.mark.parametrize("code", range(8))
def test_a_part_of_a_laid_image_is_found_in_the_upright_one(code, texture):
    way, image = Orientation(*(bool(code >> bit & 1) for bit in range(3))), texture(9, 14)
    laid = way.apply(image)
    rows, columns = slice(2, 5), slice(1, 8)
    part = way.apply(image[way.shows(rows, columns, *image.shape[:2])])
    np.testing.assert_array_equal(part, laid[rows, columns])


@pytest.mark.parametrize("code", range(8))
def test_a_crops_corner_is_found_in_the_laid_image(code, texture):
    way, image = Orientation(*(bool(code >> bit & 1) for bit in range(3))), texture(9, 14)
    top, left = way.corner(2, 7, 4, *image.shape[:2])
    np.testing.assert_array_equal(
        way.apply(image)[top : top + 4, left : left + 4], way.apply(image[2:6, 7:11])
    )
