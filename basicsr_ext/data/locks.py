"""Locks between processes, on files. The system lifts them when their holder dies, however it dies."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError as error:  # pragma: no cover
    raise ImportError("packing and caching images need a POSIX system, such as Linux or macOS") from error

LOG = logging.getLogger("basicsr_ext")


@contextmanager
def alone(path: Path, waiting: str) -> Iterator[None]:
    """Hold the lock ``path`` against all other processes; wait as long as it takes.

    Args:
        path: of the file; made if need be.
        waiting: logged when another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            LOG.info("%s", waiting)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def join_users(path: Path) -> int:
    """Become one of the users of ``path``, with the processes forked later; return the lock's descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        # Meanwhile the last user may have left and taken the file with it.
        if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        os.close(descriptor)


def leave_users(descriptor: int) -> bool:
    """Stop being a user; return whether this was the last one, in which case nobody can join meanwhile.

    That lasts until this process ends, or closes ``descriptor``.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


@contextmanager
def if_unused(path: Path) -> Iterator[bool]:
    """Say whether ``path`` has no users; until the end of the block there will be none.

    Users in the calling process count as well.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)
