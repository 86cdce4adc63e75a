"""Running statistics: changed by whole steps only, and the same on all ranks when it counts."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from helpers import ENVIRONMENT, run_command, same_bits, tiny_options
from test_interruptions import TORCHRUN

from basicsr_ext import load_options, train
from basicsr_ext import test as evaluate
from basicsr_ext.engine.build import build_parts
from basicsr_ext.engine.checkpoint import Checkpointer
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.trainer import NonFiniteError, Trainer

PLUGIN = Path(__file__).parents[1] / "plugin"
STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGIN))


def normalised(folder, bad_call=0, bad_rank=0, **train_keys):
    options = tiny_options(folder, **train_keys)
    options["plugins"] = ["norm_net"]
    options["network_g"] = {"type": "NormNet", "bad_call": bad_call, "bad_rank": bad_rank}
    return options


def statistics(content):
    return {name: value for name, value in content.items() if name in STATISTICS}


def test_the_checkpoint_from_before_a_bad_step_has_the_statistics_from_before_it(tmp_path):
    options = normalised(tmp_path / "whole")
    options["logger"]["save_checkpoint_freq"] = 5
    train(load_options(options))
    with pytest.raises(NonFiniteError):
        train(load_options(normalised(tmp_path / "bad", bad_call=6)))
    before, after = (Checkpointer(tmp_path / name).load(5).networks["net_g"] for name in ("whole", "bad"))
    assert statistics(before["params"]).keys() == STATISTICS
    assert all(same_bits(before[key], after[key]) for key in ("params", "params_ema"))


def test_a_skipped_step_leaves_no_trace_in_statistics_and_averages(tmp_path):
    train(load_options(normalised(tmp_path, bad_call=6, nan_policy="skip")))
    content = Checkpointer(tmp_path).load(8).networks["net_g"]
    for values in (content["params"], content["params_ema"]):
        assert all(torch.isfinite(value).all() for value in values.values())
        assert values["1.num_batches_tracked"] == 7
    assert same_bits(statistics(content["params"]), statistics(content["params_ema"]))


def test_what_is_done_before_the_update_sees_the_statistics_from_before_the_iteration(tmp_path):
    options = load_options(normalised(tmp_path))
    trainer = Trainer(options, build_parts(options, 1, training=True), World(), None)
    network = trainer.step.networks["net_g"]

    def present():
        return {name: value.clone() for name, value in statistics(network.state_dict()).items()}

    seen, before = [], present()
    batches = islice(trainer._batches, 1)
    trainer.step.run(1, batches, 1, before_update=lambda: seen.append(present()))
    assert same_bits(seen, [before])
    assert not same_bits(present(), before)


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_two_ranks_score_what_the_saved_weights_do_also_after_a_bad_batch_on_one(
    tmp_path, options_file, decay
):
    options = normalised(tmp_path / "run", bad_call=7, bad_rank=1, nan_policy="skip", ema_decay=decay)
    command = [*TORCHRUN, "--standalone", "--nproc_per_node=2", "train.py", "-opt", options_file(options)]
    path = f"{PLUGIN}:{ENVIRONMENT.get('PYTHONPATH', '')}"
    done = run_command(*command, environment={"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert "Skipped a step" in done.stdout
    checkpoint = Checkpointer(tmp_path / "run").load(8)
    saved = checkpoint.networks["net_g"]
    for values in (saved[key] for key in ("params", "params_ema") if key in saved):
        assert all(torch.isfinite(value).all() for value in values.values())
        assert values["1.num_batches_tracked"] == 7
    options["path"] = {
        "pretrain_network_g": str(tmp_path / "run/models/net_g_8.pth"),
        "param_key_g": "params_ema" if decay else "params",
        "results_root": str(tmp_path / "results"),
    }
    scores = evaluate(load_options(options))["photos"]
    assert scores["psnr"] == checkpoint.state["best"]["photos"]["psnr"]["value"]
