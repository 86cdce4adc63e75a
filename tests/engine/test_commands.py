"""The commands as a user runs them: processes, exit codes, output."""

import json
import subprocess
import sys
import time

import pytest
import torch
from helpers import ENVIRONMENT, ROOT, run_command, tiny_options

from basicsr_ext import build_network


def losses_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["l_pix"] for line in lines if line["kind"] == "train"]


def scores_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"].startswith("val/")]


@pytest.mark.slow
def test_two_ranks_log_the_losses_and_scores_of_one_process(tmp_path, train_command):
    one = train_command(tiny_options(tmp_path / "one"))
    assert one.returncode == 0, one.stderr
    halved = tiny_options(tmp_path / "two")
    for stage in halved["datasets"]["train"]["stages"]:
        stage["batch_size_per_gpu"] //= 2
    two = train_command(halved, ranks=2)
    assert two.returncode == 0, two.stderr
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(tmp_path / "one"), rel=1e-5)
    for ours, theirs in zip(scores_of(tmp_path / "two"), scores_of(tmp_path / "one"), strict=True):
        assert ours["psnr"] == pytest.approx(theirs["psnr"], abs=2e-3)
    assert "| stage 3/3, patch 48, batch 2 |" in one.stdout


@pytest.mark.slow
def test_a_second_start_is_refused_with_exit_code_2(tmp_path, train_command):
    (tmp_path / "run/models").mkdir(parents=True)
    (tmp_path / "run/models/net_g_5.pth").touch()
    refused = train_command(tiny_options(tmp_path / "run"))
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "--auto_resume" in refused.stderr


@pytest.mark.slow
def test_test_py_prints_a_table_of_scores(tmp_path, train_command, options_file):
    options = tiny_options(tmp_path / "run")
    assert train_command(options).returncode == 0
    options["path"] = {
        "pretrain_network_g": str(tmp_path / "run/models/net_g_latest.pth"),
        "param_key_g": "params_ema",
        "results_root": str(tmp_path / "results"),
    }
    done = run_command(sys.executable, "test.py", "-opt", options_file(options))
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "photos" in line)
    psnr = scores_of(tmp_path / "run")[-1]["psnr"]
    assert f"{psnr:.4f}" in row


@pytest.mark.slow
def test_scores_do_not_depend_on_the_number_of_ranks(tmp_path, options_file):
    options = tiny_options(tmp_path / "run")
    torch.save({"params": build_network(options["network_g"]).state_dict()}, tmp_path / "net.pth")
    options["path"] = {"pretrain_network_g": str(tmp_path / "net.pth"), "results_root": str(tmp_path / "out")}
    tables = set()
    for ranks in (1, 2, 3, 4):  # of which one has no image
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        done = run_command(sys.executable, *launcher, "test.py", "-opt", options_file(options))
        assert done.returncode == 0, done.stderr
        tables.add("\n".join(line for line in done.stdout.splitlines() if "photos" in line))
    (table,) = tables
    assert "photos" in table


@pytest.mark.slow
def test_test_py_without_weights_says_which_key_is_missing(options_file, tmp_path):
    done = run_command(sys.executable, "test.py", "-opt", options_file(tiny_options(tmp_path)))
    assert done.returncode == 2
    assert "path.pretrain_network_g: found nothing" in done.stderr


@pytest.mark.slow
def test_check_prints_parameters_stages_and_memory_and_trains_nothing(tmp_path, train_command):
    options = tiny_options(tmp_path / "run")
    options["datasets"]["val"] = {"type": "PairedImageDataset", "dataroot_gt": "datasets/Set5/nowhere"}
    done = train_command(options, "--check")
    assert done.returncode == 0, done.stderr
    assert "datasets.val is left out" in done.stdout
    for expected in ("parameters", "batch in total", "samples", "share of run", "GiB", "(measured)"):
        assert expected in done.stdout
    assert not (tmp_path / "run").exists()


def test_all_types_that_no_registry_knows_are_reported_together(tmp_path, train_command):
    options = tiny_options(tmp_path / "run")
    options["network_g"]["embed_dims"] = 12
    options["train"]["optim_g"]["type"] = "Adan"
    options["train"]["pixel_opt"]["type"] = "L1Los"
    options["val"]["metrics"]["psnr"]["type"] = "calculate_pnsr"
    options["datasets"]["val"]["type"] = "SampleImage"
    done = train_command(options)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 5
    known = ("embed_dim", "Adam", "L1Loss", "calculate_psnr", "SampleImages")
    for suggestion in known:
        assert sum(f"did you mean {suggestion!r}?" in line for line in lines) == 1, suggestion


def test_a_kind_of_training_that_nobody_knows_is_one_problem(tmp_path, train_command):
    options = tiny_options(tmp_path / "run")
    options["model_type"] = "RestorationModl"
    options["train"]["l_pix"] = 5  # whether that is a key, only the kind can say
    done = train_command(options)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert line.endswith("expected a registered model; did you mean 'RestorationModel'?")


def test_a_rank_leaves_without_taking_the_interpreter_apart():
    code = (
        "import atexit, sys, threading, time\n"
        "from basicsr_ext.exit import exit_process\n"
        "atexit.register(print, 'handlers have run')\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "sys.stdout.write('flushed ')\n"
        "exit_process(75)\n"
    )
    ranked = {**ENVIRONMENT, "WORLD_SIZE": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=ranked,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (75, "flushed handlers have run\n")


@pytest.mark.parametrize("arguments", [["--help"], ["-opt", "options/no_such_file.yml"]])
def test_help_and_option_errors_answer_without_importing_torch(arguments):
    code = (
        "import runpy, sys, os\n"
        f"sys.argv = ['train.py', *{arguments!r}]\n"
        "try:\n    runpy.run_path('train.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'basicsr', 'cv2', 'torchvision'} & set(sys.modules)))\n"
    )
    done = run_command(sys.executable, "-c", code)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_with_the_same_bits(tmp_path, train_command, options_file):
    assert train_command(tiny_options(tmp_path / "whole")).returncode == 0
    options = tiny_options(tmp_path / "killed")
    process = subprocess.Popen(
        [sys.executable, "train.py", "-opt", options_file(options)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed/training_states/4.json").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert train_command(options, "--auto_resume").returncode == 0
    whole, resumed = (
        torch.load(tmp_path / run / "models/net_g_8.pth", weights_only=True) for run in ("whole", "killed")
    )
    for key in ("params", "params_ema"):
        assert all(torch.equal(whole[key][name], resumed[key][name]) for name in whole[key])
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "killed")
