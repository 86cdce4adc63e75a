"""docs/data_at_scale.md: its plug-in example works, and obeys the rules of our own data sets."""

import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sections import ForeignTrain

from basicsr_ext.data import build_train_dataset
from basicsr_ext.data.images import write_image
from basicsr_ext.data.loader import DevicePrefetcher, build_train_loader
from basicsr_ext.data.resize import downscale
from basicsr_ext.data.sampling import ProgressiveBatchSampler, SampleRequest, Stage

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data_at_scale.md"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The page's example, imported as ``plugins: [tar_images]`` would."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "tar_images.py").write_text(code, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield __import__("tar_images")


@pytest.fixture
def shards(tmp_path, texture) -> Path:
    """Two shards as WebDataset writes them: an image and a label a sample."""
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard:05d}.tar", "w") as tar:
            for number in range(3):
                write_image(tmp_path / f"{shard}{number}.png", texture(40, 48, 3 * shard + number))
                (tmp_path / f"{shard}{number}.cls").write_text("7")
                for suffix in ("png", "cls"):
                    tar.add(tmp_path / f"{shard}{number}.{suffix}", f"{shard}{number}.{suffix}")
    return tmp_path


@pytest.fixture
def dataset(plugin, shards):
    return build_train_dataset(ForeignTrain(type="TarImages", dataroot_gt=str(shards)), 2, 3)


def test_the_example_reads_every_image_of_the_shards(dataset, texture):
    assert len(dataset) == 6
    for index in range(6):
        crop = dataset[SampleRequest(index, 32, 9)]["gt"].numpy().transpose(1, 2, 0)
        crop = np.rint(crop * 255).astype(np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(texture(40, 48, index), crop.shape)
        assert any((windows == one).all(axis=(-3, -2, -1)).any() for one in (crop, crop[:, ::-1]))


def test_its_low_quality_is_what_a_folders_would_be(dataset):
    sample = dataset[SampleRequest(2, 40, 9)]
    gt, lq = (
        np.rint(sample[side].numpy().transpose(1, 2, 0) * 255).astype(np.uint8) for side in ("gt", "lq")
    )
    # Away from the border, where the whole image would have been seen beyond the crop.
    np.testing.assert_array_equal(downscale(gt, 2)[4:-4, 4:-4], lq[4:-4, 4:-4])


def test_its_batches_do_not_depend_on_workers_or_interruptions(dataset):
    def batches(workers, start=0):
        sampler = ProgressiveBatchSampler([Stage(6, 16, 2), Stage(6, 32, 1)], 6, 3, start_iter=start)
        return list(DevicePrefetcher(build_train_loader(dataset, sampler, workers), "cpu"))

    expected = batches(0)
    for found in (batches(2), [*expected[:5], *batches(1, 5)]):
        assert all(torch.equal(one["lq"], other["lq"]) for one, other in zip(found, expected, strict=True))
