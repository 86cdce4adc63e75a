"""A checkpoint is written whole or not at all, verified when read, and never more than tensors and values."""

import json
import random

import numpy as np
import pytest
import torch

from basicsr_ext.engine.checkpoint import (
    Checkpointer,
    CheckpointError,
    find_checkpoint,
    random_state,
    restore_random_state,
    seed_random_generators,
)

CPU = torch.device("cpu")
NETWORKS = {"net_g": {"params": {"weight": torch.arange(4.0)}, "params_ema": {"weight": torch.ones(4)}}}


@pytest.fixture
def checkpointer(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    for iteration in (10, 20, 30):
        checkpointer.save(iteration, NETWORKS, {"value": iteration})
    checkpointer.finish()
    return checkpointer


def test_what_was_saved_is_read_back(checkpointer):
    checkpoint = checkpointer.load(20)
    assert (checkpoint.iteration, checkpoint.state) == (20, {"iter": 20, "value": 20})
    torch.testing.assert_close(checkpoint.networks, NETWORKS, rtol=0, atol=0)


def test_network_files_are_named_and_keyed_as_in_basicsr(checkpointer):
    content = torch.load(checkpointer.folder / "models/net_g_20.pth", weights_only=True)
    assert content.keys() == {"params", "params_ema"}


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    "damage", [flip_a_bit, truncate, lambda path: path.write_bytes(b""), lambda path: path.unlink()]
)
@pytest.mark.parametrize(
    "name", ["models/net_g_30.pth", "training_states/30.state", "training_states/30.json"]
)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(checkpointer, name, damage):
    path = checkpointer.folder / name
    if name.endswith(".json") and damage is flip_a_bit:
        path.write_text(path.read_text().replace('"sha256"', '"sha255"'))
    else:
        damage(path)
    checkpoint, warnings = checkpointer.newest()
    assert checkpoint.iteration == 20
    assert len(warnings) == (0 if not path.exists() and name.endswith(".json") else 1)


@pytest.mark.parametrize(
    ("lost", "message"), [(".pth", "names no network of iteration 30"), (".state", "names 0 training states")]
)
def test_a_manifest_that_lacks_a_file_is_said(checkpointer, lost, message):
    path = checkpointer.folder / "training_states/30.json"
    manifest = json.loads(path.read_text())
    manifest["sha256"] = {k: v for k, v in manifest["sha256"].items() if not k.endswith(lost)}
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=message):
        checkpointer.load(30)


def test_no_intact_checkpoint_is_an_error_that_names_them_all(checkpointer):
    for path in checkpointer.folder.glob("models/*.pth"):
        truncate(path)
    with pytest.raises(CheckpointError, match=r"net_g_30.pth.*net_g_20.pth.*net_g_10.pth"):
        checkpointer.newest()


def test_an_empty_folder_has_no_newest_checkpoint(tmp_path):
    assert Checkpointer(tmp_path).newest() == (None, [])


def test_only_the_newest_are_kept_when_asked(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    for iteration in (5, 10, 15):
        checkpointer.save(iteration, NETWORKS, {})
    checkpointer.save_networks("latest", NETWORKS)
    checkpointer.finish()
    assert checkpointer.iterations() == [10, 15]
    assert sorted(path.name for path in tmp_path.glob("models/*")) == [
        "net_g_10.pth",
        "net_g_15.pth",
        "net_g_latest.pth",
    ]


def test_a_state_file_finds_its_checkpoint(checkpointer):
    assert find_checkpoint(checkpointer.folder / "training_states/20.state").iteration == 20


@pytest.mark.parametrize("name", ["training_states/99.state", "models/net_g_20.pth", "nothing"])
def test_a_path_that_is_no_state_file_is_an_error(checkpointer, name):
    with pytest.raises(CheckpointError):
        find_checkpoint(checkpointer.folder / name)


def test_a_save_keeps_the_values_of_its_moment_while_training_goes_on(tmp_path):
    weight = torch.zeros(1000)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, {"net_g": {"params": {"weight": weight}}}, {})
    weight.fill_(1)
    checkpointer.finish()
    assert checkpointer.load(1).networks["net_g"]["params"]["weight"].sum() == 0


def test_a_failed_write_is_raised_by_the_next_call(tmp_path):
    (tmp_path / "models").touch()
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, NETWORKS, {})
    with pytest.raises(OSError, match="models"):
        checkpointer.finish()


def test_what_a_crash_left_half_written_is_removed(checkpointer):
    leftover = checkpointer.folder / "models/.net_g_40.pth.tmp"
    leftover.write_bytes(b"half")
    checkpointer.remove_leftovers()
    assert not leftover.exists()
    assert checkpointer.newest()[0].iteration == 30


def test_random_generators_continue_where_they_were_after_a_round_trip_through_a_file(tmp_path):
    def draw():
        return torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()

    np.random.standard_normal(1)  # leaves a cached second value
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, NETWORKS, {"random": random_state(CPU)})
    checkpointer.finish()
    expected = draw()
    restore_random_state(Checkpointer(tmp_path).load(1).state["random"], CPU)
    assert draw() == expected


def test_a_seed_decides_every_global_generator():
    def draw():
        return torch.rand(3).tolist(), random.random(), np.random.rand(3).tolist()

    seed_random_generators(2**32 + 5)
    expected = draw()
    seed_random_generators(2**32 + 5)
    assert draw() == expected


def test_a_forged_state_with_a_right_checksum_runs_no_code(tmp_path):
    marker = tmp_path / "ran"

    class Exploit:
        def __reduce__(self):
            return open, (str(marker), "w")

    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, NETWORKS, {"value": Exploit()})
    checkpointer.finish()
    with pytest.raises(CheckpointError, match=r"1\.state: refused, holds more than tensors"):
        checkpointer.load(1)
    assert not marker.exists()
