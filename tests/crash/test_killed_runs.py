"""A run that is killed and resumed, over and over, ends with the bits of one that was left alone."""

import sys

import pytest
import torch
from helpers import run_command
from victim import differences, left_behind


@pytest.mark.slow
def test_ten_kills_at_all_kinds_of_moments_leave_no_trace(tmp_path):
    campaign = ("tests/crash/campaign.py", "--kills", "10", "--ranks", "1", "2", "3", "--workers", "mixed")
    done = run_command(sys.executable, *campaign, "--seed", "3", "--folder", tmp_path, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 kills; no difference" in done.stdout


def test_the_comparison_sees_a_single_bit():
    expected = {"weight": torch.ones(2).numpy().tobytes(), "log.3.l_pix": "0.1"}
    found = {**expected, "weight": torch.tensor([1.0, 1.0000001]).numpy().tobytes()}
    assert differences(expected, found) == ["weight"]
    assert differences(expected, {"weight": expected["weight"]}) == ["log.3.l_pix"]


def test_what_a_kill_left_of_a_checkpoint_is_seen(tmp_path):
    for name in ("models/net_g_4.pth", "training_states/4.state", "training_states/4.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert left_behind(tmp_path) == ""
    (tmp_path / "models/net_g_8.pth").touch()
    (tmp_path / "training_states/.8.state.tmp").touch()
    assert left_behind(tmp_path) == "temporary file, files without manifest"
