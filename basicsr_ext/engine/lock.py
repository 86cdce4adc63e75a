"""One run at a time in a folder: a lock that is the process's own and gone with it."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..files import make_folder
from .logger import LOG

_NAME = "run.lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems answer that have none."""


class FolderInUseError(RuntimeError):
    """Another process has locked the folder; the message says which one."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock inside the block; the folder is created, and removed if it is still empty.

    The lock is one of POSIX on ``run.lock``: the kernel takes it back however the process ends, processes
    forked from it do not hold it, and NFS passes it on to other machines. It does not keep out threads of
    this process. Where the file system has no locks, one line says so.

    Raises:
        FolderInUseError: another process holds it.
        OSError: the folder cannot be created or written to.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    make_folder(folder)
    path = folder / _NAME
    file = _open_and_lock(path)
    try:
        os.ftruncate(file, 0)
        os.write(file, json.dumps({"host": socket.gethostname(), "process": os.getpid()}).encode())
        yield
    finally:
        # Removed before it is given up: who waits for this very file finds another one in its place.
        path.unlink(missing_ok=True)
        os.close(file)
        for empty in created:
            with suppress(OSError):  # the usual case: it holds a run now
                empty.rmdir()


def _open_and_lock(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file, path)
            if _is_at(file, path):
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock(file: int, path: Path) -> None:
    try:
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        LOG.warning("This system has no file locks: start no second run in %s", path.parent)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise FolderInUseError(_holder(path)) from None
        if error.errno not in _NO_LOCKS:
            raise
        LOG.warning("%s is on a file system without locks: start no second run in it", path.parent)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['process']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _is_at(file: int, path: Path) -> bool:
    """Say whether ``path`` still is the open file: who held the lock before may have removed it."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
