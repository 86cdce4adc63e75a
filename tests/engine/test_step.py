"""What an iteration does to weights, by plain gradient descent: Adam's steps hide a gradient's length."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from helpers import same_bits, tiny_options
from test_parameters import SGD, changes
from torch import distributed, nn

from basicsr_ext import load_options
from basicsr_ext.data.loader import to_device
from basicsr_ext.engine.build import build_parts
from basicsr_ext.engine.checkpoint import Checkpointer
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.ema import WeightAverage
from basicsr_ext.engine.precision import Stepper, build_optimizer, choose_algorithms, find_optimizer
from basicsr_ext.engine.preflight.rehearsal import stage_batch
from basicsr_ext.engine.step import TrainingStep
from basicsr_ext.engine.trainer import Trainer
from basicsr_ext.registry import UnknownTypeError

NETWORK = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}


def small_options(folder, batch=4, **train):
    """Return options for four iterations of a small convolutional network by gradient descent."""
    options = tiny_options(folder, **{"optim_g": SGD, "ema_decay": 0, "total_iter": 4, **train})
    options["network_g"] = NETWORK
    options["datasets"]["train"]["stages"] = [{"iters": 4, "gt_size": 16, "batch_size_per_gpu": batch}]
    return options


def trainer_of(options, checkpoint=None, world=None):
    options = load_options(options)
    return Trainer(options, build_parts(options, 1, training=True), world or World(), checkpoint)


def length(tensors):
    return float(nn.utils.get_total_norm(list(tensors)))


@pytest.mark.parametrize(
    ("amp", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_networks_compute_in_the_precision_asked_for_and_keep_their_weights_in_float32(tmp_path, amp, dtype):
    trainer = trainer_of(small_options(tmp_path, amp=amp))
    network, seen = trainer.step.networks["net_g"], []
    network.conv_first.register_forward_hook(lambda module, args, result: seen.append(result.dtype))
    trainer.train_step()
    assert seen == [dtype]
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("amp", ["no", "fp16"])
@pytest.mark.parametrize(
    ("keys", "limit"), [({"grad_clip_norm": 1e-3}, 1e-3), ({"use_grad_clip": True}, 0.01), ({}, None)]
)
def test_clipping_shortens_the_step_and_not_the_norm_that_is_logged(tmp_path, amp, keys, limit):
    strong = {"pixel_opt": {"type": "L1Loss", "loss_weight": 10.0}}
    trainer = trainer_of(small_options(tmp_path, amp=amp, **strong, **keys))
    change = length(changes(trainer).values())
    norm = float(trainer._last.norms["grad_norm"])
    assert norm > 0.05
    assert change / SGD["lr"] == pytest.approx(limit or norm, rel=1e-3)


@pytest.mark.parametrize("deterministic", [True, False])
def test_algorithms_are_deterministic_or_the_fastest(deterministic):
    before = torch.backends.cudnn.benchmark
    try:
        choose_algorithms(deterministic)
        assert torch.are_deterministic_algorithms_enabled() is deterministic
        assert torch.backends.cudnn.benchmark is not deterministic
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize(
    ("name", "device", "fused"),
    [("AdamW", "cuda", True), ("AdamW", "cpu", None), ("Rprop", "cuda", None)],
)
def test_optimizers_that_have_a_fused_kernel_use_it_on_gpus(name, device, fused):
    optimizer = build_optimizer(name, [nn.Parameter(torch.ones(2))], torch.device(device), lr=0.1)
    assert optimizer.defaults.get("fused") is fused


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("amp", ["no", "fp16"])
def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_moments(amp, fused):
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=fused)
    stepper = Stepper(optimizer, amp, torch.device("cpu"))
    for factor, good in ((1.0, True), (torch.inf, False), (torch.nan, False)):
        before, moments = parameter.clone(), copy.deepcopy(optimizer.state_dict())
        stepper.backward((parameter * factor).sum())
        norm, finite = stepper.step()
        assert bool(finite) is bool(norm.isfinite()) is good
        assert torch.equal(parameter, before) is not good
        assert same_bits(optimizer.state_dict(), moments) is not good
        assert parameter.grad is None
    # Without loss scaling, a fused kernel is told on the device: looking at the verdict would wait for it.
    assert hasattr(optimizer, "found_inf") is (fused and amp == "no")


@pytest.mark.parametrize("name", ["AdmW", "nowhere.AdamW", "torch.optim.nothing", "torch.nn.Linear"])
def test_what_is_no_optimizer_is_unknown(name):
    with pytest.raises(UnknownTypeError):
        find_optimizer(name)


def test_micro_batches_move_the_weights_as_one_batch_of_all_their_samples(tmp_path):
    whole = trainer_of(small_options(tmp_path / "whole", batch=4))
    parts = trainer_of(small_options(tmp_path / "parts", batch=2, grad_accum=2))
    expected, found = changes(whole), changes(parts)
    for name, change in expected.items():
        torch.testing.assert_close(found[name], change, rtol=1e-3, atol=1e-8)
    for name, loss in whole._last.losses.items():
        torch.testing.assert_close(parts._last.losses[name], loss)


@pytest.fixture
def group_of_one():
    """Join a process group in which this process is alone, so that ranks can be played one by one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_ranks_exchange_gradients_once_an_iteration_and_those_of_all_micro_batches(tmp_path):
    options = load_options(small_options(tmp_path, batch=2, grad_accum=3))
    parts = build_parts(options, 1, training=True)
    step = TrainingStep(options, parts.networks, World(size=2), shapes=1)
    batch = to_device(stage_batch(step.kind, parts.train_set, parts.stages[0], copies=0), torch.device("cpu"))
    micro, exchanged = [], []
    losses = step.kind.losses
    step.kind.losses = lambda *arguments: micro.append(1) or losses(*arguments)

    def exchange(state, bucket):
        exchanged.append((len(micro), bucket.buffer().clone()))
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    step._parallel["net_g"].register_comm_hook(None, exchange)
    norm = step.run(1, [batch] * 3, 3).norms["grad_norm"]
    assert {number for number, _ in exchanged} == {3}
    assert length(gradient for _, gradient in exchanged) == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.usefixtures("group_of_one")
def test_buckets_take_their_order_before_the_first_iteration_and_nothing_else_changes(tmp_path):
    options = load_options(small_options(tmp_path))
    parts = build_parts(options, 1, training=True)
    network, passed = parts.networks["net_g"], []
    network.conv_first = nn.Sequential(network.conv_first, nn.BatchNorm2d(4), nn.Dropout(0.5))
    step = TrainingStep(options, parts.networks, World(size=2), shapes=1)
    batch = to_device(stage_batch(step.kind, parts.train_set, parts.stages[0], copies=0), torch.device("cpu"))
    for parameter in network.parameters():
        parameter.register_post_accumulate_grad_hook(passed.append)
    state, random_numbers = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    step.order_buckets(batch)
    assert len(passed) == len(list(network.parameters()))
    assert same_bits(dict(network.state_dict()), dict(state))
    assert torch.equal(torch.get_rng_state(), random_numbers)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.usefixtures("group_of_one")
def test_ranks_draw_different_random_numbers(tmp_path):
    drawn = []
    for rank in (0, 1, 0):
        trainer_of(small_options(tmp_path), world=World(rank, 2))
        drawn.append(torch.rand(()).item())
    assert drawn[0] == drawn[2] != drawn[1]


def test_an_average_follows_the_weights_and_takes_buffers_as_they_are():
    network = nn.BatchNorm2d(2)
    average = WeightAverage(network, decay=0.75)
    with torch.no_grad():
        network.weight.fill_(5)
    network(torch.rand(4, 2, 3, 3))
    buffers = copy.deepcopy(dict(network.named_buffers()))
    average.update()
    torch.testing.assert_close(average.network.weight, torch.full((2,), 0.75 * 1 + 0.25 * 5))
    assert same_bits(dict(network.named_buffers()), buffers)
    assert same_bits(dict(average.network.named_buffers()), buffers)
    assert not average.network.training
    assert not average.network.weight.requires_grad


def test_the_average_takes_every_step_once(tmp_path):
    trainer = trainer_of(small_options(tmp_path, ema_decay=0.5))
    network = trainer.step.networks["net_g"]
    expected = copy.deepcopy(network.state_dict())
    for _ in range(3):
        trainer.train_step()
        for name, value in network.state_dict().items():
            expected[name] = 0.5 * expected[name] + 0.5 * value
    trainer._conclude_step()
    trainer._conclude_step()
    for name, value in trainer.step.averages["net_g"].network.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_a_resumed_run_goes_on_with_loss_scale_random_numbers_and_best_scores(tmp_path):
    options = small_options(tmp_path, amp="fp16")
    trainer_of(options).train()
    checkpoint = Checkpointer(tmp_path).load(4)
    checkpoint.state["scalers"]["g"]["scale"] = 32.0
    torch.manual_seed(77)
    checkpoint.state["random"][0]["torch"] = drawn_so_far = torch.get_rng_state()
    torch.manual_seed(99)
    best = {"photos": {"psnr": {"value": 99.0, "iteration": 2}}}
    checkpoint.state["best"] = copy.deepcopy(best)
    options["train"]["total_iter"] = options["datasets"]["train"]["stages"][0]["iters"] = 5
    weights = (tmp_path / "models/net_g_best.pth").read_bytes()
    resumed = trainer_of(options, checkpoint)
    assert resumed.step.state()["scalers"]["g"]["scale"] == 32
    assert torch.equal(torch.get_rng_state(), drawn_so_far)
    assert resumed.train().best == best
    assert (tmp_path / "models/net_g_best.pth").read_bytes() == weights


def test_what_is_done_every_so_often_is_done_after_the_last_iteration_too(tmp_path):
    options = small_options(tmp_path)
    options["val"] |= {"val_freq": 3, "save_img": True}
    options["logger"] |= {"print_freq": 3, "save_checkpoint_freq": 3}
    trainer_of(options).train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    moments = [(line["kind"], line["iteration"]) for line in lines]
    assert moments == [(kind, iteration) for iteration in (3, 4) for kind in ("train", "val/photos")]
    assert Checkpointer(tmp_path).iterations() == [3, 4]
    stems = {path.stem.rpartition("_")[2] for path in (tmp_path / "visualization/photos").iterdir()}
    assert stems == {"3", "4"}


def test_a_run_keeps_as_many_checkpoints_as_asked_for_and_no_pictures_unasked(tmp_path):
    options = small_options(tmp_path)
    options["logger"] |= {"save_checkpoint_freq": 1, "keep_checkpoints": 2}
    trainer_of(options).train()
    assert Checkpointer(tmp_path).iterations() == [3, 4]
    assert not (tmp_path / "visualization").exists()
