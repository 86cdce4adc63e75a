"""``cache: ram`` and ``cache: disk``: stores made on first use, for those who prepare nothing.

Both read from a store (:mod:`.store`) of exactly the images that a data set uses. Its name holds a
fingerprint of their files, so that a folder that has changed gets a store of its own, and a store that
another run reads is never touched.

``disk`` puts it beside the folder of images, for good. ``ram`` puts it in the machine's shared memory,
once for all loader processes, ranks and runs that use these images; the last to leave removes it. What
killed processes have left behind, the next one that asks for ``ram`` removes.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from typing_extensions import override

from .locks import if_unused, join_users, leave_users
from .packing import pack, progress_bar
from .sources import StoredSource
from .store import LISTING, Layout, StoreSource, open_store

LOG = logging.getLogger("basicsr_ext")

Cache = Literal["none", "ram", "disk"]
_SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True, eq=False)
class CachedSource(StoredSource):
    """The names and paths of a source, with the pixels of a store of it."""

    folder: str
    original: StoredSource
    store: StoreSource

    @property
    @override
    def names(self) -> Sequence[str]:
        return self.original.names

    @override
    def __len__(self) -> int:
        return len(self.store)

    @property
    @override
    def reads_crops(self) -> bool:
        return True

    @override
    def read(self, index: int) -> np.ndarray:
        return self.store.read(index)

    @override
    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        return self.store.read_crop(index, top, left, height, width)

    @override
    def size(self, index: int) -> tuple[int, int]:
        return self.store.size(index)

    @override
    def path(self, index: int) -> str:
        return self.original.path(index)

    @override
    def version(self, index: int) -> str:
        return self.original.version(index)

    @override
    def take(self, indices: Sequence[int]) -> CachedSource:
        return CachedSource(self.folder, self.original.take(indices), self.store.take(indices))


def cached(source: StoredSource, mode: Cache) -> StoredSource:
    """Return a source of the same images that reads crops from memory or disk; make its store if need be.

    Of several processes that ask at once, one makes the store while the others wait. A store is returned
    as it is: it needs no other.

    Raises:
        ValueError: an image cannot be read, or there is no place for the store.
    """
    if mode == "none" or isinstance(source, StoreSource):
        return source
    names, fingerprint = source.names, _fingerprint(source)
    if mode == "disk":
        folder = f"{source.folder.rstrip('/')}.cache-{fingerprint}.store"
    else:
        # Files of equal name, size and time in two folders are still two sets of images.
        real = hashlib.blake2b(os.fsencode(os.path.realpath(source.folder)), digest_size=8).hexdigest()
        folder = _in_memory(f"{real}-{fingerprint}")
    if not Path(folder, LISTING).exists():
        _make(source, folder, mode)
    store = open_store(folder, "cache")
    place = {name: index for index, name in enumerate(store.names)}
    return CachedSource(source.folder, source, store.take([place[name] for name in names]))


def _fingerprint(source: StoredSource) -> str:
    """Return a text that differs where images, or the files that hold them, differ."""
    digest = hashlib.blake2b(digest_size=8)
    for name, index in sorted((name, index) for index, name in enumerate(source.names)):
        try:
            version = source.version(index)
        except OSError as error:
            raise ValueError(f"{source.path(index)}: cannot be read ({error.strerror or error})") from error
        digest.update(os.fsencode(f"{name}\0{version}\0"))
    return digest.hexdigest()


def _make(source: StoredSource, folder: str, mode: Cache) -> None:
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    needed = 3 * sum(height * width for height, width in map(source.size, range(len(source))))
    there = sum(file.stat().st_size for file in Path(folder).glob("*.mdb"))
    free = shutil.disk_usage(os.path.dirname(folder) or ".").free
    if needed > free + there:
        raise ValueError(
            f"cache: {mode}: {len(source)} images of {source.folder} take {needed / 1e9:.1f} GB or more,"
            f" {os.path.dirname(folder) or '.'} has {free / 1e9:.1f} GB left"
        )
    LOG.info("Packing %d images of %s for cache: %s", len(source), source.folder, mode)
    pack(source, folder, Layout(), workers, progress_bar(), again=False)


def _in_memory(name: str) -> str:
    """Become a user of the folder ``name`` in shared memory, and return it; the last user removes it."""
    root = Path(_SHARED_MEMORY if os.path.isdir(_SHARED_MEMORY) else tempfile.gettempdir())
    root /= f"basicsr_ext-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    for users in root.glob("*.users"):
        if users.stem != name:
            with if_unused(users) as unused:
                if unused:
                    _remove(users)
    _use(root / f"{name}.users")
    return str(root / f"{name}.store")


@cache
def _use(users: Path) -> None:
    atexit.register(_leave, users, join_users(users), os.getpid())


def _leave(users: Path, descriptor: int, process: int) -> None:
    # Processes forked from a user are none themselves.
    if os.getpid() == process and leave_users(descriptor):
        _remove(users)


def _remove(users: Path) -> None:
    shutil.rmtree(users.with_suffix(".store"), ignore_errors=True)
    users.unlink(missing_ok=True)
