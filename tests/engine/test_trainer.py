"""One training run, in this process: stages, accumulation, precision, resume, broken numbers."""

import json
from functools import partial

import pytest
import torch
from helpers import same_bits, tiny_options

from basicsr_ext import load_options, train
from basicsr_ext.config import OptionError
from basicsr_ext.data.sampling import Stage
from basicsr_ext.engine.build import build_parts
from basicsr_ext.engine.checkpoint import Checkpointer
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.resume import keep_global_batch
from basicsr_ext.engine.trainer import NonFiniteError, Trainer
from basicsr_ext.engine.validator import Evaluation


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


def test_batches_change_size_exactly_at_the_stage_boundaries(tmp_path):
    trainer = make_trainer(tiny_options(tmp_path))
    shapes = []
    losses = trainer.kind.losses
    trainer.kind.losses = lambda phase, networks, batch, earlier: (
        shapes.append((tuple(batch["lq"].shape), tuple(batch["gt"].shape)))
        or losses(phase, networks, batch, earlier)
    )
    trainer.train()
    small, middle, large = (((n, 3, s // 2, s // 2), (n, 3, s, s)) for n, s in ((4, 16), (2, 32), (2, 48)))
    assert shapes == [small] * 3 + [middle] * 2 + [large] * 3


def test_a_run_leaves_weights_state_log_and_scores(tmp_path):
    summary = train(load_options(tiny_options(tmp_path)))
    names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {
        f"{tmp_path.name}.yml",
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


@pytest.mark.parametrize(("print_freq", "lost"), [(1, ""), (100, "metrics.jsonl")])
def test_a_run_whose_folder_or_log_is_deleted_ends_with_an_error(tmp_path, monkeypatch, print_freq, lost):
    options = tiny_options(tmp_path / "run")
    options["logger"] |= {"print_freq": print_freq, "save_checkpoint_freq": 3}
    step = Trainer.train_step

    def train_step(self):
        step(self)
        if self.iteration == 2:
            (tmp_path / "run" / lost).rename(tmp_path / "elsewhere")

    monkeypatch.setattr(Trainer, "train_step", train_step)
    with pytest.raises(FileNotFoundError, match=r"run/metrics.jsonl was deleted or moved"):
        train(load_options(options))
    assert not (tmp_path / "run/training_states").exists()


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
    for key in ("optimizers", "scalers", "random", "best"):
        assert same_bits(a.state[key], b.state[key]), key
    assert losses_of(whole) == losses_of(resumed)


def test_the_manifest_tells_runs_of_other_options_apart(tmp_path):
    def digest(folder, **changed):
        train(load_options({**tiny_options(tmp_path / "run"), **changed}), auto_resume=True)
        manifest = json.loads((tmp_path / "run/training_states/8.json").read_text())
        (tmp_path / "run").rename(tmp_path / folder)
        return manifest["options_sha256"]

    assert digest("first") == digest("again") != digest("other", manual_seed=4)


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


def test_every_stage_may_accumulate_micro_batches_of_its_own(tmp_path):
    whole, parts = tiny_options(tmp_path / "whole"), tiny_options(tmp_path / "parts", grad_accum=[4, 1, 2])
    for stage, count in zip(parts["datasets"]["train"]["stages"], (4, 1, 2), strict=True):
        stage["batch_size_per_gpu"] //= count
    train(load_options(whole))
    train(load_options(parts))
    assert losses_of(tmp_path / "parts") == pytest.approx(losses_of(tmp_path / "whole"), rel=1e-4)
    batches = final_checkpoint(tmp_path / "whole").state["global_batches"]
    assert final_checkpoint(tmp_path / "parts").state["global_batches"] == batches


def test_there_is_one_number_of_micro_batches_or_one_a_stage(tmp_path):
    with pytest.raises(
        OptionError, match=r"train\.grad_accum: found the list \[1, 2\], .* one for each of 3"
    ):
        load_options(tiny_options(tmp_path, grad_accum=[1, 2]))


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
    [{"amp": "bf16"}, {"amp": "fp16"}, {"channels_last": True}, {"deterministic": True}],
    ids=lambda keys: "-".join(map(str, *keys.items())),
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


@pytest.mark.slow
def test_a_compiled_run_specialises_on_every_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    options = tiny_options(tmp_path, compile=True, total_iter=12)
    options["datasets"]["train"]["stages"] = [
        {"iters": 1, "gt_size": 16 * number, "batch_size_per_gpu": 1} for number in range(1, 13)
    ]
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True, recompile_limit=8):
        assert train(load_options(options)).iteration == 12


def poison(trainer, iteration):
    """Make the loss of one iteration infinite."""
    healthy = trainer.kind.losses

    def poisoned(phase, networks, batch, earlier):
        losses = healthy(phase, networks, batch, earlier)
        if trainer.iteration + 1 == iteration:
            losses["l_pix"] = losses["l_pix"] * float("inf")
        return losses

    trainer.kind.losses = poisoned


def test_a_non_finite_loss_stops_the_run_before_it_reaches_the_weights(tmp_path):
    trainer = make_trainer(tiny_options(tmp_path))
    poison(trainer, 6)
    with pytest.raises(NonFiniteError, match="iteration 6 is not finite"):
        trainer.train()
    assert all(torch.isfinite(value).all() for value in trainer.step.networks["net_g"].state_dict().values())


def test_a_stopped_run_leaves_the_offending_batch_and_a_checkpoint_from_before_the_step(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(load_options(everything_random(whole)))
    trainer = make_trainer(everything_random(stopped))
    poison(trainer, 6)
    with pytest.raises(NonFiniteError):
        trainer.train()
    batches = torch.load(stopped / "bad_batch_6_rank0.pth", weights_only=True)
    assert [tuple(batch["gt"].shape) for batch in batches] == [(2, 3, 48, 48)] * 2
    assert Checkpointer(stopped).iterations()[-1] == 5
    # Without the poison, the run goes on as if nothing had happened.
    train(load_options(everything_random(stopped)), auto_resume=True)
    assert same_bits(final_checkpoint(whole).networks, final_checkpoint(stopped).networks)


def test_a_loss_that_is_infinite_with_a_finite_gradient_is_noticed_too(tmp_path):
    trainer = make_trainer(tiny_options(tmp_path))
    losses = trainer.kind.losses
    trainer.kind.losses = lambda *arguments: {
        name: value + float("inf") for name, value in losses(*arguments).items()
    }
    with pytest.raises(NonFiniteError, match="iteration 1 is not finite"):
        trainer.train()


def test_skipping_gives_up_after_too_many_steps_in_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr("basicsr_ext.engine.trainer.MAX_SKIPPED", 3)
    trainer = make_trainer(tiny_options(tmp_path, nan_policy="skip"))
    for iteration in (2, 4, 5, 6, 7):
        poison(trainer, iteration)
    with pytest.raises(NonFiniteError, match="iteration 7 is not finite, like those of 3 iterations before"):
        trainer.train()


def test_a_non_finite_loss_can_be_skipped(tmp_path):
    trainer = make_trainer(tiny_options(tmp_path, nan_policy="skip"))
    poison(trainer, 6)
    assert trainer.train().iteration == 8
    steps = {int(state["step"]) for state in trainer.step.optimizers["optim_g"].state.values()}
    assert steps == {7}
    assert all(
        torch.isfinite(value).all() for value in trainer.step.averages["net_g"].network.state_dict().values()
    )


def test_two_deterministic_runs_are_the_same_to_the_bit(tmp_path):
    try:
        for name in ("one", "two"):
            options = everything_random(tmp_path / name)
            options["train"]["deterministic"] = True
            train(load_options(options))
    finally:
        torch.use_deterministic_algorithms(False)
    assert same_bits(final_checkpoint(tmp_path / "one").networks, final_checkpoint(tmp_path / "two").networks)


def test_another_number_of_ranks_keeps_the_samples_per_iteration_where_they_can_be_shared():
    stages = (Stage(10, 16, 4), Stage(10, 32, 3))
    assert keep_global_batch(stages, former=[8, 6], ranks=1) == (Stage(10, 16, 8), Stage(10, 32, 6))
    assert keep_global_batch(stages, former=[8, 6], ranks=4) == (Stage(10, 16, 2), Stage(10, 32, 3))
    halves = (Stage(10, 16, 2, 2), Stage(10, 32, 1, 2))
    assert keep_global_batch(halves, former=[8, 6], ranks=2) == (Stage(10, 16, 2, 2), Stage(10, 32, 1, 2))
    assert keep_global_batch(halves, former=[8, None], ranks=1) == (Stage(10, 16, 4, 2), Stage(10, 32, 1, 2))


def test_a_first_score_that_is_no_number_is_beaten_by_the_next_one(tmp_path):
    trainer = make_trainer(tiny_options(tmp_path))
    assert not trainer._keep_best("photos", Evaluation({"psnr": float("nan")}))
    assert trainer._keep_best("photos", Evaluation({"psnr": 20.0}))
    assert not trainer._keep_best("photos", Evaluation({"psnr": float("nan")}))
    assert trainer.best["photos"]["psnr"]["value"] == 20


def test_a_save_that_fails_ends_the_run_and_leaves_earlier_checkpoints(tmp_path):
    trainer = make_trainer(tiny_options(tmp_path))
    save = trainer.checkpointer.save

    def fill_the_disk(iteration, networks, state):
        if iteration == 8:
            trainer.checkpointer.finish()
            (tmp_path / "models").rename(tmp_path / "kept")
            (tmp_path / "models").touch()  # no folder any more: nothing can be written there
        save(iteration, networks, state)

    trainer.checkpointer.save = fill_the_disk
    with pytest.raises(OSError, match="models"):
        trainer.train()
    (tmp_path / "models").unlink()
    (tmp_path / "kept").rename(tmp_path / "models")
    assert Checkpointer(tmp_path).newest()[0].iteration == 4
