"""One run at a time in a folder: real processes, and a lock that is gone with them."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest
from helpers import ENVIRONMENT, ROOT, start_ranks, tiny_options

from basicsr_ext import load_options, train
from basicsr_ext.config import OptionError
from basicsr_ext.engine import lock
from basicsr_ext.engine.lock import locked

HOLD = """
import sys
from pathlib import Path
from basicsr_ext.engine.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Return a process that holds the lock of ``run`` until it is told to end or killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        cwd=ROOT,
        env={**ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@pytest.mark.parametrize("auto_resume", [False, True])
def test_a_folder_in_which_a_run_is_going_on_is_refused(tmp_path, holder, auto_resume):
    with pytest.raises(OptionError) as caught:
        train(load_options(tiny_options(tmp_path / "run")), auto_resume=auto_resume)
    (line,) = str(caught.value).splitlines()
    assert f"name: found {tmp_path}/run, in which process {holder.pid} on" in line
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.lock"]


def test_all_ranks_hear_of_the_refusal_and_one_says_it(tmp_path, holder, options_file):
    codes, (told, silent) = start_ranks([options_file(tiny_options(tmp_path / "run"))] * 2)
    assert codes == [2, 2], told + silent
    assert "expected a folder that no other run uses" in told
    assert "expected" not in silent


@pytest.mark.slow
def test_of_two_starts_at_once_one_is_refused(tmp_path, options_file):
    command = [sys.executable, "train.py", "-opt", options_file(tiny_options(tmp_path / "run"))]
    starts = [subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [start.communicate(timeout=120)[1].decode() for start in starts]
    assert sorted(start.returncode for start in starts) == [0, 2], errors
    (line,) = "".join(errors).splitlines()
    assert "in which process" in line or "which already holds a run" in line


def test_a_lock_is_gone_with_its_process_however_that_ended(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / "run/run.lock").exists()
    with locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").joinpath("run.lock").exists()


def test_a_run_refused_for_its_options_leaves_no_folder(tmp_path):
    options = tiny_options(tmp_path / "new/run")
    options["train"]["pixel_opt"]["reduction"] = "average"
    checked = load_options(options)
    with pytest.raises(OptionError, match="pixel_opt"):
        train(checked)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_to_is_one_problem(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"experiments_root: found .*expected a folder that can be written"):
        train(load_options(tiny_options(tmp_path / "file/run")))


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    train(load_options(tiny_options(tmp_path / "first")))  # so that the log has a console
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with locked(tmp_path / "run"):
        assert "is on a file system without locks" in capsys.readouterr().out


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this system does not list open files")
def test_a_lock_that_is_given_up_leaves_no_file_open(tmp_path, monkeypatch):
    before = os.listdir("/proc/self/fd")
    for replaced in ([], [False]):
        # A file that its holder removes meanwhile is closed, too.
        monkeypatch.setattr(lock, "_is_at", lambda *_, left=replaced: left.pop() if left else True)
        with locked(tmp_path / "run"):
            pass
    assert os.listdir("/proc/self/fd") == before
