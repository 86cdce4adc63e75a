"""A kind of training from outside: networks, phases, data set, options and metric of one plug-in file."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import ENVIRONMENT, ROOT, run_command, same_bits

from basicsr_ext import load_options, train
from basicsr_ext import test as evaluate
from basicsr_ext.config import OptionError
from basicsr_ext.engine import check
from basicsr_ext.engine.checkpoint import Checkpointer
from basicsr_ext.engine.trainer import NonFiniteError

PLUGIN = Path(__file__).parents[1] / "plugin"
KILLER = """
import os, signal, time
from pathlib import Path
from basicsr_ext.engine.experiment import run_folder
from two_networks import TwoNetworkModel

calls = 0
healthy = TwoNetworkModel.losses

def losses(self, *arguments):
    global calls
    calls += torch_grad()
    marker = Path(os.environ["MARKER"])
    if calls == 23 and os.environ.get("RANK", "0") == os.environ["VICTIM"] and not marker.exists():
        while not list(run_folder(self.options).glob("training_states/*.json")):
            time.sleep(0.01)
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return healthy(self, *arguments)

def torch_grad():
    import torch
    return torch.is_grad_enabled()

TwoNetworkModel.losses = losses
"""


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    """Let plug-ins be imported as a user's are: from a folder on the path."""
    monkeypatch.syspath_prepend(str(PLUGIN))


def rings(folder, **changes):
    options = {
        "name": folder.name,
        "model_type": "TwoNetworkModel",
        "num_gpu": 0,
        "plugins": ["two_networks"],
        "critic": {"slope": 2.0, "every": 2},
        "network_g": {"type": "PointNet", "inputs": 2, "outputs": 2},
        "network_d": {"type": "PointNet", "inputs": 2, "outputs": 1, "width": 6},
        "datasets": {
            "train": {
                "type": "NoisyRings",
                "radius": 2.0,
                "num_worker_per_gpu": 0,
                "stages": [
                    {"iters": 8, "gt_size": 1, "batch_size_per_gpu": 6},
                    {"iters": 8, "gt_size": 1, "batch_size_per_gpu": 4},
                ],
            },
            "val": {"type": "NoisyRings", "radius": 2.0, "name": "held_out"},
        },
        "train": {
            "total_iter": 16,
            "ema_decay": 0.9,
            "grad_accum": 2,
            "optim_g": {"type": "SGD", "lr": 0.1, "momentum": 0.9},
            "optim_d": {"type": "Adam", "lr": 1e-2},
            "scheduler": {"type": "MultiStepLR", "milestones": [10], "gamma": 0.5},
        },
        "val": {"val_freq": 4, "metrics": {"agreement": {"type": "AgreementMetric"}}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 4, "use_tb_logger": False, "report": False},
        "path": {"experiments_root": str(folder.parent)},
    }
    return {**options, **changes}


def log_of(folder):
    timing = ("iterations_per_second", "data_wait")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timing} for line in lines]


def test_a_run_saves_logs_and_scores_everything_by_name(tmp_path):
    summary = train(load_options(rings(tmp_path)))
    checkpoint = Checkpointer(tmp_path).load(16)
    assert {name: sorted(content) for name, content in checkpoint.networks.items()} == {
        "net_g": ["basicsr_ext", "params", "params_ema"],
        "net_d": ["basicsr_ext", "params"],
    }
    assert checkpoint.state["optimizers"].keys() == {"optim_g", "optim_d"}
    assert (tmp_path / "models/net_d_best.pth").is_file()
    lines = [line for line in log_of(tmp_path) if line["kind"] == "train"]
    assert {"l_g", "l_real", "l_made", "lr", "lr_d", "grad_norm", "grad_norm_d"} <= lines[1].keys()
    assert "l_real" not in lines[0]  # the critic is due in every second iteration
    assert [line["lr_d"] for line in lines[-2:]] == [5e-3] * 2
    assert summary.best["held_out"]["agreement"]["value"] <= 1
    assert 0 <= summary.baselines["all_true"]["held_out"]["agreement"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "victim"), [(1, 0), (2, 0), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(tmp_path, options_file, ranks, victim):
    (tmp_path / "killer.py").write_text(KILLER)
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]

    def run(name):
        options = options_file(rings(tmp_path / name, plugins=["two_networks", "killer"]), f"{name}.yml")
        return run_command(*launcher, "train.py", "-opt", options, "--auto_resume", environment=environment)

    path = f"{PLUGIN}:{tmp_path}:{ENVIRONMENT.get('PYTHONPATH', '')}"
    environment = {"PYTHONPATH": path, "MARKER": str(tmp_path / "marker"), "VICTIM": str(victim)}
    killed = run("killed")
    assert killed.returncode != 0
    assert (tmp_path / "marker").exists(), killed.stderr
    before = Checkpointer(tmp_path / "killed").newest()[0]
    assert before is not None
    assert before.iteration < 16
    for name in ("killed", "whole"):
        done = run(name)
        assert done.returncode == 0, done.stdout + done.stderr
    a, b = (Checkpointer(tmp_path / name).load(16) for name in ("killed", "whole"))
    assert same_bits(a.networks, b.networks)
    for key in ("optimizers", "scalers", "random", "best", "baselines"):
        assert same_bits(a.state[key], b.state[key]), key
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")


def test_a_phase_changes_its_own_network_alone(tmp_path):
    options = rings(tmp_path)
    options["train"]["optim_d"] |= {"type": "SGD", "lr": 1e-30}
    train(load_options(options))
    weights = [
        torch.load(tmp_path / f"models/net_d_{iteration}.pth", weights_only=True)["params"]["4.weight"]
        for iteration in (4, 16)
    ]
    assert torch.equal(*weights)


@pytest.mark.parametrize("spoilt", ["g", "d"])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_phase_that_is_not_finite_undoes_the_whole_iteration(tmp_path, monkeypatch, spoilt, policy):
    from two_networks import TwoNetworkModel

    states = []
    healthy = TwoNetworkModel.losses
    count = {"d": 0, "g": 0}

    def losses(self, phase, networks, batch, earlier):
        if torch.is_grad_enabled():
            count[phase] += 1
            if phase == "g" and count["g"] % 2:  # the first micro-batch of an iteration
                states.append({name: copied(network) for name, network in self.networks.items()})
        found = healthy(self, phase, networks, batch, earlier)
        # Iteration 6 has micro-batches 11 and 12 of the generator, 5 and 6 of the critic.
        if torch.is_grad_enabled() and phase == spoilt and count[phase] == {"g": 12, "d": 6}[phase]:
            found = {name: value * float("nan") for name, value in found.items()}
        return found

    monkeypatch.setattr(TwoNetworkModel, "losses", losses)
    options = rings(tmp_path)
    options["train"]["nan_policy"] = policy
    options["logger"]["print_freq"] = 100  # a report would look at the verdict at once
    if policy == "skip":
        train(load_options(options))
    else:
        with pytest.raises(NonFiniteError, match="iteration 6 is not finite"):
            train(load_options(options))
        saved = Checkpointer(tmp_path).load(5).networks
        assert same_bits({name: content["params"] for name, content in saved.items()}, states[5])
    assert same_bits(states[5], states[6])
    assert not same_bits(states[4], states[5])


def copied(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_check_and_test_know_kinds_of_plugins(tmp_path, capsys):
    train(load_options(rings(tmp_path / "run")))
    options = rings(tmp_path / "other")
    assert check(load_options(options))
    assert re.search(r"One iteration of the largest stage.*\(measured\)", capsys.readouterr().out)
    options["path"]["pretrain_network_g"] = str(tmp_path / "run/models/net_g_best.pth")
    options["path"]["param_key_g"] = "params_ema"
    scores = evaluate(load_options(options))
    best = Checkpointer(tmp_path / "run").load(16).state["best"]["held_out"]["agreement"]["value"]
    assert scores["held_out"]["agreement"] == best


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"critic": {"slop": 1.0}},
            "critic.slop: found an unknown key, expected a key of critic; did you mean 'slope'?",
        ),
        ({"critic": {"slope": -1}}, "critic.slope: found -1, expected a positive number"),
        ({"network_d": None}, "network_d: found nothing, expected a mapping with type"),
        ({"pixel_opt": 1}, "pixel_opt: found an unknown key, expected a key of the option file"),
    ],
)
def test_mistakes_in_a_plugins_options_are_answered_like_all_others(tmp_path, change, line):
    with pytest.raises(OptionError) as caught:
        load_options(rings(tmp_path, **change))
    (found,) = str(caught.value).splitlines()
    assert line in found


@pytest.mark.slow
def test_editors_and_pages_know_a_plugins_options(tmp_path):
    environment = {"PYTHONPATH": f"{PLUGIN}:{ENVIRONMENT.get('PYTHONPATH', '')}"}
    for script, name in (("generate_schema", "schema.json"), ("generate_docs", "options.md")):
        command = (f"scripts/{script}.py", "--plugins", "two_networks", "--out", tmp_path / name)
        done = run_command(sys.executable, *command, cwd=ROOT, environment=environment)
        assert done.returncode == 0, done.stderr
    schema = json.loads((tmp_path / "schema.json").read_text())
    assert schema["$defs"]["CriticOptions"]["properties"]["slope"]["anyOf"][0]["exclusiveMinimum"] == 0
    page = (tmp_path / "options.md").read_text()
    assert "| `slope` | a positive number | `1.0` | Steepness of its loss. |" in page
    assert "| `radius` | a positive number | required | Of the circle. |" in page
    assert "PairedImageDataset" not in page
