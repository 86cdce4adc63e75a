"""One training run, in this process: stages, accumulation, precision, resume, broken numbers."""

import json

import pytest
import torch
from helpers import tiny_options

from basicsr_ext import load_options, train
from basicsr_ext.config import OptionError
from basicsr_ext.engine.build import build_parts
from basicsr_ext.engine.checkpoint import Checkpointer
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.trainer import NonFiniteError, Trainer


def make_trainer(options, checkpoint=None):
    options = load_options(options)
    return Trainer(options, build_parts(options, 1, training=True), World(), checkpoint)


def metrics_of(folder, kind="train"):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def losses_of(folder):
    return [line["l_pix"] for line in metrics_of(folder)]


def final_checkpoint(folder, iteration=8):
    return Checkpointer(folder).load(iteration)


def same_bits(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_bits, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return a == b


def test_batches_change_size_exactly_at_the_stage_boundaries(tmp_path):
    trainer = make_trainer(tiny_options(tmp_path))
    shapes = []
    step = trainer.model.training_step
    trainer.model.training_step = lambda forward, batch: (
        shapes.append((tuple(batch["lq"].shape), tuple(batch["gt"].shape))) or step(forward, batch)
    )
    trainer.train()
    small, middle, large = (((n, 3, s // 2, s // 2), (n, 3, s, s)) for n, s in ((4, 16), (2, 32), (2, 48)))
    assert shapes == [small] * 3 + [middle] * 2 + [large] * 3


def test_a_run_leaves_weights_state_log_and_scores(tmp_path):
    summary = train(load_options(tiny_options(tmp_path)))
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {
        "tiny.yml",
        "metrics.jsonl",
        "models/net_g_4.pth",
        "models/net_g_8.pth",
        "models/net_g_latest.pth",
        "models/net_g_best.pth",
        "training_states/8.state",
    } <= names
    assert summary.iteration == 8
    assert summary.best["photos"]["psnr"]["value"] == metrics_of(tmp_path, "val/photos")[-1]["psnr"]
    assert [line["iteration"] for line in metrics_of(tmp_path)] == list(range(1, 9))
    assert [line["gt_size"] for line in metrics_of(tmp_path)] == [16] * 3 + [32] * 2 + [48] * 3


def everything_random(folder):
    """Return options in which dropout, mixing, accumulation and averaging all play a part."""
    options = tiny_options(
        folder,
        grad_accum=2,
        grad_clip_norm=0.5,
        mixing_augs={"mixup": True},
        optim_g={"type": "AdamW", "lr": 1e-3},
    )
    options["network_g"]["drop_path_rate"] = 0.5
    return options


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(load_options(everything_random(whole)))

    interrupted = make_trainer(everything_random(resumed))
    save = interrupted.save

    def save_then_die():
        save()
        raise KeyboardInterrupt

    interrupted.save = save_then_die
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    torch.manual_seed(99)  # another process would not have these generators either
    options = everything_random(resumed)
    options["datasets"]["train"]["num_worker_per_gpu"] = 2
    train(load_options(options), auto_resume=True)

    a, b = final_checkpoint(whole), final_checkpoint(resumed)
    assert same_bits(a.networks, b.networks)
    for key in ("optimizers", "scaler", "random", "best"):
        assert same_bits(a.state[key], b.state[key]), key
    assert losses_of(whole) == losses_of(resumed)


def test_auto_resume_without_a_checkpoint_starts_from_the_beginning(tmp_path):
    assert train(load_options(tiny_options(tmp_path)), auto_resume=True).iteration == 8


def test_resume_state_continues_a_run_from_the_named_checkpoint(tmp_path):
    train(load_options(tiny_options(tmp_path)))
    whole = final_checkpoint(tmp_path)
    options = tiny_options(tmp_path)
    options["path"]["resume_state"] = str(tmp_path / "training_states/4.state")
    train(load_options(options))
    assert same_bits(whole.networks, final_checkpoint(tmp_path).networks)
    assert [line["iteration"] for line in metrics_of(tmp_path)] == list(range(1, 9))


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_was(tmp_path):
    train(load_options(tiny_options(tmp_path)))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(OptionError, match=r"--auto_resume, or archive it: mv "):
        train(load_options(tiny_options(tmp_path)))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_accumulating_two_micro_batches_equals_one_batch_of_both(tmp_path):
    whole = tiny_options(tmp_path / "whole")
    halves = tiny_options(tmp_path / "halves", grad_accum=2)
    for stage in halves["datasets"]["train"]["stages"]:
        stage["batch_size_per_gpu"] //= 2
    train(load_options(whole))
    train(load_options(halves))
    assert losses_of(tmp_path / "halves") == pytest.approx(losses_of(tmp_path / "whole"), rel=1e-4)


def test_batch_size_total_is_shared_over_micro_batches(tmp_path):
    options = tiny_options(tmp_path, grad_accum=2)
    for stage in options["datasets"]["train"]["stages"]:
        stage["batch_size_total"] = stage.pop("batch_size_per_gpu")
    assert [stage.batch_size for stage in make_trainer(options).stages] == [2, 1, 1]


def test_batch_size_total_that_cannot_be_shared_is_one_problem_a_stage(tmp_path):
    options = tiny_options(tmp_path, grad_accum=3)
    for stage in options["datasets"]["train"]["stages"]:
        stage["batch_size_total"] = stage.pop("batch_size_per_gpu")
    with pytest.raises(OptionError) as caught:
        make_trainer(options)
    assert str(caught.value).count("a multiple of 3 (1 processes x train.grad_accum 3)") == 3


@pytest.mark.parametrize(
    "train_keys",
    [{"amp": "bf16"}, {"channels_last": True}, {"deterministic": True}],
    ids=lambda keys: next(iter(keys)),
)
def test_training_modes_stay_near_the_plain_run(tmp_path, train_keys):
    train(load_options(tiny_options(tmp_path / "plain")))
    try:
        train(load_options(tiny_options(tmp_path / "mode", **train_keys)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert losses_of(tmp_path / "mode") == pytest.approx(losses_of(tmp_path / "plain"), rel=0.05)


@pytest.mark.slow
def test_a_compiled_run_equals_the_plain_one_to_rounding(tmp_path):
    train(load_options(tiny_options(tmp_path / "plain")))
    train(load_options(tiny_options(tmp_path / "compiled", compile=True)))
    assert losses_of(tmp_path / "compiled") == pytest.approx(losses_of(tmp_path / "plain"), rel=1e-3)


def poison(trainer, iteration):
    """Make the loss of one iteration infinite."""
    step = trainer.model.training_step

    def poisoned(forward, batch):
        losses = step(forward, batch)
        if trainer.iteration + 1 == iteration:
            losses["l_pix"] = losses["l_pix"] * float("inf")
        return losses

    trainer.model.training_step = poisoned


def test_a_non_finite_loss_stops_the_run_before_it_reaches_the_weights(tmp_path):
    trainer = make_trainer(tiny_options(tmp_path))
    poison(trainer, 6)
    with pytest.raises(NonFiniteError, match="up to iteration 6"):
        trainer.train()
    assert all(torch.isfinite(value).all() for value in trainer.model.network.state_dict().values())


def test_a_non_finite_loss_can_be_skipped(tmp_path):
    trainer = make_trainer(tiny_options(tmp_path, nan_policy="skip"))
    poison(trainer, 6)
    assert trainer.train().iteration == 8
    steps = {int(state["step"]) for state in trainer.stepper.optimizer.state.values()}
    assert steps == {7}
    assert all(torch.isfinite(value).all() for value in trainer.average.network.state_dict().values())
