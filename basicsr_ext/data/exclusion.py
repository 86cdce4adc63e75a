"""One process at a time."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError as error:  # pragma: no cover
    raise ImportError("data sets need a POSIX system, such as Linux or macOS") from error

LOG = logging.getLogger("basicsr_ext")

_ASKED_EVERY, _TOLD_EVERY = 0.5, 60.0
"""Seconds, while another process has the lock."""


@contextmanager
def exclusive(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock of a file against all other processes; the system lifts it when its holder dies.

    Args:
        path: the file; made if need be, in a folder that exists.
        doing: what others do meanwhile, for messages: "pack /data/DF2K".

    Raises:
        OSError: the file cannot be made, or its file system has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        started, told = time.monotonic(), -_TOLD_EVERY
        while not _lock(descriptor):
            waited = time.monotonic() - started
            if waited - told >= _TOLD_EVERY:
                told = waited
                LOG.info("Waiting for another process to %s (%.0f min)", doing, waited / 60)
            time.sleep(_ASKED_EVERY)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Take the lock unless another process has it; say whether it is ours."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
