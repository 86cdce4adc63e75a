"""Images travel to the device as the integers they are stored as, and arrive as floats of unchanged bits."""

import numpy as np
import pytest
import torch
from sections import PairedTrain

from basicsr_ext.data import build_train_dataset
from basicsr_ext.data.images import write_image
from basicsr_ext.data.loader import DevicePrefetcher, build_train_loader, collate_train, to_device
from basicsr_ext.data.pixels import Pixels
from basicsr_ext.data.replacing import Replacing
from basicsr_ext.data.sampling import ProgressiveBatchSampler, SampleRequest, Stage

CPU = torch.device("cpu")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def paired(pairs, **keys):
    option = PairedTrain(type="PairedImageDataset", dataroot_gt=str(pairs / "GT"), **keys)
    return build_train_dataset(option, 4, 7)


def stored(pairs, **keys):
    return paired(pairs, dataroot_lq=str(pairs / "LQ"), **keys)


def loaded(dataset, workers=0, count=4):
    sampler = ProgressiveBatchSampler([Stage(count, 16, 2)], len(dataset), 7)
    return list(build_train_loader(dataset, sampler, workers))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_every_value_becomes_the_float_that_numpys_division_gives(kind, device):
    values = np.arange(np.iinfo(kind).max + 1, dtype=kind).reshape(1, -1, 16)
    expected = values.astype(np.float32) / np.float32(np.iinfo(kind).max)
    floats = Pixels(torch.from_numpy(values)).floats(device)
    assert floats.device.type == device
    np.testing.assert_array_equal(floats.cpu().numpy(), expected)


def test_what_is_no_pixel_is_refused():
    with pytest.raises(TypeError, match=r"uint8 or uint16, not torch\.int64"):
        Pixels(torch.zeros(3, 4, 4, dtype=torch.int64))


def test_the_wanted_layout_changes_no_value():
    pixels = Pixels(torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8))
    floats = to_device(pixels, CPU, channels_last=True)
    assert floats.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(floats, to_device(pixels, CPU))


@pytest.mark.parametrize("workers", [0, 1])
def test_stored_pairs_take_a_quarter_of_their_floats_room_on_the_way(pairs, workers):
    dataset = stored(pairs)
    for batch in loaded(dataset, workers):
        arrived = to_device(batch, CPU)
        for side in ("gt", "lq"):
            assert 4 * batch[side].values.nbytes == arrived[side].nbytes
            assert arrived[side].dtype == torch.float32


@pytest.mark.parametrize(
    "keys",
    [{"degradation": [{"type": "downsample"}, {"type": "poisson_noise"}]}, {"mean": [0.5, 0.4, 0.3]}],
)
def test_what_is_computed_in_floats_is_sent_as_floats(pairs, keys):
    (batch, *_) = loaded(paired(pairs, **keys))
    assert batch["lq"].dtype == torch.float32


def test_images_of_several_depths_make_one_batch(pairs, texture):
    for index in (0, 2, 4, 6):
        write_image(pairs / f"GT/{index}.png", texture(40, 52, bits=16))
    dataset = paired(pairs)
    requests = [SampleRequest(index, 16, index) for index in range(4)]
    batch = to_device(collate_train([dataset.compact(request) for request in requests]), CPU)
    for side in ("gt", "lq"):
        assert torch.equal(batch[side], torch.stack([dataset[request][side] for request in requests]))


def test_a_batch_with_replaced_samples_is_sent_as_integers_too(pairs):
    (pairs / "GT/3.png").write_bytes(b"broken")
    dataset = Replacing(stored(pairs), 7)
    sample = dataset.compact(SampleRequest(3, 16, 11))
    assert isinstance(sample["gt"], Pixels)
    assert sample["replaced"]
    assert torch.equal(to_device(sample, CPU)["gt"], dataset[SampleRequest(3, 16, 11)]["gt"])


class OfAPlugIn(torch.utils.data.Dataset):
    """Marks its image; its mask and its label are integers that are no image."""

    def __len__(self):
        return 4

    def __getitem__(self, request):
        image = torch.full((3, 4, 4), 51, dtype=torch.uint8)
        return {"image": Pixels(image), "mask": image[:1], "label": request.index, "k": request.k}


@pytest.mark.parametrize("workers", [0, 1])
def test_integers_that_are_no_image_arrive_as_they_are(workers):
    sampler = ProgressiveBatchSampler([Stage(1, 16, 4)], 4, 0, shuffle=False)
    (batch,) = DevicePrefetcher(build_train_loader(OfAPlugIn(), sampler, workers), "cpu")
    assert torch.equal(batch["image"], torch.full((4, 3, 4, 4), 0.2))
    assert torch.equal(batch["mask"], torch.full((4, 1, 4, 4), 51, dtype=torch.uint8))
    assert torch.equal(batch["label"], torch.arange(4))
