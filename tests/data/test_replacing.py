"""``on_bad_sample: skip``: bad images are replaced, the same way every time, and samples say so."""

from dataclasses import replace

import pytest
import torch
from sections import ForeignTrain, PairedTrain

from basicsr_ext.data import build_train_dataset
from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.data.loader import DevicePrefetcher, build_train_loader
from basicsr_ext.data.replacing import TRIES, Replacing
from basicsr_ext.data.samples import SampleError, SmallImageError
from basicsr_ext.data.sampling import ProgressiveBatchSampler, SampleRequest, Stage

SEED = 7
STAGES = (Stage(6, 16, 4), Stage(6, 24, 2))


def replacing(pairs, **options):
    option = PairedTrain(
        type="PairedImageDataset", dataroot_gt=str(pairs / "GT"), dataroot_lq=str(pairs / "LQ"), **options
    )
    return Replacing(build_train_dataset(option, 4, SEED), SEED)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def batches(dataset, workers=0, start_iter=0):
    sampler = ProgressiveBatchSampler(STAGES, len(dataset), SEED, start_iter=start_iter)
    return list(DevicePrefetcher(build_train_loader(dataset, sampler, workers), "cpu"))


def test_a_bad_image_is_replaced_by_a_crop_of_another_and_the_sample_says_why(pairs):
    truncate(pairs / "GT/3.png")
    sample = replacing(pairs)[SampleRequest(3, 16, 11)]
    assert sample["replaced"].startswith(f"sample 11, {pairs}/GT/3.png: ")
    assert sample["k"] == 11
    taken = int(sample["gt_path"].rpartition("/")[2].removesuffix(".png"))
    assert taken != 3
    plain = replacing(pairs).dataset[SampleRequest(taken, 16, 11)]
    assert torch.equal(sample["gt"], plain["gt"])
    assert torch.equal(sample["lq"], plain["lq"])


def test_an_intact_sample_is_left_as_it_is(pairs):
    request = SampleRequest(2, 16, 5)
    sample, plain = replacing(pairs)[request], replacing(pairs).dataset[request]
    assert sample["replaced"] == ""
    assert torch.equal(sample["gt"], plain["gt"])


def shrink_lq(pairs):
    write_image(pairs / "LQ/3.png", read_image(pairs / "LQ/3.png")[:-1])


def shrink_both(pairs):
    for side, size in (("GT", 12), ("LQ", 3)):
        write_image(pairs / side / "3.png", read_image(pairs / side / "3.png")[:size, :size])


@pytest.mark.parametrize(
    "damage",
    [
        lambda pairs: truncate(pairs / "GT/3.png"),
        lambda pairs: (pairs / "LQ/3.png").write_bytes(b""),
        lambda pairs: (pairs / "LQ/3.png").unlink(),
        shrink_lq,
        shrink_both,
    ],
    ids=["truncated", "empty", "missing", "another size", "too small"],
)
def test_every_kind_of_damage_is_replaced(pairs, damage):
    dataset = replacing(pairs)
    damage(pairs)
    assert dataset[SampleRequest(3, 16, 0)]["replaced"]
    assert not dataset[SampleRequest(2, 16, 0)]["replaced"]


def test_a_missing_lmdb_key_is_replaced(tmp_path, texture):
    import cv2
    import lmdb

    folder = tmp_path / "gt.lmdb"
    database = lmdb.open(str(folder))
    with database.begin(write=True) as transaction:
        transaction.put(b"a", cv2.imencode(".png", texture(32, 32))[1].tobytes())
    database.close()
    (folder / "meta_info.txt").write_text("a.png (32,32,3) 1\nb.png (32,32,3) 1\n")
    option = PairedTrain(
        type="PairedImageDataset",
        dataroot_gt=str(folder),
        io_backend={"type": "lmdb"},  # pyright: ignore
    )
    sample = Replacing(build_train_dataset(option, 4, SEED), SEED)[SampleRequest(1, 16, 0)]
    assert "gt.lmdb/b" in sample["replaced"]
    assert sample["gt_path"].endswith("gt.lmdb/a")


def test_a_data_set_of_basicsr_is_replaced_too(pairs):
    truncate(pairs / "GT/3.png")
    option = ForeignTrain(
        type="RealESRGANPairedDataset", dataroot_gt=str(pairs / "GT"), dataroot_lq=str(pairs / "LQ")
    )
    dataset = Replacing(build_train_dataset(option, 4, SEED), SEED)
    # It lists the folder in the file system's order.
    (reason,) = filter(None, (dataset[SampleRequest(index, 16, 0)]["replaced"] for index in range(7)))
    assert reason.startswith("sample 0, image ")
    assert " of RealESRGANPairedDataset: " in reason


@pytest.mark.parametrize(("workers", "start_iter"), [(2, 0), (0, 5), (2, 5)])
def test_replacements_depend_neither_on_workers_nor_on_a_resume(pairs, workers, start_iter):
    for name in ("GT/1.png", "LQ/4.png"):
        truncate(pairs / name)
    expected = batches(replacing(pairs))[start_iter:]
    found = batches(replacing(pairs), workers, start_iter)
    assert sum(bool(reason) for batch in expected for reason in batch["replaced"]) > 3
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one["replaced"] == other["replaced"]
        assert one["gt_path"] == other["gt_path"]
        assert torch.equal(one["lq"], other["lq"])


def test_a_set_of_bad_images_gives_up_and_names_the_first(pairs):
    for path in (pairs / "GT").iterdir():
        truncate(path)
    with pytest.raises(SampleError, match=rf"sample 8, .*GT/5\.png: .*; none of {TRIES} other images"):
        replacing(pairs)[SampleRequest(5, 16, 8)]


def test_the_same_number_is_replaced_differently_under_another_seed(pairs):
    truncate(pairs / "GT/3.png")

    def taken(seed):
        dataset = Replacing(replacing(pairs).dataset, seed)
        return [dataset[replace(SampleRequest(3, 16, 0), k=k)]["gt_path"] for k in range(20)]

    assert taken(1) == taken(1)
    assert taken(1) != taken(2)


def test_images_replaced_for_their_size_leave_damage_an_error(pairs):
    truncate(pairs / "GT/3.png")
    dataset = Replacing(replacing(pairs).dataset, SEED, SmallImageError)
    assert dataset[SampleRequest(0, 48, 1)]["replaced"].endswith("44x60 pixels, less than a patch of 48")
    with pytest.raises(SampleError, match=r"3\.png"):
        dataset[SampleRequest(3, 48, 2)]
