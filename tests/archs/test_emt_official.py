"""EMT's official weights score on Set5 what their authors publish, through ``test.py``."""

from __future__ import annotations

import re
import sys

import pytest
import yaml
from helpers import ROOT, run_command
from recorded import SHARED

DATA = SHARED.parent / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not on this machine")
def test_set5_x4_scores_32_64_and_0_9003(tmp_path):
    options = yaml.safe_load((ROOT / "options/emt_x4.yml").read_text())
    set5 = {
        "name": "Set5",
        "type": "PairedImageDataset",
        "dataroot_gt": str(DATA / "set5/HR"),
        "dataroot_lq": str(DATA / "set5/LRbicx4"),
    }
    del options["train"], options["val"]["val_freq"]
    options |= {"num_gpu": 0, "datasets": {"test_1": set5}}
    options["path"] = {
        "pretrain_network_g": str(DATA / "emt/EMT_LSR_x4.pth"),
        "results_root": str(tmp_path / "results"),
    }
    file = tmp_path / "set5.yml"
    file.write_text(yaml.safe_dump(options))
    done = run_command(sys.executable, "test.py", "-opt", file)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^ *Set5 +([\d.]+) +[\d.]+ +([\d.]+)", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    scores = {"psnr": float(found[1]), "ssim": float(found[2])}
    assert scores["psnr"] == pytest.approx(32.64, abs=0.01)
    assert scores["ssim"] == pytest.approx(0.9003, abs=0.0005)
