"""Training crops and evaluation images of paired sets."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from sections import PairedKeys, PairedTrain, SingleKeys

from basicsr_ext.data import build_eval_dataset, build_train_dataset
from basicsr_ext.data.datasets import check_sizes
from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.data.resize import downscale
from basicsr_ext.data.samples import SampleError
from basicsr_ext.data.sampling import SampleRequest
from basicsr_ext.data.transforms import Orientation

ORIENTATIONS = [Orientation(*(bool(code >> bit & 1) for bit in range(3))) for code in range(8)]


def train(folder, scale=4, seed=0, lq=True, **keys):
    keys = {"dataroot_gt": str(folder / "GT"), **keys}
    if lq:
        keys["dataroot_lq"] = str(folder / "LQ")
    return build_train_dataset(PairedTrain(type="PairedImageDataset", **keys), scale, seed)


def evaluation(folder, scale=4, lq=True, **keys):
    keys = {"dataroot_gt": str(folder / "GT"), **keys}
    if lq:
        keys["dataroot_lq"] = str(folder / "LQ")
    return build_eval_dataset(PairedKeys(type="PairedImageDataset", **keys), scale)


def integers(tensor: torch.Tensor) -> np.ndarray:
    """A 16-bit sample's pixels, (H, W, C)."""
    return np.rint(tensor.numpy().transpose(1, 2, 0).astype(np.float64) * 65535).astype(np.int64)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_stored_crops_correspond_to_the_pixel(tmp_path, coordinates, scale):
    write_image(tmp_path / "GT/a.png", coordinates(80, 100))
    write_image(tmp_path / "LQ/a.png", coordinates(80 // scale, 100 // scale, 1))
    dataset = train(tmp_path, scale)
    size = 6
    for k in range(40):
        sample = dataset[SampleRequest(0, size * scale, k)]
        gt, lq = integers(sample["gt"]), integers(sample["lq"])
        assert gt.shape == (size * scale, size * scale, 3)
        blocks = gt[..., :2].reshape(size, scale, size, scale, 2) // scale
        np.testing.assert_array_equal(blocks, np.broadcast_to(lq[:, None, :, None, :2], blocks.shape))


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_crops_made_on_the_fly_equal_crops_of_the_whole_low_quality_image(tmp_path, coordinates, scale):
    picture = coordinates(85, 101)
    write_image(tmp_path / "GT/a.png", picture)
    whole, dataset, size = downscale(picture, scale), train(tmp_path, scale, lq=False), 5
    seen = set()
    for k in range(60):
        sample = dataset[SampleRequest(0, size * scale, k)]
        gt, lq = integers(sample["gt"]), integers(sample["lq"])
        top, left = (gt[..., axis].min() // scale for axis in (0, 1))
        upright = picture[top * scale :, left * scale :][: size * scale, : size * scale]
        (orientation,) = [one for one in ORIENTATIONS if np.array_equal(one.apply(upright), gt)]
        expected = whole[top : top + size, left : left + size]
        np.testing.assert_array_equal(lq, orientation.apply(expected))
        seen.add(orientation)
    assert len(seen) == 8


def test_a_samples_place_is_where_its_crop_comes_from(tmp_path, coordinates):
    picture = coordinates(50, 70)
    write_image(tmp_path / "GT/a.png", picture)
    dataset = train(tmp_path, 4, lq=False)
    for k in range(30):
        request = SampleRequest(0, 16, k)
        place = dataset.place(request)
        expected = place.orientation.apply(picture[place.window])
        np.testing.assert_array_equal(integers(dataset[request]["gt"]), expected)


def test_crops_reach_every_border(tmp_path, coordinates):
    write_image(tmp_path / "GT/a.png", coordinates(24, 28))
    dataset = train(tmp_path, 4, lq=False)
    crops = [integers(dataset[SampleRequest(0, 16, k)]["gt"]) for k in range(80)]
    for axis, last in ((0, 23), (1, 27)):
        assert min(crop[..., axis].min() for crop in crops) == 0
        assert max(crop[..., axis].max() for crop in crops) == last


@pytest.mark.parametrize(
    ("keys", "allowed"),
    [
        ({"use_hflip": False, "use_rot": False}, 1),
        ({"use_hflip": True, "use_rot": False}, 2),
        ({"use_hflip": False, "use_rot": True}, 4),
        ({"geometric_augs": False}, 1),
        ({"geometric_augs": True, "use_hflip": False, "use_rot": False}, 8),
    ],
)
def test_flips_and_rotations_obey_their_switches(tmp_path, coordinates, keys, allowed):
    picture = coordinates(12, 12)
    write_image(tmp_path / "GT/a.png", picture)
    dataset = train(tmp_path, 1, lq=False, **keys)
    crops = [integers(dataset[SampleRequest(0, 12, k)]["gt"]) for k in range(80)]
    seen = {one for one in ORIENTATIONS for crop in crops if np.array_equal(one.apply(picture), crop)}
    assert len(seen) == allowed


def test_a_sample_depends_on_seed_and_number_alone(pairs):
    first, again, other = train(pairs, seed=1), train(pairs, seed=1), train(pairs, seed=2)
    request = SampleRequest(3, 32, 17)
    expected = first[request]
    for k in range(5):
        again[SampleRequest(0, 16, k)]
    np.random.seed(5)
    assert torch.equal(again[request]["gt"], expected["gt"])
    assert torch.equal(pickle.loads(pickle.dumps(first))[request]["lq"], expected["lq"])
    assert not torch.equal(other[request]["gt"], expected["gt"])


def test_a_sample_says_where_it_comes_from(pairs):
    sample = train(pairs)[SampleRequest(2, 16, 99)]
    assert sample["k"] == 99
    assert sample["gt_path"] == str(pairs / "GT/2.png")
    assert sample["lq_path"] == str(pairs / "LQ/2.png")
    assert sample["gt"].dtype == sample["lq"].dtype == torch.float32


def test_without_stored_low_quality_its_path_is_the_ground_truths(pairs):
    sample = train(pairs, lq=False)[SampleRequest(2, 16, 0)]
    assert sample["lq_path"] == sample["gt_path"]


def test_an_option_sections_own_scale_takes_precedence(pairs):
    option = PairedTrain(type="PairedImageDataset", dataroot_gt=str(pairs / "GT"), scale=4)
    assert build_train_dataset(option, 2, 0)[SampleRequest(0, 16, 0)]["lq"].shape == (3, 4, 4)


def test_sizes_that_are_no_multiple_of_the_scale_are_cut(tmp_path, texture):
    gt = texture(43, 38)
    write_image(tmp_path / "GT/a.png", gt)
    write_image(tmp_path / "LQ/a.png", downscale(gt, 4))
    sample = train(tmp_path)[SampleRequest(0, 36, 0)]
    assert sample["gt"].shape == (3, 36, 36)
    assert sample["lq"].shape == (3, 9, 9)
    assert check_sizes(train(tmp_path), 36) == []


@pytest.mark.parametrize(
    ("gt_size", "message"),
    [
        (64, r"sample 7, .*GT/0\.png: the image has 44x60 pixels, less than a patch of 64"),
        (30, r"sample 7, .*GT/0\.png: a patch of 30 pixels is not divisible by scale 4"),
    ],
)
def test_a_sample_that_cannot_be_made_is_an_error_with_number_and_file(pairs, gt_size, message):
    with pytest.raises(SampleError, match=message):
        train(pairs)[SampleRequest(0, gt_size, 7)]


def test_a_broken_file_is_an_error_with_number_and_file(pairs):
    (pairs / "LQ/3.png").write_bytes(b"broken")
    with pytest.raises(SampleError, match=r"sample 5, .*GT/3\.png: .*LQ/3\.png: cannot be decoded"):
        train(pairs)[SampleRequest(3, 16, 5)]


def test_low_quality_of_another_size_is_an_error_with_both_sizes(pairs):
    with pytest.raises(SampleError, match=r"LQ/0\.png has 11x15 pixels, expected 22x30 pixels: .* by 2"):
        train(pairs, scale=2)[SampleRequest(0, 16, 0)]


def test_the_check_finds_images_smaller_than_the_largest_patch(pairs):
    (problem,) = check_sizes(train(pairs), 48)
    assert problem.key == "datasets.train"
    assert problem.found == (
        "4 images smaller than the largest patch: 0.png (44x60), 4.png (60x44), 5.png (64x40), 6.png (68x36)"
    )
    assert "48x48" in problem.expected


def test_the_check_finds_low_quality_of_another_size(pairs, texture):
    write_image(pairs / "LQ/1.png", texture(12, 15))
    (problem,) = check_sizes(train(pairs), 16)
    assert "1.png (12x15 pixels, ground truth 48x56 pixels)" in problem.found


def test_the_check_finds_unreadable_files(pairs):
    (pairs / "GT/6.png").write_bytes(b"")
    (problem,) = check_sizes(train(pairs), 16)
    assert problem.found.startswith("1 image that cannot be read: ")
    assert "6.png" in problem.found


def test_the_check_lists_no_more_than_five_images(pairs):
    (problem,) = check_sizes(train(pairs), 512)
    assert problem.found.endswith("and 2 more")


def test_a_meta_info_file_limits_training_to_what_it_lists(pairs):
    (pairs / "meta.txt").write_text("5.png (64,40,3)\n1.png (48,56,3)\n")
    dataset = train(pairs, meta_info_file=str(pairs / "meta.txt"))
    assert len(dataset) == 2
    assert dataset[SampleRequest(0, 16, 0)]["lq_path"] == str(pairs / "LQ/5.png")


def test_an_lmdb_gives_the_same_samples_as_its_files(tmp_path, texture):
    gt = texture(200, 240)
    write_image(tmp_path / "GT/a.png", gt)
    write_image(tmp_path / "LQ/a.png", downscale(gt, 2))
    for side in ("GT", "LQ"):
        make_lmdb_from_imgs(str(tmp_path / side), str(tmp_path / f"{side}.lmdb"), ["a.png"], ["a"])
    option = PairedTrain(
        type="PairedImageDataset",
        dataroot_gt=str(tmp_path / "GT.lmdb"),
        dataroot_lq=str(tmp_path / "LQ.lmdb"),
        io_backend={"type": "lmdb"},
    )
    request = SampleRequest(0, 64, 3)
    stored, files = build_train_dataset(option, 2, 0)[request], train(tmp_path, 2)[request]
    assert torch.equal(stored["gt"], files["gt"])
    assert torch.equal(stored["lq"], files["lq"])


def test_an_lmdb_backend_needs_an_lmdb(pairs):
    with pytest.raises(ValueError, match=r"dataroot_gt: io_backend is lmdb, but .*GT does not end in \.lmdb"):
        train(pairs, io_backend={"type": "lmdb"})


@pytest.mark.parametrize("color", [None, "y"])
def test_evaluation_items_equal_basicsrs(pairs, color):
    shutil.copy(pairs / "GT/0.png", pairs / "GT/7.png")
    write_image(pairs / "GT/7.png", read_image(pairs / "GT/0.png")[:43, :59])
    write_image(pairs / "LQ/7.png", read_image(pairs / "LQ/0.png")[:10, :14])
    opt = {
        "dataroot_gt": str(pairs / "GT"),
        "dataroot_lq": str(pairs / "LQ"),
        "io_backend": {"type": "disk"},
        "phase": "val",
        "scale": 4,
        "color": color,
    }
    theirs = {item["gt_path"]: item for item in PairedImageDataset(opt)}
    ours = evaluation(pairs, color=color)
    assert len(ours) == len(theirs) == 8
    for index in range(len(ours)):
        item = ours[index]
        for side in ("gt", "lq"):
            torch.testing.assert_close(item[side], theirs[item["gt_path"]][side], rtol=0, atol=6e-8)


def test_mean_and_std_normalise_both_sides_as_basicsr_does(pairs):
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.5]
    plain, normal = evaluation(pairs)[0], evaluation(pairs, mean=mean, std=std)[0]
    for side in ("gt", "lq"):
        expected = (plain[side] - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        torch.testing.assert_close(normal[side], expected)


def test_means_that_do_not_fit_the_channels_are_an_error(pairs):
    with pytest.raises(ValueError, match="mean has 2 values for images of 3 channels"):
        evaluation(pairs, mean=[0.5, 0.5])[0]


def test_evaluation_without_low_quality_shrinks_the_ground_truth(pairs):
    item = evaluation(pairs, lq=False)[1]
    picture = read_image(pairs / "LQ/1.png").transpose(2, 0, 1).astype(np.float32) / 255
    np.testing.assert_array_equal(item["lq"].numpy(), picture)
    assert (item["index"], item["name"]) == (1, "1")


def test_evaluation_says_which_ground_truth_is_too_small(pairs, texture):
    write_image(pairs / "LQ/2.png", texture(40, 40))
    message = (
        r"image 2, .*GT/2\.png: the image has 52x52 pixels, less than 4 times the 40x40 pixels of .*LQ/2"
    )
    with pytest.raises(SampleError, match=message):
        evaluation(pairs)[2]
    (problem,) = check_sizes(evaluation(pairs), key="datasets.val")
    assert problem.key == "datasets.val"
    assert "2.png (40x40 pixels, ground truth 52x52 pixels)" in problem.found


def test_evaluation_says_which_image_is_smaller_than_the_scale(tmp_path, texture):
    write_image(tmp_path / "GT/a.png", texture(3, 9))
    dataset = evaluation(tmp_path, lq=False)
    with pytest.raises(SampleError, match=r"image 0, .*GT/a\.png: "):
        dataset[0]
    (problem,) = check_sizes(dataset)
    assert problem.found == "1 image smaller than the scale: a.png (3x9)"


def test_ground_truth_may_exceed_low_quality_in_evaluation_only(pairs, texture):
    write_image(pairs / "LQ/2.png", texture(12, 12))
    assert evaluation(pairs)[2]["gt"].shape == (3, 48, 48)
    assert check_sizes(evaluation(pairs)) == []
    assert len(check_sizes(train(pairs), 16)) == 1


def test_the_check_reads_single_images_too(pairs):
    option = SingleKeys(type="SingleImageDataset", dataroot_lq=str(pairs / "LQ"))
    assert check_sizes(build_eval_dataset(option, 4)) == []
    (pairs / "LQ/0.png").write_bytes(b"")
    assert "0.png: cannot be decoded" in check_sizes(build_eval_dataset(option, 4))[0].found


@pytest.mark.parametrize("bits", [8, 16])
def test_values_run_from_0_to_1_whatever_the_bit_depth(tmp_path, bits):
    top = 2**bits - 1
    picture = np.array([[[0, 0, 0], [top, top, top]]], np.uint8 if bits == 8 else np.uint16)
    write_image(tmp_path / "GT/a.png", picture)
    gt = evaluation(tmp_path, 1, lq=False)[0]["gt"]
    assert gt[:, 0, 0].tolist() == [0.0] * 3
    assert gt[:, 0, 1].tolist() == [1.0] * 3


def test_grey_files_give_three_equal_channels_or_one(tmp_path, texture):
    write_image(tmp_path / "GT/a.png", texture(8, 8)[..., 0])
    rgb = evaluation(tmp_path, 2, lq=False)[0]["gt"]
    one = evaluation(tmp_path, 2, lq=False, color="gray")[0]["gt"]
    assert rgb.shape == (3, 8, 8)
    assert one.shape == (1, 8, 8)
    assert torch.equal(rgb, one.expand(3, -1, -1))


def test_a_broken_single_image_is_an_error_with_number_and_file(pairs):
    (pairs / "LQ/2.png").write_bytes(b"broken")
    option = SingleKeys(type="SingleImageDataset", dataroot_lq=str(pairs / "LQ"))
    with pytest.raises(SampleError, match=r"^image 2, [^:]*LQ/2\.png: cannot be decoded"):
        build_eval_dataset(option, 4)[2]


def test_single_images_have_no_ground_truth(pairs):
    option = SingleKeys(type="SingleImageDataset", dataroot_lq=str(pairs / "LQ"))
    item = build_eval_dataset(option, 4)[4]
    assert "gt" not in item
    assert item["lq"].shape == (3, 15, 11)
    assert (item["name"], item["lq_path"]) == ("4", str(pairs / "LQ/4.png"))
