"""The runs that are compared cost what they are said to cost, and the table says what the records say."""

from __future__ import annotations

import subprocess
import sys

import pretraining
import pytest
from helpers import ENVIRONMENT, ROOT

from basicsr_ext import load_options


def test_the_long_run_from_scratch_costs_what_both_runs_of_the_other_way_do():
    settings = pretraining.Settings(pretraining=30, finetuning=40)
    several, one = (pretraining.multiply_adds(many, settings) for many in (True, False))
    assert several > 2 * one
    both = 30 * several + 40 * one
    assert abs(pretraining.iterations("scratch_long", settings) * one - both) <= one / 2


def test_runs_share_all_but_weights_length_and_rate(tmp_path):
    settings = pretraining.Settings()
    (tmp_path / "pretrained_1/models").mkdir(parents=True)
    (tmp_path / "pretrained_1/models/net_g_latest.pth").touch()
    pretraining.make_pieces(tmp_path / "pieces")
    written = {kind: pretraining.options(kind, 1, settings, tmp_path) for kind in pretraining.KINDS}
    loaded = {kind: load_options(opt) for kind, opt in written.items()}
    assert {opt.manual_seed for opt in loaded.values()} == {1}
    train_sets = [written[kind]["datasets"]["train"] for kind in pretraining.KINDS]
    assert all(other == train_sets[0] for other in train_sets)
    for kind in ("finetuned", "scratch_long"):
        different = {key for key in written[kind] if written[kind][key] != written["scratch"][key]}
        assert different <= {"name", "path", "train", "val", "logger"}
    assert loaded["finetuned"].path.pretrain_network_g.endswith("pretrained_1/models/net_g_latest.pth")
    assert loaded["scratch"].path.pretrain_network_g is None


def test_the_table_compares_runs_of_one_seed():
    psnr = {"pretrained": (20, 20), "finetuned": (25, 28), "scratch": (24, 25), "scratch_long": (26, 26)}
    records = {
        (kind, seed): {"psnr": of[seed], "iterations": 5} for kind, of in psnr.items() for seed in (0, 1)
    }
    *_, short, long = pretraining.table(records, [0, 1]).splitlines()
    assert short == "| finetuned - scratch |  | 1.000 | 3.000 | 2.000 ± 1.414 |"
    assert long == "| finetuned - scratch_long |  | -1.000 | 2.000 | 0.500 ± 2.121 |"
    del records["scratch", 1]
    assert "scratch |" not in pretraining.table(records, [0, 1])


@pytest.mark.slow
def test_all_runs_leave_records_and_are_not_repeated(tmp_path):
    command = [sys.executable, "benchmarks/pretraining.py", "--pretraining", "2", "--finetuning", "2"]
    command += ["--batch", "1", "--seeds", "1", "--records", str(tmp_path / "records")]
    command += ["--work", str(tmp_path / "work")]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    first, again = (
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert len(list(tmp_path.glob("records/*/*-0.json"))) == 4
    assert again.stdout.splitlines()[-6:] == first.stdout.splitlines()[-6:]
    assert "Finished" in first.stderr + first.stdout
    assert "Finished" not in again.stderr + again.stdout
