"""The command that waits for a GPU: its parts, what becomes of their failures, and all of it on a CPU."""

import json
import subprocess
import sys
import time
from pathlib import Path

import gpu
import pytest
import torch
from gpu import as_markdown, run_part, stop_all
from gpu_parts import PARTS, Limited, Setting, tiles, tried
from helpers import ENVIRONMENT, ROOT


@pytest.fixture
def setting(tmp_path):
    """Return what parts are told on a CPU."""
    return Setting(torch.device("cpu"), quick=True, released=None, folder=tmp_path)


def change_result(monkeypatch, change):
    """Let the part's network return something else; ``change`` gets the network, its input and result."""
    forward = Limited.forward
    monkeypatch.setattr(Limited, "forward", lambda net, x: change(net, x, forward(net, x)))


def test_tiles_are_halved_until_memory_suffices_and_give_the_whole_picture(setting):
    (row,) = tiles(setting)
    assert "wrong" not in row
    whole, *smaller = map(int, row["sides of tiles"].split(", "))
    assert smaller
    assert max(smaller) <= whole // 2


def test_a_picture_that_depends_on_its_tiles_is_reported(setting, monkeypatch):
    change_result(monkeypatch, lambda net, x, y: y + x.shape[-1] / 1000)
    (row,) = tiles(setting)
    assert "differs from the whole" in row["wrong"]


def test_memory_that_does_not_run_out_is_reported(setting, monkeypatch):
    monkeypatch.setattr(Limited, "limit", property(lambda net: None, lambda net, value: None), raising=False)
    (row,) = tiles(setting)
    assert "no smaller tile" in row["wrong"]


def test_what_fails_by_itself_becomes_a_row_that_says_so():
    row = tried({"network": "EDT"}, lambda: {}[0])
    assert row["network"] == "EDT"
    assert "KeyError" in row["wrong"]


def test_a_part_that_fails_keeps_the_rows_it_had(setting, monkeypatch, tmp_path):
    def part(_):
        """A part."""
        yield {"run": "first", "loss": 1}
        yield {"run": "second", "wrong": "too large"}
        raise RuntimeError("no device")

    monkeypatch.setitem(gpu.PARTS, "speed", (part, 10))
    run_part("speed", setting, tmp_path / "speed.json")
    found = gpu.Result(**json.loads((tmp_path / "speed.json").read_text()))
    assert found.rows == [{"run": "first", "loss": 1}, {"run": "second"}]
    assert found.wrong[0] == "second: too large"
    assert "no device" in found.wrong[1]
    assert "| first | 1 |" in as_markdown(found)


def test_stopping_a_part_ends_what_it_started_in_other_process_groups(tmp_path):
    note = tmp_path / "pid"
    part = subprocess.Popen(["sh", "-c", f"setsid sh -c 'echo $$ >{note}; exec sleep 1000' & wait"])
    while not note.exists() or not note.read_text().strip():
        time.sleep(0.01)
    stop_all(part)
    # The kernel ends it when it gets round to it.
    end = time.monotonic() + 60
    while is_running(int(note.read_text())):
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.01)


def is_running(process: int) -> bool:
    """Return whether a process has not ended; one that has may still wait for its parent to take notice."""
    state = Path(f"/proc/{process}/stat")
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_the_whole_command_runs_on_a_cpu(tmp_path):
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--quick"]
    command += ["--minutes", "120", "--out", str(tmp_path)]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    parts = {part["part"]: part for part in json.loads((tmp_path / "gpu.json").read_text())["parts"]}
    assert list(parts) == list(PARTS)
    assert not [wrong for part in parts.values() for wrong in part["wrong"]]
    assert run.returncode == 0
    assert all(f"## {name}" in (tmp_path / "gpu.md").read_text() for name in PARTS)

    rows = {name: part["rows"] for name, part in parts.items()}
    assert all(float(row["error, cpu"]) < 1e-4 for row in rows["fixtures"])
    assert [row["run"] for row in rows["precision"]] == ["cpu", "cpu_bf16", "cpu_fp16"]
    assert all(abs(float(row["against the CPU's"].rstrip("%"))) < 5 for row in rows["precision"])
    (resumed,) = rows["resuming"]
    assert resumed["tensors"] > 0
    assert resumed["different"] == 0
    assert 6 <= resumed["killed after"] < 9
    assert [row["different"] for row in rows["one_rank"]] == [0, 0]
    assert len(rows["tiles"][0]["sides of tiles"].split(", ")) > 1
    assert {(row["from"], row["sent as"]) for row in rows["transfer"]} == {
        (source, kind) for source in ("memory", "2 processes") for kind in ("float32", "8-bit")
    }
    assert {row["precision"] for row in rows["speed"]} == {"float32", "bf16", "fp16"}
    assert [row["network"] for row in rows["speed"] if row["compiled"]] == ["emt_x4"]
