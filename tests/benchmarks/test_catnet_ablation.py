"""Rows differ in what they name alone, a run leaves one record, and the table says what the records say."""

from __future__ import annotations

import json

import catnet_ablation as ablation
import pytest
import torch

import basicsr_ext as bx


@pytest.mark.parametrize("row", ablation.ROWS)
def test_every_row_is_a_network_for_the_slices(row, tmp_path):
    settings = ablation.Settings(side=32, dim=8)
    network = bx.build_network(ablation.options(row, 0, settings, tmp_path)["network_g"])
    output = network(torch.rand(1, 1, 3, 32, 32), torch.ones(1, 1, 32, 32), torch.rand(1, 3, 32, 32))
    assert output.query_logits.shape[-2:] == (32, 32)


def test_runs_differ_in_network_and_seed_alone(tmp_path):
    one, other = (ablation.options(row, 1, ablation.Settings(), tmp_path) for row in ("1 round", "no masks"))
    for opt in (one, other):
        del opt["network_g"]
    assert one == other


@pytest.mark.slow
def test_a_run_leaves_a_record_and_is_not_repeated(tmp_path, capsys):
    arguments = ["--rows", "no round", "--seeds", "1", "--iterations", "2", "--batch", "1", "--side", "32"]
    arguments += ["--patients", "1", "--queries", "1", "--dim", "8"]
    arguments += ["--records", str(tmp_path / "records"), "--work", str(tmp_path / "work")]
    assert ablation.main(arguments) == 0
    [file] = (tmp_path / "records").glob("*.json")
    record, written = json.loads(file.read_text()), file.stat().st_mtime_ns
    assert record["support_mask"]["Dice"] > 0
    shown = capsys.readouterr().out
    assert f"| no round | {record['scores']['Dice']:.3f} |" in shown
    assert ablation.main(arguments) == 0
    assert file.stat().st_mtime_ns == written


def record(row, seed, dice):
    settings = ablation.asdict(ablation.Settings())
    scores = {"Dice": dice, "IoU": dice / 2}
    return {"row": row, "seed": seed, "settings": settings, "scores": scores, "support_mask": scores}


def test_the_table_compares_seed_by_seed(tmp_path):
    records = [record(ablation.WHOLE, seed, 0.5 + seed / 10) for seed in range(2)]
    records += [record("no masks", 1, 0.55), record("no masks", 0, 0.5)]
    lines = ablation.table(records).splitlines()
    assert lines[0] == "| network | Dice | IoU | Dice beside the first row's | seeds |"
    assert lines[2].startswith(f"| {ablation.WHOLE} | 0.550 ± 0.071 |")
    assert lines[3] == "| no masks | 0.525 ± 0.035 | 0.263 ± 0.018 | -0.025 ± 0.035 | 2 |"
    assert lines[4].startswith("| copying the support's mask | 0.500 |")


def test_records_of_other_settings_are_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(record("no masks", 0, 0.5)))
    assert len(ablation.load(tmp_path, ablation.Settings())) == 1
    with pytest.raises(ValueError, match="other settings: no masks, seed 0"):
        ablation.load(tmp_path, ablation.Settings(batch=8))
    with pytest.raises(ValueError, match="no records in"):
        ablation.load(tmp_path / "nowhere", ablation.Settings())
