"""The machine stops at any point of a save, a rotation or a best-update: what was promised is found again.

Kills sample moments, and leave the disk whole. Here every moment is gone through, and with it everything that
the disk may hold then (``disk.py``).
"""

import os
import stat
import sys

import pytest
import torch
from disk import Recorder, crashes, restore

from basicsr_ext.engine.checkpoint import Checkpointer, CheckpointError
from basicsr_ext.engine.lock import locked

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc to tell what is synced")
RUN = "experiments/run"


def networks(value):
    return {"net_g": {"params": {"weight": torch.full((2,), float(value))}}}


def value_of(content):
    return int(content["params"]["weight"][0])


@pytest.fixture
def recorder(tmp_path):
    (tmp_path / "disk").mkdir()
    return Recorder(tmp_path / "disk")


def states(recorder, folder):
    """Every different state of the disk in a folder of its own, and all that was promised before it."""
    seen = set()
    for count, disk in crashes(recorder.operations):
        promised = tuple(one.path for one in recorder.operations[:count] if one.kind == "promise")
        key = frozenset(disk.items()), promised
        if key in seen:
            continue
        seen.add(key)
        place = folder / str(len(seen))
        restore(disk, place)
        yield place / RUN, promised, [str(one) for one in recorder.operations[:count]]


def latest(promises, what):
    return max((int(promise.split()[1]) for promise in promises if promise.startswith(what)), default=None)


def save(recorder, checkpointer, iteration):
    checkpointer.save(iteration, networks(iteration), {"value": iteration})
    checkpointer.finish()
    recorder.promise(f"checkpoint {iteration}")


def save_best(recorder, checkpointer, iteration):
    checkpointer.save_networks("best", networks(iteration))
    checkpointer.finish()
    recorder.promise(f"best {iteration}")


def assert_recovers(run, promised, done):
    """The newest checkpoint is whole and not older than promised, and so are the best weights."""
    checkpoint, _ = Checkpointer(run).newest()
    wanted = latest(promised, "checkpoint")
    assert (checkpoint is not None) or wanted is None, done
    if checkpoint is not None:
        assert checkpoint.iteration >= (wanted or 0), done
        assert checkpoint.state["value"] == value_of(checkpoint.networks["net_g"]) == checkpoint.iteration
    best, wanted = run / "models/net_g_best.pth", latest(promised, "best")
    assert best.exists() or wanted is None, done
    if best.exists():
        assert value_of(torch.load(best, weights_only=True)) >= (wanted or 0), done


def recover_from_all(recorder, folder):
    """Try every state of the disk; return how many there were."""
    count = 0
    for run, promised, done in states(recorder, folder):
        assert_recovers(run, promised, done)
        count += 1
    return count


def test_every_crash_of_saves_rotations_and_best_updates_is_recovered_from(recorder, tmp_path):
    with recorder.recording(), locked(recorder.root / RUN):
        checkpointer = Checkpointer(recorder.root / RUN, keep=1)
        for iteration in (4, 8, 12):
            save(recorder, checkpointer, iteration)
            if iteration < 12:
                save_best(recorder, checkpointer, iteration)
    assert recover_from_all(recorder, tmp_path / "crashed") > 500


def test_a_run_goes_on_from_every_crash_and_leaves_no_rubbish(recorder, tmp_path):
    with recorder.recording():
        checkpointer = Checkpointer(recorder.root / RUN, keep=1)
        save(recorder, checkpointer, 4)
        save(recorder, checkpointer, 8)
    for run, _, done in states(recorder, tmp_path / "crashed"):
        checkpointer = Checkpointer(run, keep=1)
        checkpointer.remove_leftovers()
        checkpointer.save(12, networks(12), {"value": 12})
        checkpointer.finish()
        assert checkpointer.newest()[0].iteration == 12, done
        assert checkpointer.iterations() == [12], done
        assert not list(run.rglob(".*")), done


def test_every_crash_of_going_back_leaves_what_is_gone_back_to_and_all_else_somewhere(recorder, tmp_path):
    with recorder.recording():
        checkpointer = Checkpointer(recorder.root / RUN)
        for iteration in (4, 8, 12):
            save(recorder, checkpointer, iteration)
        recorder.promise("going back")
        checkpointer.set_newer_aside(4)
    for run, promised, done in states(recorder, tmp_path / "crashed"):
        if "going back" in promised:
            checkpoint, _ = Checkpointer(run).newest()
            assert checkpoint is not None, done
            kept = {path.name for path in run.rglob("*.pth")}
            assert kept >= {"net_g_4.pth", "net_g_8.pth", "net_g_12.pth"}, done


@pytest.mark.parametrize("of_folders", [False, True])
def test_a_writer_that_does_not_wait_for_the_disk_is_found_out(recorder, tmp_path, monkeypatch, of_folders):
    with recorder.recording():
        sync = os.fsync
        monkeypatch.setattr(
            os, "fsync", lambda file: stat.S_ISDIR(os.fstat(file).st_mode) == of_folders or sync(file)
        )
        save(recorder, Checkpointer(recorder.root / RUN), 4)
        monkeypatch.undo()
    with pytest.raises((AssertionError, CheckpointError)):
        recover_from_all(recorder, tmp_path / "crashed")
