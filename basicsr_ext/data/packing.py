"""Writing stores: packed by several threads, continued after a kill, checked by checksums."""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..files import make_folder, remove_leftovers, sync_folder
from .databases import close_environments, environment
from .exclusion import exclusive
from .images import ImageError
from .sources import StoredSource, first_few
from .store import (
    LISTING,
    Header,
    Layout,
    encode_tile,
    header_key,
    name_fits,
    open_store,
    read_layout,
    read_listing,
    shard_is_whole,
    shard_path,
    tile_key,
    write_layout,
    write_listing,
)

LOG = logging.getLogger("basicsr_ext")

T = TypeVar("T")
R = TypeVar("R")

_FIRST_MAP_SIZE = 2**24
_BATCH_BYTES, _BATCH_SECONDS = 2**26, 1.0
_IMAGES_A_THREAD = 2


class PackingError(ValueError):
    """Images that cannot be packed, or a store that cannot be written; the message names them."""


class Track(Protocol):
    """Passes things through and shows how many have come by, as ``rich.progress.track`` does."""

    def __call__(self, things: Iterable[T], description: str, total: int) -> Iterable[T]:
        """Return ``things``, of which there are ``total``."""
        ...


@dataclass(frozen=True)
class Packed:
    """What :func:`pack` did.

    Attributes:
        kept: images that were there already, with the right checksum.
        written: images packed now.
    """

    kept: int
    written: int


def pack(
    source: StoredSource,
    folder: str,
    layout: Layout,
    workers: int = 1,
    track: Track | None = None,
    *,
    again: bool = True,
) -> Packed:
    """Make ``folder`` a store of exactly the images of ``source``.

    What an earlier, perhaps interrupted call has packed is kept if its file is still the same and its
    checksum is right. Only one process at a time packs a store; others wait here. Memory does not grow
    with the number of images: two a thread are held, and 64 MB to be written.

    Args:
        source: the images.
        folder: of the store; made if need be.
        layout: must be that of the store, where there is one.
        workers: threads that decode and compress.
        track: shows how far it has come.
        again: look through a store that is complete already; otherwise it is left alone.

    Raises:
        PackingError: unreadable images (all others are packed, but the store is not complete), a store of
            another layout, unsuitable names, no space.
    """
    import lmdb

    names = _suitable_names(source)
    try:
        make_folder(Path(folder))
        with exclusive(Path(folder, ".lock"), f"pack {folder}"):
            remove_leftovers(Path(folder))
            layout = _ensure_layout(folder, layout)
            if not again and Path(folder, LISTING).exists():
                return Packed(len(names), 0)
            with _Shards(folder, layout) as shards:
                return _update(source, names, shards, workers, track or _untracked)
    except (OSError, lmdb.Error) as error:
        raise PackingError(f"{folder}: cannot be written ({error})") from error


def verify(folder: str, workers: int = 1, track: Track | None = None) -> list[str]:
    """Return the names of the images of a complete store whose pixels do not have their checksum.

    Raises:
        ValueError: not a complete store, or one with files missing or cut off.
    """
    layout = open_store(folder, "store").layout
    names, headers = read_listing(folder, "store")
    shards = [environment(shard_path(folder, number)) for number in range(layout.shards)]

    def intact(number: int) -> bool:
        name = names[number]
        header = _checked_header(shards[layout.shard(name)], name, layout)
        return header is not None and header._replace(version=0) == headers[number]

    results = _in_threads(intact, range(len(names)), workers)
    shown = (track or _untracked)(results, "verifying", len(names))
    return [name.decode() for name, good in zip(names, shown, strict=True) if not good]


def progress_bar() -> Track:
    """Return a :class:`Track` that draws a bar on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return partial(track, console=console, disable=not console.is_terminal)


def _suitable_names(source: StoredSource) -> list[bytes]:
    names = [name.encode() for name in source.names]
    unsuitable = [name.decode() for name in names if not name_fits(name)]
    if unsuitable:
        raise PackingError(f"names that are too long, or have line breaks: {first_few(unsuitable)}")
    return names


def _ensure_layout(folder: str, layout: Layout) -> Layout:
    """Return the layout of the store that is there, or that begins here."""
    found = read_layout(folder, "store")
    if found is None:
        write_layout(folder, layout)
        return layout
    if found != layout:
        raise PackingError(f"{folder} is a store with {found}, not {layout}; remove it to make it anew")
    return found


@dataclass(frozen=True)
class _Image:
    """An image ready to be written."""

    name: bytes
    header: Header
    tiles: Sequence[bytes]


class _Shards:
    """The shards of a store, opened for writing; damaged ones are thrown away."""

    def __init__(self, folder: str, layout: Layout) -> None:
        self.folder, self.layout = folder, layout
        # LMDB allows one handle a process.
        close_environments()
        self._open = [self._open_shard(shard_path(folder, number)) for number in range(layout.shards)]

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *_: object) -> None:
        for shard in self._open:
            shard.close()

    def of(self, name: bytes) -> Any:
        """Return the shard of an image."""
        return self._open[self.layout.shard(name)]

    def names(self) -> set[bytes]:
        """Return the names of all images that are there."""
        names = set()
        for shard in self._open:
            with shard.begin() as transaction, transaction.cursor() as cursor:
                names.update(
                    key[:-1] for key in cursor.iternext(values=False) if key.find(b"\0") == len(key) - 1
                )
        return names

    def remove(self, names: Iterable[bytes]) -> None:
        """Remove images."""
        for name in names:
            with self.of(name).begin(write=True) as transaction:
                _remove(transaction, name)

    def write(self, images: Sequence[_Image]) -> None:
        """Write images, instead of others of their names, in one transaction a shard."""
        import lmdb

        for shard in self._open:
            while True:
                try:
                    with shard.begin(write=True) as transaction:
                        for image in images:
                            if self.of(image.name) is shard:
                                _write(transaction, image)
                    break
                except lmdb.MapFullError:
                    shard.set_mapsize(2 * shard.info()["map_size"])

    def _open_shard(self, path: str) -> Any:
        import lmdb

        # The lock of the whole store makes LMDB's own needless.
        options = {"subdir": False, "lock": False, "map_size": _FIRST_MAP_SIZE, "readahead": False}
        try:
            shard = lmdb.open(path, **options)
            if shard_is_whole(shard, path):
                return shard
            shard.close()
        except (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError):
            pass
        LOG.warning("%s is damaged; its images are packed again", path)
        os.remove(path)
        return lmdb.open(path, **options)


def _update(source: StoredSource, names: list[bytes], shards: _Shards, workers: int, track: Track) -> Packed:
    layout, position = shards.layout, {name: index for index, name in enumerate(names)}
    stored = shards.names()

    def unchanged(name: bytes) -> Header | None:
        header = _checked_header(shards.of(name), name, layout)
        return header if header is not None and header.version == _version(source, position[name]) else None

    candidates = [name for name in names if name in stored]
    surveyed = track(_in_threads(unchanged, candidates, workers), "verifying", len(candidates))
    headers = {name: header for name, header in zip(candidates, surveyed, strict=True) if header is not None}
    kept = len(headers)
    todo, surplus = [name for name in names if name not in headers], stored - position.keys()
    listing = Path(shards.folder, LISTING)
    if todo or surplus:
        # Not complete from the first change to the last.
        listing.unlink(missing_ok=True)
        shards.remove(surplus)
    encoded = _in_threads(lambda name: _encode(source, position[name], name, layout), todo, workers)
    errors = []
    for batch in _batches(track(encoded, "packing", len(todo))):
        images = [image for image in batch if isinstance(image, _Image)]
        errors += [str(error) for error in batch if isinstance(error, ImageError)]
        shards.write(images)
        headers.update((image.name, image.header) for image in images)
    if errors:
        raise PackingError("\n".join(errors))
    if not listing.exists():
        # The listing must not be there without the files of the shards; LMDB syncs only what they hold.
        sync_folder(listing.parent)
        write_listing(shards.folder, [(name, headers[name]) for name in names])
    return Packed(kept, len(todo))


def _version(source: StoredSource, index: int) -> int:
    try:
        text = source.version(index)
    except OSError:
        # Reading the image will tell.
        return 0
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _encode(source: StoredSource, index: int, name: bytes, layout: Layout) -> _Image | ImageError:
    try:
        # Before the pixels are read: a file that changes meanwhile is packed again next time.
        version = _version(source, index)
        image = source.read(index)
    except ImageError as error:
        return error
    if (image == image[..., :1]).all():
        image = image[..., :1]
    side = layout.tile
    height, width, channels = image.shape
    tiles = [
        encode_tile(image[y : y + side, x : x + side], layout)
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]
    header = Header(height, width, channels, image.dtype.itemsize, version, 0)
    return _Image(name, header._replace(checksum=header.checksum_of(tiles, layout)), tiles)


def _checked_header(shard: Any, name: bytes, layout: Layout) -> Header | None:
    """Return an image's header; None if the image is absent or its checksum is wrong."""
    import lmdb

    try:
        with shard.begin(buffers=True) as transaction:
            header = Header.from_bytes(transaction.get(header_key(name), b""))
            down, across = layout.grid(header.height, header.width)
            # A size that is not the image's may ask for any number of tiles.
            if not header.is_plausible() or down * across > transaction.stat()["entries"]:
                return None
            tiles = (transaction.get(tile_key(name, number), b"") for number in range(down * across))
            return header if header.checksum_of(tiles, layout) == header.checksum else None
    except (struct.error, lmdb.Error):
        return None


def _write(transaction: Any, image: _Image) -> None:
    _remove(transaction, image.name)
    transaction.put(header_key(image.name), image.header.to_bytes())
    for number, tile in enumerate(image.tiles):
        transaction.put(tile_key(image.name, number), tile)


def _remove(transaction: Any, name: bytes) -> None:
    with transaction.cursor() as cursor:
        found = cursor.set_range(header_key(name))
        while found and cursor.key().startswith(header_key(name)):
            # Moves on to the next key.
            found = cursor.delete()


def _batches(things: Iterable[_Image | ImageError]) -> Iterator[list[_Image | ImageError]]:
    """Yield lists of things that are worth a transaction: by size, or by time since the last."""
    batch, size, start = [], 0, time.monotonic()
    for thing in things:
        batch.append(thing)
        size += sum(map(len, thing.tiles)) if isinstance(thing, _Image) else 0
        if size >= _BATCH_BYTES or time.monotonic() - start >= _BATCH_SECONDS:
            yield batch
            batch, size, start = [], 0, time.monotonic()
    yield batch


def _in_threads(function: Callable[[T], R], things: Iterable[T], workers: int) -> Iterator[R]:
    """Map with threads, in order; ``things`` are taken only as fast as results are.

    Decoding, compression and checksums run at the same time: they let go of Python's lock.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        running = deque()
        try:
            for thing in things:
                running.append(pool.submit(function, thing))
                if len(running) >= _IMAGES_A_THREAD * max(1, workers):
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def _untracked(things: Iterable[T], description: str, total: int) -> Iterable[T]:
    return things
