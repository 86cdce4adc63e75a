"""The steps that make low quality of ground truth, and chains of them."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.data.degradations import add_jpg_compression, generate_poisson_noise
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sections import PairedKeys, PairedTrain, SampleTrain
from skimage.metrics import structural_similarity

from basicsr_ext.data import build_eval_dataset, build_train_dataset
from basicsr_ext.data.degradations import DegradationStep, build_chain
from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.data.resize import cut_to_multiple, downscale
from basicsr_ext.data.sampling import SampleRequest, sample_rng
from basicsr_ext.data.sources import ImageSource, LazyImage
from basicsr_ext.data.transforms import Orientation, matlab_grey, to_unit
from basicsr_ext.registry import DEGRADATIONS

SMOOTH = cv2.GaussianBlur(
    np.random.default_rng(7).integers(0, 256, (96, 120, 3)).astype(np.float32), (0, 0), 2
)
PICTURE = cv2.normalize(SMOOTH, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)  # pyright: ignore

# Steps that are functions of the image and their drawn parameters, with the scale they leave.
EXACT = {
    "matlab_bicubic": ([{"type": "matlab_bicubic"}], 4),
    "matlab_bicubic_3": ([{"type": "matlab_bicubic"}], 3),
    "area": ([{"type": "downsample", "modes": ["area"]}], 4),
    "bilinear": ([{"type": "downsample", "modes": ["bilinear"]}], 2),
    "bicubic": ([{"type": "downsample", "modes": ["bicubic"]}], 3),
    "subsample": ([{"type": "downsample", "modes": ["subsample"]}], 2),
    "jpeg_420": ([{"type": "jpeg", "quality": [10, 40]}], 1),
    "jpeg_422": ([{"type": "jpeg", "quality": 30, "subsampling": "4:2:2"}], 1),
    "jpeg_444": ([{"type": "jpeg", "quality": 30, "subsampling": "4:4:4"}], 1),
    "quantize": ([{"type": "quantize"}], 1),
    "blur": (
        [{"type": "blur", "kernel_list": ["iso", "aniso", "plateau_aniso", "sinc"], "kernel_size": [7, 21]}],
        1,
    ),
    "defocus_blur": ([{"type": "defocus_blur", "radius": [1, 5]}], 1),
    "motion_blur": ([{"type": "motion_blur", "length": [3, 21], "bend": [-90, 90]}], 1),
    "blind": (
        [
            {"type": "blur", "kernel_list": ["generalized_aniso"], "prob": 0.5},
            {"type": "matlab_bicubic", "scale": 2},
            {"type": "jpeg", "quality": [30, 95]},
            {"type": "downsample", "modes": ["area", "bilinear", "bicubic"]},
            {"type": "motion_blur", "length": 5},
            {"type": "jpeg", "quality": [30, 95]},
        ],
        4,
    ),
}


def steps_of(*mappings):
    return [TypeAdapter(DegradationStep).validate_python(mapping) for mapping in mappings]


def chain(*mappings, scale=1):
    return build_chain(steps_of(*mappings), scale)


def degrade(image, *mappings, scale=1, k=0):
    return chain(*mappings, scale=scale).whole(image, sample_rng(0, k))


def flat(value, side=256, channels=3):
    return np.full((side, side, channels), value, np.float32)


def psnr(image, reference):
    return -10 * np.log10(np.mean((to_unit(image) - to_unit(reference)) ** 2))


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=12)
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_a_crop_equals_the_crop_of_the_whole_low_quality_image(name, data, seed):
    mappings, scale = EXACT[name]
    image = cut_to_multiple(PICTURE[:93, :118], scale)
    rows, columns = image.shape[0] // scale, image.shape[1] // scale
    size = data.draw(st.integers(1, min(rows, columns)))
    top, left = data.draw(st.integers(0, rows - size)), data.draw(st.integers(0, columns - size))
    made = chain(*mappings, scale=scale)
    whole = made.whole(image, sample_rng(seed, 1))
    crop = made.crop(image, top, left, size, sample_rng(seed, 1))
    assert crop.dtype == whole.dtype
    expected = whole[top : top + size, left : left + size]
    # Sums of floats may be ordered differently in images of different sizes; then a JPEG may round
    # another way.
    tolerance = 0.05 if name == "blind" else 3e-6
    np.testing.assert_allclose(to_unit(crop), to_unit(expected), rtol=0, atol=tolerance)
    if name.startswith(("matlab", "jpeg")):
        np.testing.assert_array_equal(crop, expected)


class Windows(ImageSource):
    """PICTURE, of which only windows can be read; it counts their pixels."""

    reads_crops, names = True, ("picture",)
    pixels = 0

    def read(self, index):
        pytest.fail("the whole image was read")

    def read_crop(self, index, top, left, height, width):
        self.pixels += height * width
        return PICTURE[top : top + height, left : left + width]

    def size(self, index):
        return PICTURE.shape[:2]

    def path(self, index):
        return "picture"


@pytest.mark.parametrize("transpose", [False, True])
def test_no_more_of_an_image_is_read_than_its_crop_needs(transpose):
    made = chain({"type": "blur", "kernel_size": 7}, {"type": "jpeg", "quality": 50, "subsampling": "4:4:4"})
    source, orientation = Windows(), Orientation(hflip=True, transpose=transpose)
    crop = made.crop(LazyImage(source, 0), 40, 24, 16, sample_rng(0, 0), orientation)
    assert source.pixels == (16 + 2 * 3) ** 2
    expected = made.whole(orientation.apply(PICTURE), sample_rng(0, 0))[40:56, 24:40]
    np.testing.assert_array_equal(crop, expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_every_step_takes_every_kind_of_image_and_gives_values_of_0_to_1(texture, bits):
    mappings = {
        "gaussian_noise": {"sigma": 25, "clip": True},
        "poisson_noise": {"clip": True},
        "jpeg": {"quality": 30},
        "defocus_blur": {"radius": 2},
        "motion_blur": {"length": 9},
        "downsample": {"modes": ["bilinear"]},
    }
    image = texture(40, 48, bits=bits)
    for name, step in DEGRADATIONS.own().items():
        scale = 2 if "scale" in step.model_fields else 1
        made = degrade(image, {"type": name, **mappings.get(name, {})}, scale=scale)
        assert made.shape == (40 // scale, 48 // scale, 3), name
        assert made.dtype in (np.uint8, np.uint16, np.float32), name
        assert to_unit(made).min() >= -1e-6, name
        assert to_unit(made).max() <= 1 + 1e-6, name


@pytest.mark.parametrize("name", sorted(set(DEGRADATIONS.names()) - {"mosaic", "real_esrgan"}))
def test_grey_images_stay_grey(texture, name):
    keys = {
        "gaussian_noise": {"sigma": 25},
        "jpeg": {"quality": 30},
        "defocus_blur": {"radius": 2},
        "motion_blur": {"length": 9},
    }
    assert degrade(texture(32, 40)[..., :1], {"type": name, **keys.get(name, {})}).shape == (32, 40, 1)


@given(k=st.integers(0, 2**40))
@settings(max_examples=20)
def test_a_sample_is_decided_by_its_number(k):
    made = chain(
        {"type": "blur", "kernel_list": ["iso", "aniso", "sinc"]},
        {"type": "gaussian_noise", "sigma": [1, 30], "gray_prob": 0.5},
        {"type": "rain", "prob": 0.5},
        {"type": "downsample", "modes": ["area", "bilinear", "bicubic"]},
        {"type": "jpeg", "quality": [30, 95]},
        scale=2,
    )
    first, again, other = (made.crop(PICTURE, 4, 5, 16, sample_rng(1, number)) for number in (k, k, k + 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_chains_travel_to_loader_processes():
    made = chain({"type": "blur"}, {"type": "real_esrgan"}, scale=4)
    copy = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(
        made.crop(PICTURE, 0, 0, 8, sample_rng(0, 0)), copy.crop(PICTURE, 0, 0, 8, sample_rng(0, 0))
    )


def test_steps_that_cannot_make_up_the_scale_are_an_error():
    with pytest.raises(ValueError, match="do not shrink by the data set's scale, 4"):
        chain({"type": "matlab_bicubic", "scale": 3}, scale=4)


def test_prob_is_the_share_of_samples_a_step_is_applied_to():
    made = chain({"type": "gaussian_noise", "sigma": 50, "prob": 0.3})
    changed = [made.whole(flat(0.5, 8), sample_rng(0, k)).std() > 0 for k in range(400)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.07)


# --- noise ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [5, 25, 50])
def test_gaussian_noise_has_the_given_sigma_and_no_mean(sigma):
    noise = 255 * (degrade(flat(0.5), {"type": "gaussian_noise", "sigma": sigma}) - 0.5)
    assert noise.std() == pytest.approx(sigma, rel=0.01)
    assert noise.mean() == pytest.approx(0, abs=sigma / 100)
    channels = noise.reshape(-1, 3).T
    assert np.abs(np.corrcoef(channels) - np.eye(3)).max() < 0.02


def test_a_range_of_sigmas_is_drawn_evenly():
    made = chain({"type": "gaussian_noise", "sigma": [0, 50]})
    sigmas = np.array([255 * (made.whole(flat(0.5, 48), sample_rng(0, k)) - 0.5).std() for k in range(200)])
    counts = np.histogram(sigmas, bins=5, range=(0, 51))[0]
    assert counts.min() > 20
    assert sigmas.max() < 51


def test_sigma_can_differ_between_channels():
    noise = degrade(flat(0.5), {"type": "gaussian_noise", "sigma": [5, 50], "per_channel": True}) - 0.5
    levels = 255 * noise.std(axis=(0, 1))
    assert np.ptp(levels) > 1
    same = degrade(flat(0.5), {"type": "gaussian_noise", "sigma": [5, 50]}) - 0.5
    assert np.ptp(255 * same.std(axis=(0, 1))) < 0.03 * 255 * same.std()


@pytest.mark.parametrize("name", ["gaussian_noise", "poisson_noise"])
def test_grey_noise_is_the_same_in_all_channels(name):
    keys = {"sigma": 25} if name == "gaussian_noise" else {}
    noise = degrade(flat(0.5, 32), {"type": name, "gray_prob": 1, **keys}) - 0.5
    np.testing.assert_array_equal(noise, noise[..., :1].repeat(3, axis=2))
    assert noise.std() > 0


def test_noise_is_clipped_on_request_only():
    keys = {"type": "gaussian_noise", "sigma": 50}
    assert degrade(flat(0.0, 32), keys).min() < 0
    assert degrade(flat(0.0, 32), {**keys, "clip": True}).min() == 0


@pytest.mark.parametrize("value", [0.1, 0.5, 0.9])
def test_shot_noise_grows_with_the_root_of_the_signal(value):
    noise = degrade(flat(value), {"type": "poisson_noise", "strength": 2}) - np.float32(value)
    assert noise.mean() == pytest.approx(0, abs=2e-3)
    assert noise.std() == pytest.approx(2 * np.sqrt(value / 256), rel=0.02)


def test_shot_noise_of_a_photograph_is_as_strong_as_basicsrs():
    image = to_unit(PICTURE)
    np.random.seed(0)
    theirs = generate_poisson_noise(image, 1.0)
    ours = degrade(PICTURE, {"type": "poisson_noise"}) - image
    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)


# --- jpeg -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [10, 40, 90])
def test_jpeg_is_basicsrs(quality):
    # basicsr's images are BGR.
    theirs = add_jpg_compression(to_unit(PICTURE)[..., ::-1], quality)[..., ::-1]
    np.testing.assert_allclose(
        to_unit(degrade(PICTURE, {"type": "jpeg", "quality": quality})), theirs, atol=1e-6
    )


@settings(max_examples=15)
@given(qualities=st.lists(st.integers(1, 100), min_size=2, max_size=2, unique=True).map(sorted))
def test_a_higher_quality_is_no_worse(qualities):
    low, high = (psnr(degrade(PICTURE, {"type": "jpeg", "quality": q}), PICTURE) for q in qualities)
    assert low <= high + 0.15


def test_every_quality_of_a_range_occurs():
    made = chain({"type": "jpeg", "quality": [10, 13]})
    results = {made.whole(PICTURE, sample_rng(0, k)).tobytes() for k in range(60)}
    expected = {degrade(PICTURE, {"type": "jpeg", "quality": q}).tobytes() for q in (10, 11, 12, 13)}
    assert results == expected


def test_full_colour_resolution_keeps_colours_sharper():
    red = np.zeros((64, 64, 3), np.uint8)
    red[:, 1::2, 0] = 255
    coarse, fine = (
        psnr(degrade(red, {"type": "jpeg", "quality": 90, "subsampling": s}), red) for s in ("4:2:0", "4:4:4")
    )
    assert fine > coarse + 5


def test_16_bit_images_and_floats_are_compressed_like_their_8_bit_versions():
    keys = {"type": "jpeg", "quality": 50}
    expected = degrade(PICTURE, keys)
    np.testing.assert_array_equal(degrade(PICTURE.astype(np.uint16) * 257, keys), expected)
    np.testing.assert_array_equal(degrade(to_unit(PICTURE), keys), expected)


def test_quantize_rounds_and_clips_as_saving_does():
    values = np.array([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.7], np.float32).reshape(1, 6, 1)
    assert degrade(values, {"type": "quantize"}).ravel().tolist() == [0, 0, 0, 1, 255, 255]
    assert degrade(values, {"type": "quantize", "bits": 16}).dtype == np.uint16


# --- blur and shrinking -----------------------------------------------------------------------------

BLURS = [
    *(
        {"type": "blur", "kernel_list": [kernel], "kernel_size": [7, 21]}
        for kernel in (
            "iso",
            "aniso",
            "generalized_iso",
            "generalized_aniso",
            "plateau_iso",
            "plateau_aniso",
            "sinc",
        )
    ),
    {"type": "defocus_blur", "radius": [0.5, 12]},
    {"type": "motion_blur", "length": [1, 31], "bend": [-180, 180]},
]


def point_spread(step, k=0):
    point = np.zeros((65, 65, 1), np.float32)
    point[32, 32] = 1
    return degrade(point, step, k=k)[..., 0]


def moments(kernel):
    rows, columns = np.indices(kernel.shape) - 32
    return [float((kernel * a * b).sum()) for a, b in ((rows, rows), (columns, columns), (rows, columns))]


@pytest.mark.parametrize("step", BLURS, ids=lambda step: step.get("kernel_list", [step["type"]])[0])
def test_blur_keeps_brightness_and_place(step):
    for k in range(10):
        np.testing.assert_allclose(degrade(flat(0.7, 40), step, k=k), 0.7, atol=1e-5)
        spread = point_spread(step, k)
        rows, columns = np.indices(spread.shape) - 32
        assert (spread * rows).sum() == pytest.approx(0, abs=0.01)
        assert (spread * columns).sum() == pytest.approx(0, abs=0.01)


def test_sigma_is_the_gaussians_standard_deviation():
    rows, columns, mixed = moments(point_spread({"type": "blur", "sigma": 2}))
    assert rows == pytest.approx(4, rel=0.01)
    assert columns == pytest.approx(4, rel=0.01)
    assert mixed == pytest.approx(0, abs=1e-4)


def test_anisotropic_kernels_differ_between_axes_and_turn():
    step = {"type": "blur", "kernel_list": ["aniso"], "sigma": [0.5, 4]}
    spreads = [moments(point_spread(step, k)) for k in range(6)]
    assert all(abs(rows - columns) + abs(mixed) > 0.05 for rows, columns, mixed in spreads)
    upright = moments(point_spread({**step, "rotation": 0}))
    assert upright[2] == pytest.approx(0, abs=1e-4)


def test_kernel_weights_decide_which_kernels_occur():
    step = {"type": "blur", "kernel_list": ["iso", "sinc"], "kernel_prob": [3, 1]}
    rings = [point_spread(step, k).min() < -1e-6 for k in range(200)]
    assert np.mean(rings) == pytest.approx(0.25, abs=0.08)


def test_a_defocus_disk_has_its_radius():
    spread = point_spread({"type": "defocus_blur", "radius": 6})
    distance = np.hypot(*(np.indices(spread.shape) - 32))
    assert spread[distance > 7].max() < 1e-9
    inside = spread[distance < 5]
    np.testing.assert_allclose(inside, 1 / (np.pi * 36), rtol=0.02)


@pytest.mark.parametrize(
    ("angle", "rows", "columns"), [(0, 0, 1), (90, 1, 0), (45, 0.5, 0.5), (135, 0.5, 0.5)]
)
def test_motion_blur_goes_along_its_angle(angle, rows, columns):
    found = moments(point_spread({"type": "motion_blur", "length": 21, "angle": angle}))
    variance = 21**2 / 12
    assert found[0] == pytest.approx(rows * variance, abs=0.6)
    assert found[1] == pytest.approx(columns * variance, abs=0.6)
    # Rows count downwards: counter-clockwise from rightwards is up.
    sign = {45: -1, 135: 1}.get(angle, 0)
    assert found[2] == pytest.approx(sign * variance / 2, abs=0.6)


def test_a_bent_path_is_no_line():
    straight, bent = (
        point_spread({"type": "motion_blur", "length": 21, "angle": 0, "bend": bend}) for bend in (0, 180)
    )
    assert moments(straight)[0] == pytest.approx(0, abs=0.01)
    assert moments(bent)[0] > 2


def test_downsampling_modes_are_opencvs():
    for mode, flag in (
        ("area", cv2.INTER_AREA),
        ("bilinear", cv2.INTER_LINEAR),
        ("bicubic", cv2.INTER_CUBIC),
    ):
        expected = cv2.resize(to_unit(PICTURE), (30, 24), interpolation=flag)
        found = degrade(PICTURE, {"type": "downsample", "modes": [mode]}, scale=4)
        np.testing.assert_array_equal(found, expected)
    found = degrade(PICTURE, {"type": "downsample", "modes": ["subsample"]}, scale=4)
    np.testing.assert_array_equal(found, PICTURE[::4, ::4])


def test_stored_images_are_shrunk_as_matlab_shrinks_them():
    np.testing.assert_array_equal(
        degrade(PICTURE, {"type": "matlab_bicubic"}, scale=3), downscale(PICTURE, 3)
    )


def jpeg(image, quality, subsampling):
    keys = {"type": "jpeg", "quality": quality, "subsampling": subsampling}
    return degrade(np.ascontiguousarray(image), keys)


@pytest.mark.parametrize(("subsampling", "block"), [("4:4:4", 8), ("4:2:0", 16)])
@pytest.mark.parametrize("place", [(0, 0), (19, 37), (3, 0)])
def test_a_grid_at_the_corner_is_that_of_the_crop_compressed_with_what_its_last_blocks_hold(
    place, subsampling, block
):
    made = chain({"type": "jpeg", "quality": 10, "subsampling": subsampling, "corner_grid": 1})
    size = 3 * block - 2
    crop = made.crop(PICTURE, *place, size, sample_rng(0, 0))
    # Two blocks more, so that colour is interpolated alike at the last pixels.
    cut = PICTURE[place[0] :, place[1] :][: 5 * block, : 5 * block]
    expected = jpeg(cut, 10, subsampling)[:size, :size]
    difference = np.abs(crop.astype(int) - expected)
    first = 0 if block == 8 or place == (0, 0) else 2  # colour is interpolated across the first pixels
    np.testing.assert_array_equal(difference[first:, first:], 0)


def test_the_share_of_grids_at_the_corner_is_the_one_asked_for():
    made = chain({"type": "jpeg", "quality": 10, "subsampling": "4:4:4", "corner_grid": 0.25})
    at_corner = chain({"type": "jpeg", "quality": 10, "subsampling": "4:4:4", "corner_grid": 1})
    expected = at_corner.crop(PICTURE, 5, 5, 16, sample_rng(0, 0))
    crops = [made.crop(PICTURE, 5, 5, 16, sample_rng(0, k)) for k in range(200)]
    assert sum(np.array_equal(crop, expected) for crop in crops) == pytest.approx(50, abs=20)
    elsewhere = jpeg(PICTURE, 10, "4:4:4")[5:21, 5:21]
    assert all(np.array_equal(crop, expected) or np.array_equal(crop, elsewhere) for crop in crops)


# --- mosaic -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_a_raw_mosaic_holds_one_colour_a_pixel(pattern):
    made = degrade(PICTURE, {"type": "mosaic", "pattern": pattern, "output": "raw"})
    for place, colour in enumerate(pattern):
        part = np.s_[place // 2 :: 2, place % 2 :: 2]
        channel = "RGB".index(colour)
        np.testing.assert_array_equal(made[part][..., channel], to_unit(PICTURE)[part][..., channel])
        assert np.delete(made[part], channel, axis=2).max() == 0


def test_an_interpolated_mosaic_keeps_what_was_sampled_and_is_exact_on_gradients():
    rows, columns = np.indices((20, 24), np.float32)
    ramp = np.stack([rows, columns, rows + columns], axis=2) / 50
    made = degrade(ramp, {"type": "mosaic"})
    np.testing.assert_allclose(made[1:-1, 1:-1], ramp[1:-1, 1:-1], atol=1e-6)
    picture = degrade(PICTURE, {"type": "mosaic"})
    np.testing.assert_array_equal(picture[::2, ::2, 0], to_unit(PICTURE)[::2, ::2, 0])


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_malvars_interpolation_gives_each_missing_colour_from_the_pixels_it_should(pattern):
    """Pixel by pixel: the bilinear value, and a share of the Laplacian of the pixel's own colour."""
    made = degrade(PICTURE, {"type": "mosaic", "pattern": pattern, "output": "malvar"})
    raw = degrade(PICTURE, {"type": "mosaic", "pattern": pattern, "output": "raw"}).sum(2, dtype=np.float64)
    colours = np.array([list(pattern[:2]), list(pattern[2:])])
    for i, j in np.ndindex(6, 6):
        row, column, own = 10 + i, 20 + j, colours[i % 2, j % 2]

        def at(*offsets, row=row, column=column):
            return np.mean([raw[row + y, column + x] for y, x in offsets])

        sides, ends = [(0, -1), (0, 1)], [(-1, 0), (1, 0)]
        diagonal = [(y, x) for y in (-1, 1) for x in (-1, 1)]
        far_sides, far_ends = [(0, -2), (0, 2)], [(-2, 0), (2, 0)]
        centre = raw[row, column]
        plain = {own: centre}
        if own == "G":
            laplacian = 5 * centre - 4 * at(*diagonal)
            plain[colours[i % 2, 1 - j % 2]] = (
                at(*sides) + (laplacian - 2 * at(*far_sides) + at(*far_ends)) / 8
            )
            plain[colours[1 - i % 2, j % 2]] = (
                at(*ends) + (laplacian - 2 * at(*far_ends) + at(*far_sides)) / 8
            )
        else:
            laplacian = centre - at(*far_sides, *far_ends)
            plain["G"] = at(*sides, *ends) + laplacian / 2
            plain[{"R": "B", "B": "R"}[own]] = at(*diagonal) + laplacian * 3 / 4
        expected = [plain[channel] for channel in "RGB"]
        np.testing.assert_allclose(made[row, column], expected, rtol=0, atol=1e-6)


def test_malvars_interpolation_is_exact_on_gradients_and_better_than_bilinear():
    rows, columns = np.indices((20, 24), np.float32)
    ramp = np.stack([rows, columns, rows + columns], axis=2) / 50
    made = degrade(ramp, {"type": "mosaic", "output": "malvar"})
    np.testing.assert_allclose(made[2:-2, 2:-2], ramp[2:-2, 2:-2], atol=1e-6)
    alike = PICTURE[..., :1].repeat(3, axis=2)  # colours of photographs change together
    errors = [
        float(((degrade(alike, {"type": "mosaic", "output": output}) - to_unit(alike)) ** 2).mean())
        for output in ("malvar", "bilinear")
    ]
    assert errors[0] < 0.7 * errors[1]


@pytest.mark.parametrize("output", ["raw", "bilinear", "malvar"])
@pytest.mark.parametrize("corner", [(0, 0), (1, 0), (4, 7)])
def test_every_training_crop_starts_the_pattern_anew(output, corner):
    made = chain({"type": "mosaic", "output": output})
    crop = made.crop(PICTURE, *corner, 12, sample_rng(0, 0))
    rows, columns = (slice(place, place + 12) for place in corner)
    np.testing.assert_array_equal(crop[::2, ::2, 0], to_unit(PICTURE)[rows, columns][::2, ::2, 0])
    even = corner[0] % 2 == corner[1] % 2 == 0
    whole = degrade(PICTURE, {"type": "mosaic", "output": output})[rows, columns]
    assert np.allclose(crop, whole, rtol=0, atol=1e-6) == even


# --- rain -------------------------------------------------------------------------------------------


def test_rain_brightens_all_channels_alike():
    light = degrade(flat(0.2, 128), {"type": "rain"}) - np.float32(0.2)
    assert light.min() >= 0
    assert 0.02 < (light > 0.02).mean() < 0.6
    np.testing.assert_array_equal(light, light[..., :1].repeat(3, axis=2))


def test_rain_falls_along_its_angle():
    made = chain({"type": "rain", "angle": 0, "length": 30})
    for k in range(5):
        light = made.whole(flat(0.2, 128, 1), sample_rng(0, k))[..., 0]
        down, across = (float(np.abs(np.diff(light, axis=axis)).mean()) for axis in (0, 1))
        assert down < 0.4 * across


@pytest.mark.parametrize(("kind", "folder"), [("light", "Rain100L"), ("heavy", "Rain100H")])
def test_rain_is_as_strong_as_in_the_published_pairs(shared, kind, folder):
    published, ours = [], []
    for k, path in enumerate(sorted(Path(shared, "data/rain/GT").glob("*.png"))):
        clean = read_image(path)
        rainy = read_image(shared / "data/rain" / folder / path.name)
        made = degrade(clean, {"type": "rain", "kind": kind}, {"type": "quantize"}, k=k)
        for results, image in ((published, rainy), (ours, made)):
            results.append((psnr(image, clean), structural_similarity(image, clean, channel_axis=2)))
    (their_psnr, their_ssim), (our_psnr, our_ssim) = np.mean(published, axis=0), np.mean(ours, axis=0)
    assert our_psnr == pytest.approx(their_psnr, abs=1.5)
    assert our_ssim == pytest.approx(their_ssim, abs=0.1)


# --- data sets --------------------------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path):
    for index in range(3):
        write_image(tmp_path / f"GT/{index}.png", np.roll(PICTURE, 31 * index, axis=1))
    return str(tmp_path / "GT")


def training(folder, *mappings, scale=1, seed=0, **keys):
    option = PairedTrain(
        type="PairedImageDataset", dataroot_gt=folder, degradation=steps_of(*mappings), **keys
    )
    return build_train_dataset(option, scale, seed)


def evaluation(folder, *mappings, scale=1, **keys):
    option = PairedKeys(
        type="PairedImageDataset", dataroot_gt=folder, degradation=steps_of(*mappings), **keys
    )
    return build_eval_dataset(option, scale)


def test_samples_have_crops_of_both_sides(photographs):
    dataset = training(photographs, {"type": "blur"}, {"type": "matlab_bicubic"}, scale=4)
    sample = dataset[SampleRequest(1, 32, 5)]
    assert sample["gt"].shape == (3, 32, 32)
    assert sample["lq"].shape == (3, 8, 8)
    assert sample["lq"].dtype == torch.float32
    assert sample["lq_path"] == sample["gt_path"]


def test_the_bundled_photographs_are_degraded_too():
    option = SampleTrain(
        type="SampleImages", degradation=steps_of({"type": "gaussian_noise", "sigma": 25, "clip": True})
    )
    sample = build_train_dataset(option, 1, 0)[SampleRequest(2, 64, 0)]
    assert float(255 * (sample["lq"] - sample["gt"]).std()) == pytest.approx(25, rel=0.1)


def test_matlab_bicubic_alone_gives_what_no_degradation_gives(photographs):
    plain = build_train_dataset(PairedTrain(type="PairedImageDataset", dataroot_gt=photographs), 4, 0)
    named = training(photographs, {"type": "matlab_bicubic"}, scale=4)
    for k in range(8):
        request = SampleRequest(k % 3, 32, k)
        assert torch.equal(plain[request]["lq"], named[request]["lq"])


def test_rain_falls_downwards_however_the_photograph_is_oriented(photographs):
    keys = {"type": "rain", "angle": 0, "kind": "heavy", "length": 40}
    dataset = training(photographs, keys)
    for k in range(12):
        sample = dataset[SampleRequest(0, 64, k)]
        light = (sample["lq"] - sample["gt"])[0]
        assert light.diff(dim=0).abs().mean() < 0.5 * light.diff(dim=1).abs().mean()


def test_every_oriented_crop_starts_with_a_red_pixel(photographs):
    dataset = training(photographs, {"type": "mosaic", "output": "raw"})
    for k in range(16):
        sample = dataset[SampleRequest(k % 3, 17, k)]
        assert torch.equal(sample["lq"][0, ::2, ::2], sample["gt"][0, ::2, ::2])
        assert torch.equal(sample["lq"][2, 1::2, 1::2], sample["gt"][2, 1::2, 1::2])
        assert sample["lq"][0, 1::2].abs().max() == 0


def test_crops_correspond_to_the_pixel_in_every_orientation(photographs):
    dataset = training(photographs, {"type": "downsample", "modes": ["subsample"]}, scale=2)
    for k in range(16):
        sample = dataset[SampleRequest(k % 3, 20, k)]
        assert torch.equal(sample["lq"], sample["gt"][:, ::2, ::2])


def test_grey_sets_are_made_grey_before_they_are_degraded(photographs):
    sample = training(photographs, {"type": "gaussian_noise", "sigma": 50}, color="gray")[
        SampleRequest(0, 64, 0)
    ]
    assert sample["gt"].shape == sample["lq"].shape == (1, 64, 64)
    # Grey of coloured noise would be much weaker.
    assert float(255 * (sample["lq"] - sample["gt"]).std()) == pytest.approx(50, rel=0.05)


def test_matlabs_grey_is_made_before_images_are_compressed(photographs):
    item = evaluation(photographs, {"type": "jpeg", "quality": 10}, color="matlab_gray")[0]
    gt = matlab_grey(PICTURE)
    _, written = cv2.imencode(".jpg", gt, [cv2.IMWRITE_JPEG_QUALITY, 10])
    for key, expected in (("gt", gt[..., 0]), ("lq", cv2.imdecode(written, cv2.IMREAD_GRAYSCALE))):
        np.testing.assert_array_equal(item[key].numpy(), to_unit(expected)[None])


def test_an_evaluation_image_is_always_degraded_alike_and_unlike_others(photographs):
    noise = {"type": "gaussian_noise", "sigma": 25}
    dataset = evaluation(photographs, noise)
    fields = [dataset[index]["lq"] - dataset[index]["gt"] for index in (0, 0, 1)]
    assert torch.equal(fields[0], fields[1])
    assert not torch.equal(fields[0], fields[2])


def test_an_evaluation_image_keeps_its_degradation_when_others_are_added(photographs):
    noise = {"type": "gaussian_noise", "sigma": 25}
    before = evaluation(photographs, noise)[1]
    write_image(f"{photographs}/00.png", PICTURE)
    after = evaluation(photographs, noise)[2]
    assert before["gt_path"] == after["gt_path"]
    assert torch.equal(before["lq"], after["lq"])


def test_degradation_beside_stored_low_quality_is_an_error(photographs):
    with pytest.raises(ValueError, match="either made or read from dataroot_lq"):
        training(photographs, {"type": "blur"}, dataroot_lq=photographs)
