"""``cache: disk``: a store made on first use, for those who prepare nothing.

It lies beside the folder of images, for good, and holds exactly the images that a data set uses. Its name
holds a fingerprint of their files, so that a folder that has changed gets a store of its own, and a store
that another run reads is never touched.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from typing_extensions import override

from .packing import pack, progress_bar
from .sources import StoredSource
from .store import LISTING, Layout, StoreSource, open_store

LOG = logging.getLogger("basicsr_ext")

Cache = Literal["none", "disk"]


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
    def recorded_sizes(self) -> np.ndarray:
        return self.store.recorded_sizes()

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
    """Return a source of the same images that reads crops from a store; make the store if need be.

    Of several processes that ask at once, one makes the store while the others wait. A store is returned
    as it is: it needs no other.

    Raises:
        ValueError: an image cannot be read, or there is no place for the store.
    """
    if mode == "none" or isinstance(source, StoreSource):
        return source
    folder = f"{source.folder.rstrip('/')}.cache-{_fingerprint(source)}.store"
    if not Path(folder, LISTING).exists():
        _make_store(source, folder)
    store = open_store(folder, "cache")
    position = {name: index for index, name in enumerate(store.names)}
    return CachedSource(source.folder, source, store.take([position[name] for name in source.names]))


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


def _make_store(source: StoredSource, folder: str) -> None:
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    needed = 3 * sum(height * width for height, width in map(source.size, range(len(source))))
    packed = sum(file.stat().st_size for file in Path(folder).glob("*.mdb"))
    parent = os.path.dirname(folder) or "."
    free = shutil.disk_usage(parent).free
    if needed > free + packed:
        raise ValueError(
            f"cache: disk: {len(source)} images of {source.folder} take {needed / 1e9:.1f} GB or more,"
            f" {parent} has {free / 1e9:.1f} GB left"
        )
    LOG.info("Packing %d images of %s for cache: disk", len(source), source.folder)
    pack(source, folder, Layout(), workers, progress_bar(), again=False)
