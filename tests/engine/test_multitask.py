"""Several tasks at once: gradients, data of each, resumes, scores, what a file must say."""

from __future__ import annotations

import pytest
import torch
from helpers import same_bits, tiny_options

from basicsr_ext import load_options, train
from basicsr_ext import test as evaluate
from basicsr_ext.config import OptionError
from basicsr_ext.data.loader import to_device
from basicsr_ext.data.sampling import SampleRequest
from basicsr_ext.engine.build import build_parts
from basicsr_ext.engine.checkpoint import Checkpointer
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.logger import LOG, RunLogger
from basicsr_ext.engine.preflight.rehearsal import stage_batch
from basicsr_ext.engine.trainer import Trainer
from basicsr_ext.engine.validator import Evaluation


def options(folder, **changes):
    written = tiny_options(folder)
    del written["scale"]
    written["model_type"] = "MultiTaskModel"
    written["tasks"] = [{"name": "sr_x2"}, {"name": "dn_g25", "weight": 0.5}]
    written["network_g"] |= {"scales": [2], "noise_levels": [25], "depth": 1}
    for stage in written["datasets"]["train"]["stages"]:
        stage["gt_size"] *= 2
    return {**written, **changes}


def trainer(written, checkpoint=None):
    loaded = load_options(written)
    return Trainer(loaded, build_parts(loaded, 1, training=True), World(), checkpoint)


def gradients(run, losses):
    network = run.kind.networks["net_g"]
    network.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def batch_of_first_stage(run, parts):
    return to_device(stage_batch(run.kind, parts.train_set, run.stages[0], copies=0), torch.device("cpu"))


def test_gradients_of_the_joint_step_are_the_weighted_sum_of_the_tasks_own(tmp_path):
    loaded = load_options(options(tmp_path))
    parts = build_parts(loaded, 1, training=True)
    run = Trainer(loaded, parts, World(), None)
    batch, network = batch_of_first_stage(run, parts), run.kind.networks["net_g"].double()
    for part in batch.values():
        part |= {key: part[key].double() for key in ("lq", "gt")}
    joint = gradients(run, run.kind.losses("g", {"net_g": network}, batch, {}))
    summed: dict[str, torch.Tensor] = {}
    for task, weight in (("sr_x2", 1.0), ("dn_g25", 0.5)):
        alone = {"l": weight * (network(batch[task]["lq"], task) - batch[task]["gt"]).abs().mean()}
        for name, gradient in gradients(run, alone).items():
            summed[name] = summed.get(name, 0) + gradient
    assert joint.keys() == summed.keys() == dict(network.named_parameters()).keys()
    for name, gradient in joint.items():
        torch.testing.assert_close(gradient, summed[name], rtol=1e-6, atol=1e-12)


def test_tasks_see_patches_as_edt_does_and_make_their_own_low_quality(tmp_path):
    loaded = load_options(options(tmp_path))
    parts = build_parts(loaded, 1, training=True)
    run = Trainer(loaded, parts, World(), None)
    batch = batch_of_first_stage(run, parts)
    assert batch["sr_x2"]["lq"].shape[-2:] == (8, 8)  # a quarter of 32
    assert batch["sr_x2"]["gt"].shape[-2:] == (16, 16)
    assert batch["dn_g25"]["lq"].shape == batch["dn_g25"]["gt"].shape == (4, 3, 32, 32)
    noise = batch["dn_g25"]["lq"] - batch["dn_g25"]["gt"]
    assert noise.std().item() == pytest.approx(25 / 255, rel=0.1)
    sample = parts.train_set[SampleRequest(1, 32, 5, "dn_g25")]
    again = parts.train_set[SampleRequest(1, 32, 5, "dn_g25")]
    assert torch.equal(sample["lq"], again["lq"])


def test_a_task_may_have_a_number_of_samples_of_its_own(tmp_path):
    written = options(tmp_path)
    written["tasks"][1]["batch_size_per_gpu"] = 3
    run = trainer(written)
    shares = {share.source: share.batch_size for share in run.kind.shares(run.stages[0])}
    assert shares == {"sr_x2": 4, "dn_g25": 3}


def test_a_resumed_run_ends_with_the_same_bits_and_scores_every_task(tmp_path):
    def written(name):
        run = options(tmp_path / name)
        run["train"] |= {"amp": "bf16", "grad_accum": 2, "freeze": [{"modules": "body", "until": 5}]}
        return run

    summary = train(load_options(written("whole")))
    assert set(summary.best) == {"photos_sr_x2", "photos_dn_g25"}
    assert set(summary.losses) == {"l_sr_x2", "l_dn_g25"}
    whole, middle = (Checkpointer(tmp_path / "whole").load(iteration) for iteration in (8, 4))
    trainer(written("resumed"), middle).train()
    resumed = Checkpointer(tmp_path / "resumed").load(8)
    assert same_bits(resumed.networks, whole.networks)
    assert same_bits(resumed.state["optimizers"], whole.state["optimizers"])


def test_fine_tuning_takes_the_body_and_the_tasks_own_parts(tmp_path):
    train(load_options(options(tmp_path / "all")))
    weights = tmp_path / "all/models/net_g_latest.pth"
    single = tiny_options(tmp_path / "one", ema_decay=0)
    single["network_g"] |= {"depth": 1}
    single["path"] |= {"pretrain_network_g": str(weights), "param_key_g": "params_ema"}
    network = build_parts(load_options(single), 1, training=True).networks["net_g"]
    stored = torch.load(weights, weights_only=True)["params_ema"]
    for name, value in network.state_dict().items():
        assert torch.equal(value, stored[name]), name


def test_fine_tuning_on_another_task_begins_with_the_body_and_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(LOG, "propagate", True)  # to caplog
    loaded = load_options(options(tmp_path))
    pretrained = build_parts(loaded, 1, training=True).networks["net_g"].state_dict()
    torch.save(pretrained, tmp_path / "all.pth")
    single = tiny_options(tmp_path / "one")
    single["network_g"] |= {"scales": [4], "depth": 1}
    single |= {"scale": 4, "path": {**single["path"], "pretrain_network_g": str(tmp_path / "all.pth")}}
    with caplog.at_level("INFO", LOG.name):
        network = build_parts(load_options(single), 1, training=True).networks["net_g"]
    assert all(
        torch.equal(value, pretrained[name])
        for name, value in network.state_dict().items()
        if name.startswith("body.")
    )
    rows = {line.split()[0]: line.split()[1:] for line in caplog.text.splitlines() if "_sr_x" in line}
    assert rows["head_sr_x4"][0] == rows["head_sr_x2"][0] == rows["head_sr_x2"][1] == "-"
    with pytest.raises(OptionError, match="missing: head_sr_x4"):
        build_parts(load_options(single), 1, training=False)


@pytest.mark.parametrize(
    ("chosen", "deciding"),
    [
        (None, ["photos_sr_x2"]),
        ("dn_g25", ["photos_dn_g25"]),
        ("mean", ["photos_sr_x2", "photos_dn_g25"]),
    ],
)
def test_the_option_says_which_task_decides_what_is_best(tmp_path, chosen, deciding):
    written = options(tmp_path)
    written["datasets"]["val_2"] = {**written["datasets"]["val"], "name": "again"}
    written["val"] = {**written["val"], "best_task": chosen}
    run = trainer(written)
    names = ["photos_sr_x2", "photos_dn_g25", "again_sr_x2", "again_dn_g25"]
    assert list(run.validator._datasets) == names
    assert run.kind.deciding(names) == deciding


def test_the_best_weights_are_those_of_the_best_mean(tmp_path, monkeypatch):
    scores = {"photos_sr_x2": iter([30.0, 40.0, 10.0]), "photos_dn_g25": iter([30.0, 10.0, 51.0])}
    written = options(tmp_path / "run")
    written["val"] = {**written["val"], "best_task": "mean"}
    run = trainer(written)
    run.log = RunLogger(run.options, run.folder, True, 0, True)
    monkeypatch.setattr(
        run.validator,
        "run",
        lambda *_: {name: Evaluation({"psnr": next(of)}) for name, of in scores.items()},
    )
    saved = []
    monkeypatch.setattr(run, "_save_networks", lambda label: saved.append((label, run.iteration)))
    for run.iteration in (1, 2, 3):
        results = run.validate()
    run.log.close()
    assert saved == [("best", 1), ("best", 3)]
    assert results["mean"].scores == {"psnr": 30.5}
    assert run.best["mean"]["psnr"] == {"value": 30.5, "iteration": 3}
    assert run.best["photos_sr_x2"]["psnr"] == {"value": 40.0, "iteration": 2}


def test_one_task_alone_is_evaluated_where_that_is_asked_for(tmp_path):
    written = options(tmp_path)
    network = build_parts(load_options(written), 1, training=True).networks["net_g"]
    torch.save({"params": network.state_dict()}, tmp_path / "weights.pth")
    written["path"] = {**written["path"], "pretrain_network_g": str(tmp_path / "weights.pth")}
    written["path"]["results_root"] = str(tmp_path)
    assert set(evaluate(load_options(written), task="dn_g25")) == {"photos_dn_g25"}
    with pytest.raises(OptionError, match="--task: found 'dn_g52', expected one of the tasks, sr_x2, dn_g25"):
        evaluate(load_options(written), task="dn_g52")
    with pytest.raises(OptionError, match="--task: found 'sr_x2' for a RestorationModel, expected no task"):
        evaluate(load_options(tiny_options(tmp_path)), task="sr_x2")


@pytest.mark.slow
def test_two_ranks_train_and_score_what_one_does(tmp_path, train_command):
    for name, ranks in (("one", 0), ("two", 2)):
        written = options(tmp_path / name)
        for stage in written["datasets"]["train"]["stages"]:
            stage["batch_size_total"] = stage.pop("batch_size_per_gpu")
        finished = train_command(written, ranks=ranks)
        assert finished.returncode == 0, finished.stderr
    one, two = (Checkpointer(tmp_path / name).load(8) for name in ("one", "two"))
    for key, value in one.networks["net_g"]["params"].items():
        torch.testing.assert_close(value, two.networks["net_g"]["params"][key], rtol=1e-3, atol=1e-5)
    for name, scores in one.state["best"].items():
        assert two.state["best"][name]["psnr"]["value"] == pytest.approx(scores["psnr"]["value"], abs=1e-3)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([{"name": "sr_x2"}], "network_g: found one with the tasks sr_x2, dn_g25, expected the tasks of"),
        ([{"name": "dn_g25"}, {"name": "dn_g25"}], r"tasks.1.name: found 'dn_g25', expected a name no other"),
        ([{"name": "sharpen"}], r"tasks.0.name: found 'sharpen', expected sr_x<scale>, dn_g<sigma>"),
        ([{"name": "sr_x2", "wieght": 2}], r"tasks.0.wieght: .*weight"),
    ],
)
def test_tasks_that_do_not_fit_are_one_line(tmp_path, tasks, message):
    with pytest.raises(OptionError, match=message):
        trainer(options(tmp_path, tasks=tasks))


def test_an_unknown_task_that_is_to_decide_is_one_line(tmp_path):
    written = options(tmp_path)
    written["val"] = {**written["val"], "best_task": "dn_g52"}
    message = r"val.best_task: found 'dn_g52', expected one of the tasks, sr_x2, dn_g25, or mean"
    with pytest.raises(OptionError, match=message):
        load_options(written)
