"""Contours of masks on slices."""

import numpy as np
import pytest

from basicsr_ext.inference.contours import PREDICTION, TRUTH, with_contours


def ramp(n=1, side=256):
    return np.broadcast_to(np.linspace(-3, 5, side, dtype=np.float32), (n, side, side))


def square(top, bottom, n=1, side=256):
    mask = np.zeros((n, side, side), bool)
    mask[:, top:bottom, top:bottom] = True
    return mask


def coloured(picture, colour):
    return (picture == colour).all(-1)


def test_a_contour_is_the_outermost_foreground_and_later_ones_lie_on_top():
    one, other = square(10, 30), square(20, 40)
    picture = with_contours(ramp(), (one, TRUTH), (other, PREDICTION))
    rim, other_rim = (
        mask[0] & ~square(top + 1, bottom - 1)[0] for mask, top, bottom in ((one, 10, 30), (other, 20, 40))
    )
    assert np.array_equal(coloured(picture, PREDICTION), other_rim)
    assert np.array_equal(coloured(picture, TRUTH), rim & ~other_rim)


def test_a_hole_has_a_contour_too():
    ring = square(10, 60) & ~square(20, 50)
    drawn = coloured(with_contours(ramp(), (ring, TRUTH)), TRUTH)
    assert drawn[40, 10]
    assert drawn[40, 19]
    assert not drawn[40, 15]
    assert not drawn[40, 35]


@pytest.mark.parametrize(("side", "factor"), [(255, 2), (256, 1), (60, 5)])
def test_small_slices_are_enlarged_and_stand_one_below_the_other(side, factor):
    slices = np.stack([ramp(1, side)[0], ramp(1, side)[0, :, ::-1]])
    picture = with_contours(slices, (np.zeros((2, side, side)), TRUTH))
    assert picture.shape == (2 * side * factor, side * factor, 3)
    assert np.array_equal(picture[: side * factor, ::factor], picture[: side * factor, factor - 1 :: factor])
    assert picture[0, 0, 0] < 10 < 240 < picture[-1, 0, 0]


def test_single_bright_pixels_do_not_darken_the_rest():
    slices = ramp().copy()
    slices[0, 0, 0] = 1e6
    grey = with_contours(slices)[1, :, 0].astype(int)
    assert grey.min() == 0
    assert grey.max() == 255
    assert np.diff(grey).max() <= 2


def test_a_slice_of_one_value_is_drawn():
    assert not with_contours(np.full((1, 256, 256), 7.0)).any()
