"""MATLAB's bicubic imresize, bit for bit."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr_ext.data.images import read_image
from basicsr_ext.data.resize import downscale, lq_crop, upscale

SCALES = (2, 3, 4, 8)
SET5 = ("baby", "bird", "butterfly", "head", "woman")


def matlab_weights(length: int, result: int) -> np.ndarray:
    """The (result, length) matrix of one pass, as MATLAB's own contributions() makes it, in double."""
    scale = result / length
    shrink = min(scale, 1.0)

    def cubic(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        return np.where(x <= 1, near, np.where(x <= 2, far, 0))

    width = 4 / shrink
    centre = np.arange(1, result + 1) / scale + 0.5 * (1 - 1 / scale)
    index = np.floor(centre - width / 2)[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = shrink * cubic(shrink * (centre[:, None] - index))
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    matrix = np.zeros((result, length))
    np.add.at(
        matrix, (np.arange(result)[:, None], mirrored[np.mod(index.astype(int) - 1, 2 * length)]), weights
    )
    return matrix


def matlab_imresize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Height first; rounded and clipped to the image's type after each pass."""
    peak = np.iinfo(image.dtype).max
    for axis, result in enumerate((height, width)):
        moved = np.moveaxis(image.astype(np.float64), axis, 0)
        passed = np.tensordot(matlab_weights(image.shape[axis], result), moved, 1)
        # A sum that should be k + 1/2 may end a hair below in double.
        rounded = np.floor(np.round(passed, 6) + 0.5)
        image = np.moveaxis(np.clip(rounded, 0, peak), 0, axis).astype(image.dtype)
    return image


def synthetic(height: int, width: int) -> np.ndarray:
    """A picture by formula, with all values, edges and texture."""
    y, x, c = np.indices((height, width, 3))
    return ((y * 37 + x * 91 + c * 53 + (x * y % 7) * 17 + (x // 9 % 2) * 128) % 256).astype(np.uint8)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", SET5)
def test_set5_low_resolution_files_are_reproduced_exactly(shared: Path, scale: int, name: str):
    hr = read_image(shared / "data/set5/HR" / f"{name}.png")
    lr = read_image(shared / f"data/set5/LRbicx{scale}" / f"{name}.png")
    np.testing.assert_array_equal(downscale(hr, scale), lr)


@pytest.mark.parametrize(("scale", "published"), [(2, 33.6734), (3, 30.4033), (4, 28.4290)])
def test_enlarging_set5_gives_the_known_bicubic_psnr(shared: Path, scale: int, published: float):
    def luma(image: np.ndarray) -> np.ndarray:
        return image.astype(float) @ np.array([65.481, 128.553, 24.966]) / 255

    values = []
    for name in SET5:
        lr = read_image(shared / f"data/set5/LRbicx{scale}" / f"{name}.png")
        sr = upscale(lr, scale)
        hr = read_image(shared / "data/set5/HR" / f"{name}.png")[: sr.shape[0], : sr.shape[1]]
        error = (luma(sr) - luma(hr))[scale:-scale, scale:-scale]
        values.append(10 * np.log10(255**2 / np.mean(error**2)))
    assert np.mean(values) == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize(
    ("scale", "checksum"), [(2, 0x29805798), (3, 0x0F1CCE80), (4, 0x49BFA433), (8, 0x97698772)]
)
def test_shrinking_a_known_picture_gives_the_known_bytes(scale: int, checksum: int):
    assert zlib.crc32(downscale(synthetic(75, 110), scale).tobytes()) == checksum


@pytest.mark.parametrize(
    ("scale", "checksum"), [(2, 0x18A13611), (3, 0xCFF27C04), (4, 0xB6D2F3FB), (8, 0x54A47D84)]
)
def test_enlarging_a_known_picture_gives_the_known_bytes(scale: int, checksum: int):
    assert zlib.crc32(upscale(synthetic(19, 23), scale).tobytes()) == checksum


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from([np.uint8, np.uint16])


def random_picture(height: int, width: int, seed: int, kind: type) -> np.ndarray:
    rng = np.random.default_rng(seed)
    # Black and white in plenty: there the kernel overshoots and clipping matters.
    picture = rng.choice([0, np.iinfo(kind).max], (height, width, 3))
    noise = rng.integers(0, np.iinfo(kind).max, (height, width, 3))
    return np.where(rng.random(picture.shape) < 0.5, picture, noise).astype(kind)


@given(st.sampled_from(SCALES), sizes, seeds, kinds)
@settings(max_examples=80)
def test_shrinking_equals_matlabs_definition(scale, size, seed, kind):
    height, width = size
    picture = random_picture(height * scale, width * scale, seed, kind)
    np.testing.assert_array_equal(downscale(picture, scale), matlab_imresize(picture, height, width))


@given(st.sampled_from(SCALES), sizes, seeds, kinds)
@settings(max_examples=80)
def test_enlarging_equals_matlabs_definition(scale, size, seed, kind):
    height, width = size
    picture = random_picture(height, width, seed, kind)
    expected = matlab_imresize(picture, height * scale, width * scale)
    np.testing.assert_array_equal(upscale(picture, scale), expected)


@given(st.sampled_from(SCALES), st.data())
@settings(max_examples=150)
def test_a_crop_equals_the_crop_of_the_whole(scale, data):
    height, width = data.draw(st.integers(scale, 12 * scale)), data.draw(st.integers(scale, 12 * scale))
    picture = random_picture(height, width, data.draw(seeds), data.draw(kinds))
    whole = downscale(picture, scale)
    top, left = (data.draw(st.integers(0, extent - 1)) for extent in whole.shape[:2])
    rows = data.draw(st.integers(1, whole.shape[0] - top))
    columns = data.draw(st.integers(1, whole.shape[1] - left))
    crop = lq_crop(picture, top, left, (rows, columns), scale)
    np.testing.assert_array_equal(crop, whole[top : top + rows, left : left + columns])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 16), (16, 0), (16, 16), (8, 8)])
def test_crops_at_every_border_and_inside_equal_the_whole(texture, scale, top, left):
    picture = texture(24 * scale, 24 * scale)
    whole = downscale(picture, scale)
    np.testing.assert_array_equal(
        lq_crop(picture, top, left, 8, scale), whole[top : top + 8, left : left + 8]
    )


def test_what_exceeds_a_multiple_of_the_scale_is_cut_first(texture):
    picture = texture(23, 30)
    np.testing.assert_array_equal(downscale(picture, 4), downscale(picture[:20, :28], 4))


def test_scale_1_changes_nothing(texture):
    picture = texture(7, 5)
    np.testing.assert_array_equal(downscale(picture, 1), picture)
    np.testing.assert_array_equal(upscale(picture, 1), picture)


@pytest.mark.parametrize("corner", [(-1, 0), (0, -1), (3, 0), (0, 3)])
def test_a_crop_outside_the_image_is_an_error(texture, corner):
    with pytest.raises(ValueError, match="does not lie in an image of 10x10"):
        lq_crop(texture(20, 20), *corner, 8, 2)
