"""Restormer's data set types."""

import cv2
import numpy as np
import pytest
import torch
from sections import DualPixelKeys, DualPixelTrain, GaussianDenoisingKeys, GaussianDenoisingTrain, PairedTrain

from basicsr_ext.data import build_eval_dataset, build_train_dataset
from basicsr_ext.data.datasets import check_sizes
from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.data.samples import SampleError, SmallImageError
from basicsr_ext.data.sampling import SampleRequest


def denoising(folder, **keys):
    option = GaussianDenoisingTrain(
        type="Dataset_GaussianDenoising",
        **{"dataroot_gt": str(folder / "GT"), "sigma_type": "constant", "sigma_range": 25, **keys},
    )
    return build_train_dataset(option, 1, 0)


def noisy(folder, **keys):
    option = GaussianDenoisingKeys(
        type="Dataset_GaussianDenoising", **{"dataroot_gt": str(folder / "GT"), "sigma_test": 25, **keys}
    )
    return build_eval_dataset(option, 1)


def noise_levels(dataset, count=60, size=32):
    samples = [dataset[SampleRequest(k % len(dataset), size, k)] for k in range(count)]
    return [255 * float((sample["lq"] - sample["gt"]).std()) for sample in samples]


def test_paired_images_go_by_restormers_name_too(pairs):
    option = PairedTrain(
        type="Dataset_PairedImage", dataroot_gt=str(pairs / "GT"), dataroot_lq=str(pairs / "LQ")
    )
    assert build_train_dataset(option, 4, 0)[SampleRequest(0, 16, 0)]["lq"].shape == (3, 4, 4)


def test_constant_noise_has_the_given_standard_deviation(pairs):
    levels = noise_levels(denoising(pairs))
    assert np.mean(levels) == pytest.approx(25, rel=0.01)
    assert np.std(levels) < 1


def test_random_noise_fills_its_range(pairs):
    levels = noise_levels(denoising(pairs, sigma_type="random", sigma_range=[5, 45]))
    assert 4 < min(levels) < 10
    assert 40 < max(levels) < 47
    assert np.mean(levels) == pytest.approx(25, abs=5)


def test_chosen_noise_is_one_of_the_choices(pairs):
    levels = noise_levels(denoising(pairs, sigma_type="choice", sigma_range=[10, 40]))
    assert {round(level / 10) * 10 for level in levels} == {10, 40}


def test_training_noise_is_not_clipped_and_differs_from_sample_to_sample(pairs):
    dataset = denoising(pairs)
    first, second = (dataset[SampleRequest(0, 44, k)] for k in (0, 1))
    assert first["lq"].min() < 0
    assert first["lq"].max() > 1
    assert not torch.equal(first["lq"] - first["gt"], second["lq"] - second["gt"])


def test_evaluation_noise_is_that_of_the_published_tests(pairs):
    item = noisy(pairs)[2]
    clean = np.float32(read_image(pairs / "GT/2.png")) / 255.0
    np.random.seed(seed=0)
    clean += np.random.normal(0, 25 / 255.0, clean.shape)
    np.testing.assert_array_equal(item["lq"].numpy(), clean.transpose(2, 0, 1))


def test_one_channel_is_made_before_noise_is_added(pairs):
    sample, item = denoising(pairs, in_ch=1)[SampleRequest(0, 16, 0)], noisy(pairs, in_ch=1)[0]
    assert sample["gt"].shape == sample["lq"].shape == (1, 16, 16)
    assert item["gt"].shape == item["lq"].shape == (1, 44, 60)
    assert float(255 * (item["lq"] - item["gt"]).std()) == pytest.approx(25, rel=0.03)
    # 8-bit grey, as OpenCV gives it.
    levels = item["gt"].numpy().astype(np.float64) * 255
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"sigma_range": [15, 50]},
            r"sigma_range: found \[15.*\], expected one value for sigma_type 'constant'",
        ),
        ({"sigma_type": "random", "sigma_range": 25}, r"expected \[low, high\] for sigma_type 'random'"),
        ({"sigma_type": "choice", "sigma_range": None}, "expected a list of values"),
        ({"sigma_type": None}, "give sigma_type and sigma_range to train, sigma_test to test"),
        ({"scale": 4}, "scale is 4, not 1"),
    ],
)
def test_noise_keys_that_do_not_fit_are_errors(pairs, keys, message):
    with pytest.raises(ValueError, match=message):
        denoising(pairs, **keys)


def test_evaluation_without_sigma_test_is_an_error(pairs):
    with pytest.raises(ValueError, match="sigma_test to test"):
        noisy(pairs, sigma_test=None)


@pytest.fixture
def views(tmp_path, coordinates, texture):
    for index in range(2):
        write_image(tmp_path / f"target/{index}.png", coordinates(40, 50, index))
        write_image(tmp_path / f"left/{index}.png", coordinates(40, 50, index + 5))
        write_image(tmp_path / f"right/{index}.png", coordinates(40, 50, index + 9))
    return {
        "type": "Dataset_DefocusDeblur_DualPixel_16bit",
        "dataroot_gt": str(tmp_path / "target"),
        "dataroot_lqL": str(tmp_path / "left"),
        "dataroot_lqR": str(tmp_path / "right"),
    }


def test_dual_pixel_crops_are_six_channels_that_correspond(views):
    dataset = build_train_dataset(DualPixelTrain(**views), 1, 0)
    for k in range(20):
        sample = dataset[SampleRequest(k % 2, 16, k)]
        left, right = sample["lq"][:3], sample["lq"][3:]
        assert sample["lq"].shape == (6, 16, 16)
        for view in (left, right):
            assert torch.equal(view[:2], sample["gt"][:2])
        assert not torch.equal(left[2], right[2])


def test_dual_pixel_images_keep_their_16_bits(views):
    item = build_eval_dataset(DualPixelKeys(**views), 1)[0]
    picture = read_image(f"{views['dataroot_lqR']}/0.png")
    np.testing.assert_array_equal(item["lq"][3:].numpy(), picture.transpose(2, 0, 1) / np.float32(65535))


def test_dual_pixel_views_are_normalised_alike(views):
    plain = build_eval_dataset(DualPixelKeys(**views), 1)[0]["lq"]
    normal = build_eval_dataset(DualPixelKeys(**views, mean=[0.1, 0.2, 0.3]), 1)[0]["lq"]
    torch.testing.assert_close(
        plain - normal, torch.tensor([0.1, 0.2, 0.3] * 2).view(6, 1, 1).expand_as(plain)
    )


def test_dual_pixel_views_take_no_colour_conversion(views):
    with pytest.raises(ValueError, match="color: found 'y', expected 'rgb'"):
        build_eval_dataset(DualPixelKeys(**views, color="y"), 1)


def test_a_view_without_partner_is_named_by_its_key(views, tmp_path):
    (tmp_path / "right/1.png").unlink()
    with pytest.raises(ValueError, match=r"dataroot_lqR: .*right lacks partners of .*target: 1"):
        build_eval_dataset(DualPixelKeys(**views), 1)


def test_the_size_check_looks_at_both_views(views, tmp_path, texture):
    write_image(tmp_path / "right/1.png", texture(40, 48, bits=16))
    (problem,) = check_sizes(build_train_dataset(DualPixelTrain(**views), 1, 0), 16)
    assert "1.png (40x48 pixels, ground truth 40x50 pixels)" in problem.found


def small_set(folder, texture, type_="Dataset_PairedImage", scale=1, **keys):
    gt = texture(20, 33)
    write_image(folder / "GT/a.png", gt)
    write_image(folder / "LQ/a.png", 255 - gt[::scale, ::scale][: 20 // scale, : 33 // scale])
    roots = {"dataroot_gt": str(folder / "GT"), "dataroot_lq": str(folder / "LQ")}
    return gt, build_train_dataset(PairedTrain(type=type_, **roots, use_hflip=False, **keys), scale, 0)


@pytest.mark.parametrize("size", [24, 48, 96])
def test_images_smaller_than_the_patch_are_mirrored_as_in_the_release(tmp_path, texture, size):
    gt, dataset = small_set(tmp_path, texture, use_rot=False)
    # basicsr's fork in Restormer, data_util.padding
    padded = cv2.copyMakeBorder(gt, 0, max(0, size - 20), 0, max(0, size - 33), cv2.BORDER_REFLECT)
    for k in range(5):
        request = SampleRequest(0, size, k)
        sample, place = dataset[request], dataset.place(request)
        expected = padded[place.window].transpose(2, 0, 1) / np.float32(255)
        np.testing.assert_array_equal(sample["gt"].numpy(), expected.astype(np.float32))
        torch.testing.assert_close(sample["lq"], 1 - sample["gt"])


def test_a_small_packed_image_is_mirrored_like_its_file(tmp_path, texture):
    _, files = small_set(tmp_path, texture)
    _, cached = small_set(tmp_path, texture, cache="disk")
    assert cached.pairs.gt.reads_crops
    assert not files.pairs.gt.reads_crops
    for k in range(8):
        request = SampleRequest(0, 27, k)
        for side in ("gt", "lq"):
            assert torch.equal(files[request][side], cached[request][side])


def test_mirrored_low_quality_stays_on_the_ground_truth(tmp_path, coordinates):
    write_image(tmp_path / "GT/a.png", coordinates(20, 33))
    write_image(tmp_path / "LQ/a.png", coordinates(10, 16))
    roots = {"dataroot_gt": str(tmp_path / "GT"), "dataroot_lq": str(tmp_path / "LQ")}
    option = PairedTrain(type="PairedImageDataset", on_small_image="pad", **roots)
    dataset = build_train_dataset(option, 2, 0)
    for k in range(8):
        sample = dataset[SampleRequest(0, 40, k)]
        gt, lq = (np.rint(sample[side].numpy()[:2].astype(float) * 65535) for side in ("gt", "lq"))
        np.testing.assert_array_equal(gt[:, ::2, ::2] // 2, lq)


@pytest.mark.parametrize(
    ("type_", "keys", "mode"),
    [
        ("Dataset_PairedImage", {}, "pad"),
        ("PairedImageDataset", {}, "stop"),
        ("Dataset_PairedImage", {"on_small_image": "stop"}, "stop"),
        ("PairedImageDataset", {"on_small_image": "skip"}, "skip"),
    ],
)
def test_small_images_are_padded_where_the_types_own_code_pads(tmp_path, texture, caplog, type_, keys, mode):
    _, dataset = small_set(tmp_path, texture, type_, **keys)
    option = PairedTrain(type=type_, dataroot_gt="", **keys)
    with caplog.at_level("INFO", "basicsr_ext"):
        problems = option.problems(dataset, "datasets.train", 24)
    if mode == "stop":
        assert "on_small_image: pad" in problems[0].fix
    else:
        assert problems == []
        assert "datasets.train: 1 image smaller than the largest patch, 24 pixels, " in caplog.text
    if mode != "pad":
        with pytest.raises(SmallImageError, match="20x33 pixels, less than a patch of 24"):
            dataset[SampleRequest(0, 24, 0)]


def test_an_image_without_a_low_quality_pixel_stops_whatever_is_asked_for(tmp_path, texture):
    write_image(tmp_path / "GT/a.png", texture(3, 33))
    option = PairedTrain(type="PairedImageDataset", dataroot_gt=str(tmp_path / "GT"), on_small_image="pad")
    dataset = build_train_dataset(option, 4, 0)
    (problem,) = option.problems(dataset, "datasets.train", 16)
    assert "a.png (3x33)" in problem.found
    with pytest.raises(SampleError, match="3x33 pixels, less than 4x4"):
        dataset[SampleRequest(0, 16, 0)]
