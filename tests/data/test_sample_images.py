"""The bundled photographs."""

import hashlib
import socket
from pathlib import Path

import numpy as np
import pytest
from sections import SampleKeys, SampleTrain

from basicsr_ext.data import build_eval_dataset, build_train_dataset
from basicsr_ext.data.datasets import check_sizes
from basicsr_ext.data.resize import downscale
from basicsr_ext.data.sample_dataset import SPLITS
from basicsr_ext.data.sampling import SampleRequest


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a connection was tried"))


def photographs(split: str):
    return build_eval_dataset(SampleKeys(type="SampleImages", split=split), 4).pairs.gt


@pytest.mark.usefixtures("offline")
def test_all_photographs_are_there_without_a_network():
    for split, files in SPLITS.items():
        source = photographs(split)
        assert len(source) == len(files)
        for index in range(len(source)):
            image = source.read(index)
            assert image.shape == (*source.size(index), 3)
            assert image.dtype == np.uint8
            assert min(image.shape[:2]) >= 256


def test_training_and_validation_share_no_photograph():
    def contents(split: str) -> set[str]:
        source = photographs(split)
        return {
            hashlib.sha256(Path(source.path(index)).read_bytes()).hexdigest() for index in range(len(source))
        }

    assert not contents("train") & contents("val")
    scenes = [{name.split("_")[0].split(".")[0] for name in SPLITS[split]} for split in ("train", "val")]
    assert not scenes[0] & scenes[1]


def test_training_crops_and_validation_images_come_from_their_splits():
    train = build_train_dataset(SampleTrain(type="SampleImages"), 4, 0)
    sample = train[SampleRequest(3, 128, 0)]
    assert sample["gt"].shape == (3, 128, 128)
    assert sample["lq"].shape == (3, 32, 32)
    assert Path(sample["gt_path"]).name in SPLITS["train"]
    assert check_sizes(train, 256) == []
    val = build_eval_dataset(SampleKeys(type="SampleImages", split="val"), 4)
    names = [val[index]["name"] for index in range(len(val))]
    assert names == [Path(file).stem for file in SPLITS["val"]]


def test_low_quality_is_the_photograph_shrunk():
    val = build_eval_dataset(SampleKeys(type="SampleImages", split="val"), 3)
    expected = downscale(val.pairs.gt.read(0), 3)
    found = np.rint(val[0]["lq"].numpy().transpose(1, 2, 0) * 255).astype(np.uint8)
    np.testing.assert_array_equal(found, expected)
