"""basicsr's and plug-ins' data sets as functions of the sample number."""

import random

import numpy as np
import pytest
import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from sections import ForeignDataset, ForeignTrain

from basicsr_ext.data import build_eval_dataset, build_train_dataset
from basicsr_ext.data.adapter import ForeignEval, IterationPure, foreign_options
from basicsr_ext.data.datasets import check_sizes
from basicsr_ext.data.samples import SampleError
from basicsr_ext.data.sampling import SampleRequest
from basicsr_ext.registry import UnknownTypeError


def foreign(pairs, seed=0, kind="RealESRGANPairedDataset", **keys):
    option = ForeignTrain(type=kind, dataroot_gt=str(pairs / "GT"), dataroot_lq=str(pairs / "LQ"), **keys)
    return build_train_dataset(option, 4, seed)


def basicsrs_own(pairs, seed=0):
    """basicsr's PairedImageDataset, whose name means ours in an option file."""
    option = ForeignTrain(
        type="PairedImageDataset", dataroot_gt=str(pairs / "GT"), dataroot_lq=str(pairs / "LQ")
    )
    return IterationPure(PairedImageDataset(foreign_options(option, 4, "train")), seed)


def test_basicsrs_data_set_depends_on_seed_and_number_alone(pairs):
    first, again, other = basicsrs_own(pairs), basicsrs_own(pairs), basicsrs_own(pairs, 1)
    for index in range(3):
        again[SampleRequest(index, 24, index)]
    random.seed(3)
    requests = [SampleRequest(3, 16, k) for k in range(12)]
    expected = [first[request]["gt"] for request in requests]
    found = [again[request]["gt"] for request in reversed(requests)][::-1]
    assert all(torch.equal(*both) for both in zip(found, expected, strict=True))
    assert not all(
        torch.equal(other[request]["gt"], gt) for request, gt in zip(requests, expected, strict=True)
    )
    assert not torch.equal(expected[0], expected[1])


def test_a_tilde_is_the_home_folder_in_paths_of_basicsrs_data_sets(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    option = {"dataroot_gt": "~/gt", "meta_info_file": "~/list.txt", "name": "~"}
    opt = foreign_options(option, 4, "train")
    assert (opt["dataroot_gt"], opt["meta_info_file"]) == ("/home/me/gt", "/home/me/list.txt")
    assert opt["name"] == "~"


def test_the_patch_size_follows_the_request(pairs):
    dataset = basicsrs_own(pairs)
    for k, size in enumerate((16, 32, 24)):
        sample = dataset[SampleRequest(0, size, k)]
        assert sample["gt"].shape == (3, size, size)
        assert sample["lq"].shape == (3, size // 4, size // 4)
        assert sample["k"] == k


class Keeper(torch.utils.data.Dataset):
    """A plug-in that copies gt_size at construction and draws from every global generator."""

    def __init__(self, opt):
        self.gt_size = opt["gt_size"]

    def __len__(self):
        return 1

    def __getitem__(self, index):
        random.random()
        if index:
            raise KeyError("no such image")
        return {"gt": torch.rand(self.gt_size), "draws": (random.random(), np.random.rand())}


def test_a_patch_size_kept_as_attribute_is_set_too():
    dataset = IterationPure(Keeper({"gt_size": 8}), 0)
    assert dataset[SampleRequest(0, 5, 0)]["gt"].shape == (5,)


def test_every_global_generator_is_seeded_and_put_back():
    dataset = IterationPure(Keeper({"gt_size": 8}), 0)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = dataset[SampleRequest(0, 5, 3)]
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    again = dataset[SampleRequest(0, 5, 3)]
    assert again["draws"] == first["draws"]
    assert torch.equal(again["gt"], first["gt"])


def test_generators_are_put_back_after_an_error_too():
    random.seed(1)
    before = random.getstate()
    with pytest.raises(SampleError):
        IterationPure(Keeper({"gt_size": 8}), 0)[SampleRequest(1, 5, 6)]
    assert random.getstate() == before


def test_an_error_inside_names_the_sample_and_the_data_set():
    with pytest.raises(SampleError, match="sample 6, image 1 of Keeper: KeyError: 'no such image'"):
        IterationPure(Keeper({"gt_size": 8}), 0)[SampleRequest(1, 5, 6)]


def test_basicsrs_usual_keys_are_filled_in(pairs):
    opt = foreign(pairs, gt_size=32, extra={"a": [1]}).dataset.opt
    assert (opt["phase"], opt["scale"], opt["gt_size"]) == ("train", 4, 32)
    assert opt["io_backend"] == {"type": "disk"}
    assert opt["extra"] == {"a": [1]}


def test_a_foreign_type_is_found_in_basicsrs_registry(pairs):
    dataset = foreign(pairs)
    assert type(dataset.dataset).__module__.startswith("basicsr.")
    assert len(dataset) == 7
    assert check_sizes(dataset, 512) == []


def test_a_type_nobody_knows_is_an_error_with_a_suggestion(pairs):
    with pytest.raises(UnknownTypeError, match="did you mean 'PairedImageDataset'"):
        foreign(pairs, kind="PairedImagesDataset")


def test_foreign_evaluation_items_are_numbered_named_and_repeatable(pairs):
    option = ForeignDataset(
        type="RealESRGANPairedDataset", dataroot_gt=str(pairs / "GT"), dataroot_lq=str(pairs / "LQ")
    )
    dataset = build_eval_dataset(option, 4)
    assert isinstance(dataset, ForeignEval)
    item = dataset[3]
    assert item["index"] == 3
    assert item["name"] in {str(index) for index in range(7)}
    noisy = ForeignEval(Keeper({"gt_size": 8}))
    assert torch.equal(noisy[0]["gt"], noisy[0]["gt"])
    assert noisy[0]["name"] == "000000"
