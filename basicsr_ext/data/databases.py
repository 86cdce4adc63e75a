"""LMDB files, of which a process opens each only once, and BasicSR's data sets in them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
from typing_extensions import override

from .images import ImageError, decode_image
from .sources import StoredSource, file_version


def environment(path: str) -> Any:
    """Return the open database, a folder or a file, for reading.

    LMDB allows one handle a process, so all sources and threads share it.
    """
    with _OPENING:
        return _open_environment(path)


def close_environments() -> None:
    """Close all databases; :func:`environment` opens them again."""
    with _OPENING:
        _open_environment.cache_clear()


@cache
def _open_environment(path: str) -> Any:
    import lmdb

    return lmdb.open(
        path, subdir=os.path.isdir(path), readonly=True, lock=False, readahead=False, meminit=False
    )


_OPENING = RLock()


def _before_fork() -> None:
    # A handle must not be used in a process forked from the one that opened it, nor may that process
    # inherit the lock from a thread it does not have.
    _OPENING.acquire()
    close_environments()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_OPENING.release, after_in_child=_OPENING.release
    )


@dataclass(frozen=True)
class LmdbSource(StoredSource):
    """A BasicSR LMDB: encoded images by key, listed with their shapes in ``meta_info.txt``."""

    folder: str
    keys: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]

    @property
    @override
    def names(self) -> Sequence[str]:
        return self.keys

    @override
    def read(self, index: int) -> np.ndarray:
        with environment(self.folder).begin(buffers=True) as transaction:
            data = transaction.get(self.keys[index].encode())
            if data is None:
                raise ImageError(f"{self.path(index)}: listed in meta_info.txt, absent in the database")
            return decode_image(data, self.path(index))

    @override
    def size(self, index: int) -> tuple[int, int]:
        return self.sizes[index]

    @override
    def recorded_sizes(self) -> np.ndarray:
        return np.array(self.sizes, np.int32)

    @override
    def path(self, index: int) -> str:
        return f"{self.folder}/{self.keys[index]}"

    @override
    def version(self, index: int) -> str:
        return file_version(os.path.join(self.folder, "data.mdb"))

    @override
    def take(self, indices: Sequence[int]) -> LmdbSource:
        keys = tuple(self.keys[index] for index in indices)
        return LmdbSource(self.folder, keys, tuple(self.sizes[index] for index in indices))


# The name ends in no space, lest a long run of spaces be tried at every place.
_META_LINE = re.compile(
    r"(?P<name>.*\S)\s+\((?P<height>\d{1,9}),\s*(?P<width>\d{1,9}),\s*\d+\)(\s+\d+)?\s*", re.ASCII
)


def open_lmdb(folder: str, key: str) -> LmdbSource:
    """Open a BasicSR LMDB.

    Args:
        folder: holds ``data.mdb`` and ``meta_info.txt``.
        key: the option that named it, for messages (``dataroot_gt``).

    Raises:
        ValueError: ``meta_info.txt`` is missing, empty or not understood.
    """
    try:
        lines = Path(folder, "meta_info.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{key}: {folder} has no readable meta_info.txt, as BasicSR's LMDBs do") from error
    images = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        entry = _META_LINE.fullmatch(line)
        if entry is None:
            raise ValueError(
                f"{key}: {folder}/meta_info.txt:{number}: found {line!r}, expected 'name.png (h,w,c) 1'"
            )
        size = int(entry["height"]), int(entry["width"])
        images.append((os.path.splitext(entry["name"])[0], size))
    if not images:
        raise ValueError(f"{key}: {folder}/meta_info.txt lists no image")
    keys, sizes = zip(*sorted(images), strict=True)
    return LmdbSource(folder, keys, sizes)
