"""Runs that are told to stop, lose a rank or are started by a cluster: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers import ENVIRONMENT, ROOT, same_bits, tiny_options
from torch import distributed

from basicsr_ext import load_options, train
from basicsr_ext.engine import StoppedError, checkpoint
from basicsr_ext.engine.checkpoint import Checkpointer
from basicsr_ext.engine.distributed import World, first_slurm_node
from basicsr_ext.engine.signals import SignalListener
from basicsr_ext.models.restoration_model import RestorationModel

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
FAILING_NETWORK = """
import os
from pathlib import Path
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

@ARCH_REGISTRY.register()
class FailingNet(nn.Sequential):
    def __init__(self, marker: str):
        super().__init__(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
        self.marker, self.calls = Path(marker), 0

    def forward(self, x):
        self.calls += self.training
        if self.calls == 6 and os.environ.get("RANK") == "1" and not self.marker.exists():
            self.marker.touch()
            raise ArithmeticError("the original error")
        return super().forward(x)
"""


def start(command, **environment):
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env={**ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def endless(folder):
    """Return options of a run that nobody waits for, with a checkpoint only when asked for."""
    options = tiny_options(folder)
    options["datasets"]["train"]["stages"] = [{"iters": 100_000, "gt_size": 16, "batch_size_per_gpu": 2}]
    options["train"]["total_iter"] = 100_000
    options["val"]["val_freq"] = options["logger"]["save_checkpoint_freq"] = 100_000
    return options


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def iterations_logged(folder):
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_the_run_with_a_checkpoint_and_exit_code_75(tmp_path, options_file, number):
    options = endless(tmp_path / "run")
    options["datasets"]["train"]["num_worker_per_gpu"] = 1
    process = start([sys.executable, "train.py", "-opt", options_file(options)])
    wait_for(lambda: iterations_logged(tmp_path / "run") > 3)
    os.killpg(process.pid, number)  # job schedulers and terminals reach the loader's workers, too
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert "continue with --auto_resume" in output
    assert Checkpointer(tmp_path / "run").newest()[0].iteration == iterations_logged(tmp_path / "run")


def test_sigusr1_writes_a_checkpoint_and_a_second_sigterm_ends_at_once(tmp_path, options_file):
    checkpointer = Checkpointer(tmp_path / "run")
    process = start([sys.executable, "train.py", "-opt", options_file(endless(tmp_path / "run"))])
    wait_for(lambda: iterations_logged(tmp_path / "run") > 3)
    process.send_signal(signal.SIGUSR1)
    wait_for(checkpointer.iterations)
    saved = checkpointer.iterations()[-1]
    wait_for(lambda: iterations_logged(tmp_path / "run") > saved + 2)
    process.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_ranks_at_the_same_iteration(tmp_path, options_file):
    command = [*TORCHRUN, "--standalone", "--nproc_per_node=2", "train.py", "-opt"]
    process = start([*command, options_file(endless(tmp_path / "run"))])
    wait_for(lambda: iterations_logged(tmp_path / "run") > 3)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    os.kill(int(ranks.stdout.split()[-1]), signal.SIGTERM)
    output, _ = process.communicate(timeout=90)
    assert output.count("stopped by a signal after iteration") == 2, output
    checkpoint = Checkpointer(tmp_path / "run").newest()[0]
    assert len(checkpoint.state["random"]) == 2


def scores_of(folder):
    timing = ("iterations_per_second", "data_wait")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in timing} for line in lines]


def test_a_signal_between_validation_images_stops_the_run_and_a_resume_makes_up_for_it(tmp_path, monkeypatch):
    whole, stopped = tiny_options(tmp_path / "whole"), tiny_options(tmp_path / "stopped")
    for options in (whole, stopped):
        options["val"]["val_freq"] = 3
        options["logger"]["save_checkpoint_freq"] = 3
    train(load_options(whole))

    evaluated, healthy = [], RestorationModel.evaluate

    def evaluate(*arguments, **keywords):
        evaluated.append(1)
        if len(evaluated) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return healthy(*arguments, **keywords)

    monkeypatch.setattr(RestorationModel, "evaluate", evaluate)
    with pytest.raises(StoppedError, match=r"after iteration 3 of 8, before its validation was complete"):
        train(load_options(stopped))
    assert len(evaluated) == 1
    folder = tmp_path / "stopped"
    assert Checkpointer(folder).newest()[0].iteration == 3
    # As if the run had been killed between the end of the made up validation and its checkpoint.
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"iteration": 3, "kind": "val/photos", "psnr": 0.0}) + "\n")
    train(load_options(stopped), auto_resume=True)
    assert scores_of(folder) == scores_of(tmp_path / "whole")
    for iteration in (3, 6, 8):
        one, two = (Checkpointer(tmp_path / run).load(iteration) for run in ("whole", "stopped"))
        assert same_bits(one.networks, two.networks)
        for key in ("best", "baselines", "random", "validation_due"):
            assert same_bits(one.state[key], two.state[key]), key


def test_a_signal_during_the_last_writes_lets_them_finish(tmp_path, monkeypatch):
    terminated = []
    before = signal.signal(signal.SIGTERM, lambda *_: terminated.append(1))

    def save(path, content, write=checkpoint._save):
        if path.name == "net_g_latest.pth":
            time.sleep(0.3)  # until the run waits for this
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
        return write(path, content)

    monkeypatch.setattr(checkpoint, "_save", save)
    try:
        assert train(load_options(tiny_options(tmp_path / "run"))).iteration == 8
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not terminated
    assert (tmp_path / "run/models/net_g_latest.pth").is_file()


def test_a_rank_that_still_validates_hears_of_the_signal_to_another():
    store = distributed.HashStore()
    one, other = (SignalListener(World(rank, 2, store=store)) for rank in range(2))
    assert not one.stop_wanted()
    other._on_stop(signal.SIGTERM, None)
    assert not one.stop_wanted()
    assert other.stop_wanted()
    assert one.stop_wanted()


STOPPING_NETWORK = """
import os, signal
from pathlib import Path
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

@ARCH_REGISTRY.register()
class StoppingNet(nn.Sequential):
    def __init__(self, marker: str):
        super().__init__(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))
        self.marker = Path(marker)

    def forward(self, x):
        validates = not self.training and x.shape[0] == 1 and x.shape[-1] > 48
        if validates and os.environ.get("RANK") == "1" and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(x)
"""


@pytest.mark.slow
def test_a_signal_to_one_rank_breaks_off_the_validation_of_all(tmp_path, train_command, monkeypatch):
    (tmp_path / "stopping_plugin.py").write_text(STOPPING_NETWORK)
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", f"{tmp_path}:{ENVIRONMENT.get('PYTHONPATH', '')}")

    def options(name, marker):
        options = tiny_options(tmp_path / name)
        options["plugins"] = ["stopping_plugin"]
        options["network_g"] = {"type": "StoppingNet", "marker": str(marker)}
        options["datasets"]["val_2"] = {**options["datasets"]["val"], "name": "again"}
        options["val"]["val_freq"] = 4
        return options

    whole, stopped = options("whole", tmp_path), options("stopped", tmp_path / "marker")
    assert train_command(whole, ranks=2).returncode == 0
    done = train_command(stopped, ranks=2)
    assert done.stderr.count("after iteration 4 of 8, before its validation was complete") == 2, done.stderr
    resumed = train_command(stopped, "--auto_resume", ranks=2)
    assert resumed.returncode == 0, resumed.stderr
    assert scores_of(tmp_path / "stopped") == scores_of(tmp_path / "whole")


def failing(folder, tmp_path):
    (tmp_path / "failing_plugin.py").write_text(FAILING_NETWORK)
    options = tiny_options(folder)
    options["plugins"] = ["failing_plugin"]
    options["network_g"] = {"type": "FailingNet", "marker": str(tmp_path / "marker")}
    return options


@pytest.mark.slow
def test_a_rank_that_dies_brings_all_down_and_its_error_is_shown_once(tmp_path, options_file):
    options = options_file(failing(tmp_path / "run", tmp_path))
    command = [*TORCHRUN, "--standalone", "--nproc_per_node=2", "train.py", "-opt", options]
    process = start(command, PYTHONPATH=str(tmp_path))
    output, _ = process.communicate(timeout=90)
    assert process.returncode != 0
    assert output.count("ArithmeticError: the original error") == 1, output
    assert output.count("Traceback (most recent call last)") == 2, output  # the rank's, and torchrun's own


@pytest.mark.slow
def test_torchrun_restarts_a_failed_run_and_it_resumes_by_itself(tmp_path, options_file):
    options = failing(tmp_path / "run", tmp_path)
    command = [*TORCHRUN, "--standalone", "--nproc_per_node=2", "--max-restarts=1", "train.py", "-opt"]
    process = start([*command, options_file(options)], PYTHONPATH=str(tmp_path))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "iterations 5 to 8" in output
    assert Checkpointer(tmp_path / "run").newest()[0].iteration == 8


@pytest.mark.slow
def test_a_run_of_two_ranks_goes_on_with_one_and_the_same_samples(tmp_path, train_command):
    options = tiny_options(tmp_path / "two")
    whole = tiny_options(tmp_path / "one")
    for stage in whole["datasets"]["train"]["stages"]:
        stage["batch_size_per_gpu"] *= 2
    assert train_command(whole).returncode == 0
    assert train_command(options, ranks=2).returncode == 0
    for name in ("models/net_g_8.pth", "training_states/8.json", "training_states/8.state"):
        (tmp_path / "two" / name).unlink()
    resumed = train_command(options, "--auto_resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "written by 2 processes, now there are 1." in resumed.stdout
    assert "Samples per iteration, by stage: [8, 4, 4], before: [8, 4, 4]" in resumed.stdout
    one, two = (
        torch.load(tmp_path / run / "models/net_g_8.pth", weights_only=True) for run in ("one", "two")
    )
    for name, value in one["params"].items():
        torch.testing.assert_close(two["params"][name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_slurm_variables_start_a_run_of_several_processes(tmp_path, options_file):
    command = [
        sys.executable,
        "train.py",
        "-opt",
        options_file(tiny_options(tmp_path / "run")),
        "--launcher",
        "slurm",
    ]
    slurm = {"SLURM_NTASKS": "2", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": "29631"}
    processes = [
        start(command, SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank), **slurm) for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "2 process(es)" in outputs[0]
    assert outputs[1] == ""


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [
        ("node7", "node7"),
        ("node7,node9", "node7"),
        ("gpu[03-07,11],login", "gpu03"),
        ("gpu-a[1,5]", "gpu-a1"),
        ("rack[1-2]node[03-04]", "rack1node03"),
        ("rack[1-2]-login,gpu3", "rack1-login"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_the_first_host_of_a_slurm_list_is_found(nodelist, first):
    assert first_slurm_node(nodelist) == first


@pytest.mark.slow
def test_a_launcher_without_its_variables_is_one_clear_line(tmp_path, train_command):
    for launcher in ("pytorch", "slurm"):
        done = train_command(tiny_options(tmp_path / "run"), "--launcher", launcher)
        assert done.returncode == 1
        assert len(done.stderr.strip().splitlines()) == 1
        assert f"--launcher {launcher}" in done.stderr


@pytest.mark.slow
def test_two_nodes_and_more_ranks_than_validation_images_score_like_one_process(
    tmp_path, options_file, train_command
):
    one = tiny_options(tmp_path / "one")
    for stage in one["datasets"]["train"]["stages"]:
        stage["batch_size_per_gpu"] = 4
    four = tiny_options(tmp_path / "four")
    for stage in four["datasets"]["train"]["stages"]:
        stage["batch_size_per_gpu"] = 1
    assert train_command(one).returncode == 0
    path = options_file(four, "four.yml")
    command = [
        *TORCHRUN,
        "--nnodes=2",
        "--nproc_per_node=2",
        "--master_addr=127.0.0.1",
        "--master_port=29641",
    ]
    nodes = [start([*command, f"--node_rank={node}", "train.py", "-opt", path]) for node in range(2)]
    outputs = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    one, four = (Checkpointer(tmp_path / run).newest()[0].state["best"] for run in ("one", "four"))
    assert four["photos"]["psnr"]["value"] == pytest.approx(one["photos"]["psnr"]["value"], abs=2e-3)
