"""Batches: the same for any number of workers and ranks; errors that name the culprit."""

import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from sections import ForeignTrain, GaussianDenoisingTrain, PairedKeys, PairedTrain

from basicsr_ext.data import build_eval_dataset, build_train_dataset, loader
from basicsr_ext.data.loader import DevicePrefetcher, build_eval_loader, build_train_loader
from basicsr_ext.data.samples import SampleError
from basicsr_ext.data.sampling import ProgressiveBatchSampler, Stage

STAGES = (Stage(20, 16, 4), Stage(20, 24, 2), Stage(20, 32, 1))
COUNT = 50


@pytest.fixture(params=["bicubic", "stored", "noise", "degraded", "basicsr"])
def dataset(request, pairs):
    gt, lq = str(pairs / "GT"), str(pairs / "LQ")
    if request.param == "noise":
        option = GaussianDenoisingTrain(
            type="Dataset_GaussianDenoising", dataroot_gt=gt, sigma_type="random", sigma_range=[0, 50]
        )
        return build_train_dataset(option, 1, 7)
    if request.param == "degraded":
        steps = [
            {"type": "blur", "kernel_list": ["iso", "aniso", "sinc"]},
            {"type": "downsample", "modes": ["area", "bilinear", "bicubic"]},
            {"type": "poisson_noise", "gray_prob": 0.5},
        ]
        option = PairedTrain(type="PairedImageDataset", dataroot_gt=gt, degradation=steps)
        return build_train_dataset(option, 4, 7)
    if request.param == "basicsr":
        option = ForeignTrain(type="RealESRGANPairedDataset", dataroot_gt=gt, dataroot_lq=lq)
        return build_train_dataset(option, 4, 7)
    option = PairedTrain(
        type="PairedImageDataset", dataroot_gt=gt, dataroot_lq=lq if request.param == "stored" else None
    )
    return build_train_dataset(option, 4, 7)


def batches(dataset, workers=0, rank=0, world=1, stages=STAGES, count=COUNT, **options):
    sampler = ProgressiveBatchSampler(stages, len(dataset), 7, rank, world, **options)
    loader = DevicePrefetcher(build_train_loader(dataset, sampler, workers), "cpu")
    return [batch for batch, _ in zip(loader, range(count), strict=False)]


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one["k"] == other["k"]
        assert one["gt_path"] == other["gt_path"]
        assert torch.equal(one["gt"], other["gt"])
        assert torch.equal(one["lq"], other["lq"])


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_50_batches_do_not_depend_on_the_number_of_workers(dataset, workers):
    assert_same(batches(dataset, workers), batches(dataset, 0))


def test_the_first_50_batches_of_two_ranks_are_those_of_one_process(dataset):
    wide = [Stage(stage.iters, stage.gt_size, 2 * stage.batch_size) for stage in STAGES]
    ranks = [batches(dataset, rank, rank, 2) for rank in (0, 1)]
    together = [
        {key: torch.cat([a[key], b[key]]) if torch.is_tensor(a[key]) else a[key] + b[key] for key in a}
        for a, b in zip(*ranks, strict=True)
    ]
    assert_same(together, batches(dataset, stages=wide))


def test_a_run_continues_with_the_very_batches_it_was_stopped_before(dataset):
    assert_same(batches(dataset, 1, start_iter=23, count=27), batches(dataset)[23:])


def test_batches_have_their_stages_shapes_from_the_first_iteration_on(pairs):
    option = PairedTrain(type="PairedImageDataset", dataroot_gt=str(pairs / "GT"))
    found = batches(build_train_dataset(option, 4, 0), 2, count=60)
    for iteration, batch in enumerate(found, 1):
        stage = STAGES[(iteration - 1) // 20]
        assert batch["gt"].shape == (stage.batch_size, 3, stage.gt_size, stage.gt_size)
        assert batch["lq"].shape == (stage.batch_size, 3, stage.gt_size // 4, stage.gt_size // 4)
        assert len(batch["k"]) == len(batch["gt_path"]) == stage.batch_size
    assert len(found) == 60


def test_loading_leaves_the_global_generators_alone(dataset):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    batches(dataset, 1, count=3)
    batches(dataset, 0, count=3)
    assert states() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_stops_the_run_with_sample_and_file(pairs, workers):
    (pairs / "GT/3.png").write_bytes(b"broken")
    option = PairedTrain(type="PairedImageDataset", dataroot_gt=str(pairs / "GT"), use_shuffle=False)
    dataset = build_train_dataset(option, 4, 0)
    with pytest.raises(SampleError, match=r"sample 3, .*GT/3\.png: .*cannot be decoded"):
        batches(dataset, workers, shuffle=False)


class Deadly(torch.utils.data.Dataset):
    """Kills the process that asks for sample 9, as the system does when memory runs out."""

    def __len__(self):
        return 4

    def __getitem__(self, request):
        if request.k == 9:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        return {"gt": torch.zeros(1), "lq": torch.zeros(1), "k": request.k}


def test_a_killed_worker_stops_the_run_with_the_sample_it_was_making():
    with pytest.raises(SampleError, match=r"sample 9, image 1: the loader process died; DataLoader worker"):
        batches(Deadly(), 2, shuffle=False)


def test_a_worker_killed_before_its_first_sample_is_an_error_in_words(monkeypatch):
    monkeypatch.setattr(loader, "run_single_threaded", lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(SampleError, match="before its first sample: the loader process died"):
        batches(Deadly(), 1)


class Stubborn(torch.utils.data.Dataset):
    """Sends its process a SIGTERM, as job schedulers do, and never makes sample 5."""

    def __len__(self):
        return 4

    def __getitem__(self, request):
        os.kill(os.getpid(), signal.SIGTERM)
        if request.k == 5:
            time.sleep(3600)
        # What is left of an alarm would end the process later.
        return {"gt": torch.tensor(float(signal.alarm(0))), "lq": torch.zeros(1), "k": request.k}


def test_workers_outlive_sigterm_as_long_as_their_parent_wants_and_no_longer(monkeypatch):
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    sampler = ProgressiveBatchSampler((Stage(20, 16, 1),), 4, 7)
    loader = build_train_loader(Stubborn(), sampler, 1)
    iterator = iter(loader)
    made = [next(iterator) for _ in range(5)]
    assert [batch["gt"].item() for batch in made] == [0.0] * 5
    (worker,) = multiprocessing.active_children()
    iterator.close()
    worker.join(60)
    assert worker.exitcode in (0, -signal.SIGKILL)  # by itself, or because it was too slow at that


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once_over_all_ranks(pairs, world, workers):
    dataset = build_eval_dataset(PairedKeys(type="PairedImageDataset", dataroot_gt=str(pairs / "GT")), 4)
    dataset.num_workers = workers
    seen = []
    for rank in range(world):
        for item in build_eval_loader(dataset, rank, world):
            assert torch.equal(item["gt"][0], dataset[item["index"]]["gt"])
            assert item["lq"].shape[0] == 1
            assert item["name"] == str(item["index"])
            seen.append(item["index"])
    assert sorted(seen) == list(range(7))


class Items:
    """Items to evaluate, made by two processes; 3 cannot be made, or kills its process."""

    num_workers = 2

    def __init__(self, deadly):
        self._deadly = deadly

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 3 and self._deadly:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 3:
            raise SampleError("image 3, 3.png:\nis broken")
        os.kill(os.getpid(), signal.SIGTERM)  # as job schedulers do, to all processes
        return {"process": os.getpid(), "index": index}


@pytest.mark.parametrize(
    ("deadly", "message"),
    [(False, r"^image 3, 3\.png: is broken$"), (True, "item 3: the loader process died; DataLoader worker")],
)
def test_processes_that_make_items_outlive_sigterm_and_name_what_they_cannot_make(deadly, message):
    made = []
    with pytest.raises(SampleError, match=message):
        made.extend(item["process"] for item in build_eval_loader(Items(deadly)))
    assert os.getpid() not in made
    # One that has died is noticed as soon as it is, whatever else is ready.
    assert deadly or len(made) == 3
    assert not {child.pid for child in multiprocessing.active_children()} & set(made)


def test_closing_an_evaluation_ends_its_processes():
    items = iter(build_eval_loader(Items(deadly=False)))
    process = next(items)["process"]
    assert process in {child.pid for child in multiprocessing.active_children()}
    items.close()
    assert process not in {child.pid for child in multiprocessing.active_children()}


def test_no_more_processes_than_items_are_started():
    before = len(multiprocessing.active_children())
    items = iter(build_eval_loader(Items(deadly=False), rank=7, world_size=8))
    assert next(items)["index"] == 7
    assert len(multiprocessing.active_children()) == before + 1
    items.close()


def test_the_prefetcher_passes_batches_through_and_counts_waiting():
    def slow():
        for value in range(3):
            time.sleep(0.05)
            yield {"gt": torch.full((2,), float(value)), "k": [value], "gt_path": ["a"]}

    prefetcher = DevicePrefetcher(slow(), "cpu")
    found = []
    for batch in prefetcher:
        time.sleep(0.1)
        found.append(batch)
    assert [batch["k"] for batch in found] == [[0], [1], [2]]
    assert torch.equal(found[2]["gt"], torch.full((2,), 2.0))
    assert 0.15 <= prefetcher.wait_seconds < 0.3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_prefetcher_moves_tensors_to_the_gpu_and_leaves_the_rest(pairs):
    option = PairedTrain(type="PairedImageDataset", dataroot_gt=str(pairs / "GT"))
    dataset = build_train_dataset(option, 4, 0)
    sampler = ProgressiveBatchSampler(STAGES, len(dataset), 7)
    loader = build_train_loader(dataset, sampler, 2, pin_memory=True)
    here = DevicePrefetcher(build_train_loader(dataset, sampler, 0), "cpu")
    for moved, kept in zip(DevicePrefetcher(loader, "cuda"), here, strict=True):
        assert moved["gt"].is_cuda
        assert moved["k"] == kept["k"]
        assert torch.equal(moved["gt"].cpu(), kept["gt"])
        assert torch.equal(moved["lq"].cpu(), kept["lq"])


class OneChannelLess(torch.utils.data.Dataset):
    """What a plug-in's data set gives for a grey image among coloured ones."""

    def __len__(self):
        return 4

    def __getitem__(self, request):
        lq = torch.zeros(1 if request.k == 5 else 3, 4, 4)
        return {"gt": torch.zeros(3, 4, 4), "lq": lq, "gt_path": f"{request.index}.png", "k": request.k}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_with_other_channels_than_its_batch_is_named(workers):
    message = r"^sample 5, 1\.png: lq has shape \[1, 4, 4\], others of its batch \[3, 4, 4\]$"
    with pytest.raises(SampleError, match=message):
        batches(OneChannelLess(), workers, shuffle=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_message_of_a_broken_file_is_one_line(pairs, workers):
    (pairs / "GT/3.png").write_bytes(b"broken")
    option = PairedTrain(type="PairedImageDataset", dataroot_gt=str(pairs / "GT"))
    with pytest.raises(SampleError) as caught:
        batches(build_train_dataset(option, 4, 0), workers, shuffle=False)
    assert str(caught.value).startswith(f"sample 3, {pairs}/GT/3.png: ")
    assert len(str(caught.value).splitlines()) == 1


def test_closing_an_unfinished_stream_ends_the_workers(dataset):
    before = set(multiprocessing.active_children())
    sampler = ProgressiveBatchSampler(STAGES, len(dataset), 7)
    stream = iter(DevicePrefetcher(build_train_loader(dataset, sampler, 2), "cpu"))
    next(stream)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    stream.close()
    assert not any(worker.is_alive() for worker in workers)


def test_a_loader_can_be_gone_through_again(dataset):
    sampler = ProgressiveBatchSampler(STAGES[:1], len(dataset), 7)
    loader = build_train_loader(dataset, sampler, 1)
    assert_same(*(list(DevicePrefetcher(loader, "cpu")) for _ in range(2)))
