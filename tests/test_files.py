"""Files appear whole or not at all, whoever writes them and whatever happens meanwhile."""

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from basicsr_ext.files import remove_leftovers, write_atomically

# Writes "new" to a file, and waits for the kill when its content is in the temporary file.
VICTIM = """
import os, sys, time
from basicsr_ext.files import write_atomically
os.fsync = lambda _: (print("written", flush=True), time.sleep(60))
write_atomically(sys.argv[1], b"new")
"""


def test_a_file_is_written_below_folders_that_are_made(tmp_path):
    write_atomically(tmp_path / "a/b/file", b"data")
    assert (tmp_path / "a/b/file").read_bytes() == b"data"


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, durable, failure):
    def fail(*_):
        raise failure

    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync" if durable else "replace", fail)
    with pytest.raises(type(failure)):
        write_atomically(path, b"new", durable=durable)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file_and_what_can_be_removed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with subprocess.Popen([sys.executable, "-c", VICTIM, path], stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        victim.stdout.readline()
        victim.kill()
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / "results.tmp").touch()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "results.tmp"}


def test_durable_files_and_their_folders_are_on_disk_before_the_call_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_mode))
    write_atomically(tmp_path / "result", b"data", durable=False)
    assert synced == []
    write_atomically(tmp_path / "checkpoint", b"data")
    assert [stat.S_ISDIR(mode) for mode in synced] == [False, True]


def test_new_folders_are_on_disk_in_the_folders_that_they_are_in(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    write_atomically(tmp_path / "a/b/quick", b"data", durable=False)
    assert synced == []
    write_atomically(tmp_path / "c/d/checkpoint", b"data")
    assert synced[:2] == [folder.stat().st_ino for folder in (tmp_path, tmp_path / "c")]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "file", b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_the_umask_stays_for_files_that_other_threads_make(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask belongs to all threads"))
    write_atomically(tmp_path / "file", b"data")


def test_of_writers_at_one_time_one_wins_with_a_whole_file(tmp_path):
    path, contents = tmp_path / "file", [bytes([number]) * 2**20 for number in range(8)]

    def write_and_read(content: bytes) -> bytes:
        write_atomically(path, content, durable=False)
        return path.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(write_and_read, contents * 4))
    assert set(found) <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_another_writer_has_begun_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda _: "0")
    (tmp_path / ".file.0.tmp").write_bytes(b"begun")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file", b"data")
    assert (tmp_path / ".file.0.tmp").read_bytes() == b"begun"
