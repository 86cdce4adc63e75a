"""Stores: images as tiles of raw pixels in LMDB files, of which a crop reads only the tiles under it.

A store is a folder whose name ends in ``.store``:

============== ===================================================================================
``meta.yml``   how the images are laid out (:class:`Layout`)
``images.txt`` the images, one a line: name, (height, width, channels), type, checksum; written last
``00.mdb`` ... the shards, one LMDB file each; a name's CRC-32 decides its shard
============== ===================================================================================

An image is cut to square tiles, left to right, then down; those at the right and at the bottom are
smaller. A tile is the value of the key ``name, 0, number``: its pixels as they lie in memory, (rows,
columns, channels), RGB, or an image file of them. The key ``name, 0`` holds a
:class:`Header`. Grey images, which sources give as three equal channels, are kept as one.

Why not one value an image: reading a value of LMDB through Python touches all of its pages, so that a
crop from a data set larger than memory would read its whole image from disk.

A store that is complete is never changed by readers; while ``scripts/make_store.py`` updates one, it
must not be trained on.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import yaml
from typing_extensions import override

from ..files import write_atomically
from .databases import environment
from .images import ImageError
from .names import Names
from .sources import StoredSource, file_version, require_inside

FORMAT = 2
"""Of new stores; those of format 1, whose checksums leave sizes out, are read and continued as they are."""
# 143 * 143 values fill five memory pages, LMDB's own 16 bytes included, with next to nothing to spare,
# whatever the number of bytes a pixel has.
TILE = 143
META, LISTING = "meta.yml", "images.txt"

Compression = Literal["none", "png", "webp"]
_HEADER = struct.Struct("<IIBBQI")
_KINDS = {1: np.dtype(np.uint8), 2: np.dtype(np.uint16)}
_MAX_KEY = 511
_MAX_SIDE = 2**31


@dataclass(frozen=True)
class Layout:
    """How the images of a store are laid out.

    Args:
        shards: number of LMDB files.
        tile: side of the tiles, in pixels.
        compression: of the tiles, always without loss; ``"webp"`` is smaller than ``"png"`` and slow to
            write, and falls back to it for 16-bit and grey images.
        format: version of the format.
    """

    shards: int = 1
    tile: int = TILE
    compression: Compression = "none"
    format: int = field(default=FORMAT, compare=False)

    def __str__(self) -> str:
        return f"{self.shards} shards, tiles of {self.tile} pixels, compression {self.compression}"

    def shard(self, name: bytes) -> int:
        """Return the shard that holds the image ``name``, the same one whatever else is in the store."""
        return zlib.crc32(name) % self.shards

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the number of tiles of an image (down, across)."""
        return -(-height // self.tile), -(-width // self.tile)


class Header(NamedTuple):
    """What a store keeps of an image beside its pixels.

    Attributes:
        height: in pixels.
        width: in pixels.
        channels: 3, or 1 for grey.
        depth: bytes a value, 1 or 2.
        version: tells whether the image was made from a file as it is now.
        checksum: CRC-32 of the size, channels and depth as they are stored, and of all tiles.
    """

    height: int
    width: int
    channels: int
    depth: int
    version: int
    checksum: int

    def to_bytes(self) -> bytes:
        """Return the header as it is stored."""
        return _HEADER.pack(*self)

    def checksum_of(self, tiles: Iterable[Any], layout: Layout) -> int:
        """Return what the checksum is with these tiles."""
        checksum = 0 if layout.format == 1 else zlib.crc32(_HEADER.pack(*self[:4], 0, 0))
        for tile in tiles:
            checksum = zlib.crc32(tile, checksum)
        return checksum

    def is_plausible(self) -> bool:
        """Say whether an image can be like this; how large it is, its tiles have to show."""
        sides = 0 < self.height < _MAX_SIDE and 0 < self.width < _MAX_SIDE
        return sides and self.channels in (1, 3) and self.depth in _KINDS

    @classmethod
    def from_bytes(cls, data: Any) -> Header:
        """Read a header back.

        Raises:
            struct.error: not a header.
        """
        return cls(*_HEADER.unpack(data))


@dataclass(frozen=True, eq=False)
class StoreSource(StoredSource):
    """The images of a store.

    Args:
        folder: of the store.
        layout: of its images.
        images: their names.
        shapes: (N, 4): height, width, channels, bytes a value.
    """

    folder: str
    layout: Layout
    images: Names
    shapes: np.ndarray

    @property
    @override
    def names(self) -> Sequence[str]:
        return self.images

    @override
    def __len__(self) -> int:
        return len(self.images)

    @property
    @override
    def reads_crops(self) -> bool:
        return True

    @override
    def size(self, index: int) -> tuple[int, int]:
        height, width = self.shapes[index, :2].tolist()
        return height, width

    @override
    def recorded_sizes(self) -> np.ndarray:
        return self.shapes[:, :2]

    @override
    def path(self, index: int) -> str:
        return f"{self.folder}/{self.images[index]}"

    @override
    def version(self, index: int) -> str:
        return file_version(self._shards[self.layout.shard(self.images.raw(index))])

    @override
    def take(self, indices: Sequence[int]) -> StoreSource:
        images, shapes = self.images.take(indices), self.shapes[np.asarray(indices, np.int64)]
        return StoreSource(self.folder, self.layout, images, shapes)

    @override
    def read(self, index: int) -> np.ndarray:
        return self.read_crop(index, 0, 0, *self.size(index))

    @override
    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        rows, columns, channels, depth = self.shapes[index].tolist()
        require_inside((rows, columns), top, left, height, width)
        name, kind = self.images.raw(index), _KINDS[depth]
        down = _cuts(top, top + height, rows, self.layout.tile)
        across = _cuts(left, left + width, columns, self.layout.tile)
        tiles_a_row = -(-columns // self.layout.tile)
        crop = np.empty((height, width, channels), kind)
        # The views of a tile end with the transaction; only what is copied stays.
        with environment(self._shards[self.layout.shard(name)]).begin(buffers=True) as transaction:
            for y, tile_height, to_rows, from_rows in down:
                for x, tile_width, to_columns, from_columns in across:
                    number = y * tiles_a_row + x
                    data = transaction.get(tile_key(name, number))
                    try:
                        tile = decode_tile(data, (tile_height, tile_width, channels), kind, self.layout)
                    except ValueError as error:
                        raise ImageError(f"{self.path(index)}: tile {number} {error}") from None
                    crop[to_rows, to_columns] = tile[from_rows, from_columns]
        return crop if channels == 3 else np.repeat(crop, 3, axis=2)

    @cached_property
    def _shards(self) -> tuple[str, ...]:
        return tuple(shard_path(self.folder, number) for number in range(self.layout.shards))


def shard_path(folder: str | os.PathLike[str], number: int) -> str:
    """Return the file of a shard."""
    return os.path.join(folder, f"{number:02d}.mdb")


def shard_is_whole(shard: Any, path: str) -> bool:
    """Say whether the file of an open shard is as long as the shard's own notes say.

    Reading beyond the end of a mapped file would kill the process.
    """
    return os.path.getsize(path) >= (shard.info()["last_pgno"] + 1) * shard.stat()["psize"]


def header_key(name: bytes) -> bytes:
    """Return the key of an image's header."""
    return name + b"\0"


def tile_key(name: bytes, number: int) -> bytes:
    """Return the key of an image's tile."""
    return name + b"\0" + number.to_bytes(4, "big")


def name_fits(name: bytes) -> bool:
    """Say whether LMDB takes the keys of an image called ``name``, and the listing the name."""
    return len(tile_key(name, 0)) <= _MAX_KEY and b"\n" not in name


def encode_tile(tile: np.ndarray, layout: Layout) -> bytes:
    """Return the value that holds ``tile``, (h, w, 1 or 3), uint8 or uint16."""
    if layout.compression == "none":
        return tile.tobytes()
    webp = layout.compression == "webp" and tile.dtype == np.uint8 and tile.shape[2] == 3
    # 101 and above mean lossless to OpenCV.
    form, parameters = (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]) if webp else (".png", [])
    return cv2.imencode(form, np.ascontiguousarray(tile), parameters)[1].tobytes()


def decode_tile(data: Any, shape: tuple[int, int, int], kind: np.dtype[Any], layout: Layout) -> np.ndarray:
    """Return a tile from its value; raw ones as a view of it.

    Raises:
        ValueError: absent, or not a tile of that shape and type.
    """
    if data is None:
        raise ValueError("is missing in the store")
    if layout.compression != "none":
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if image is None or image.dtype != kind or image.size != shape[0] * shape[1] * shape[2]:
            raise ValueError("is damaged")
        return image.reshape(shape)
    if len(data) != shape[0] * shape[1] * shape[2] * kind.itemsize:
        raise ValueError("is damaged")
    return np.ndarray(shape, kind, data)


def open_store(folder: str, key: str) -> StoreSource:
    """Open a store and check that its files are complete; checksums are not computed.

    Args:
        folder: of the store.
        key: the option that named it, for messages (``dataroot_gt``).

    Raises:
        ValueError: not a store, not complete, or damaged.
    """
    folder = folder.rstrip("/")
    layout = read_layout(folder, key)
    if layout is None:
        raise ValueError(f"{key}: {folder} is not a store: it has no {META}")
    names, headers = read_listing(folder, key)
    shapes = np.array([header[:4] for header in headers], np.int32).reshape(-1, 4)
    source = StoreSource(folder, layout, Names.of(names), shapes)
    tiles = -(-shapes[:, :2].astype(np.int64) // layout.tile)
    expected = len(names) + int(tiles.prod(axis=1).sum())
    found = sum(_entries(shard_path(folder, number), key) for number in range(layout.shards))
    if found != expected:
        raise ValueError(
            f"{key}: {folder} is damaged: it holds {found} values, {LISTING} tells of {expected};"
            " make_store.py repairs it"
        )
    return source


def read_layout(folder: str, key: str) -> Layout | None:
    """Return what ``meta.yml`` says, None where there is none.

    Raises:
        ValueError: it cannot be understood.
    """
    path = Path(folder, META)
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
        number = said["format"]
        layout = Layout(**said)
    except FileNotFoundError:
        return None
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{key}: {path} cannot be understood ({error})") from error
    if number not in (1, FORMAT):
        raise ValueError(f"{key}: {folder} is a store of format {number}; this version reads 1 to {FORMAT}")
    return layout


def write_layout(folder: str, layout: Layout) -> None:
    """Write ``meta.yml``."""
    text = yaml.safe_dump(asdict(layout), sort_keys=False)
    text = "# Images in tiles, in LMDB files; images.txt lists them.\n" + text
    write_atomically(Path(folder, META), text.encode())


def read_listing(folder: str, key: str) -> tuple[list[bytes], list[Header]]:
    """Return the names and headers (without versions) of ``images.txt``.

    Raises:
        ValueError: missing, as in a store that is not complete, or not understood.
    """
    path = Path(folder, LISTING)
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except OSError as error:
        raise ValueError(
            f"{key}: {folder} is not complete; start scripts/make_store.py again: it keeps what is there"
        ) from error
    names, headers = [], []
    for number, line in enumerate(lines[1:], 2):
        try:
            name, shape, kind, checksum = line.rsplit(" ", 3)
            height, width, channels = map(int, shape.strip("()").split(","))
            header = Header(height, width, channels, np.dtype(kind).itemsize, 0, int(checksum, 16))
            if not header.is_plausible():
                raise ValueError
        except (ValueError, TypeError) as error:
            raise ValueError(f"{key}: {path}:{number}: found {line!r}, expected an image") from error
        names.append(name.encode())
        headers.append(header)
    return names, headers


def write_listing(folder: str, images: Sequence[tuple[bytes, Header]]) -> None:
    """Write ``images.txt``, which makes a store complete."""
    pixels = sum(header.height * header.width for _, header in images)
    lines = [
        f"# {len(images)} images, {pixels / 1e6:.1f} million pixels: name (height,width,channels) type crc32"
    ]
    lines += [
        f"{name.decode()} ({header.height},{header.width},{header.channels})"
        f" {_KINDS[header.depth].name} {header.checksum:08x}"
        for name, header in images
    ]
    write_atomically(Path(folder, LISTING), ("\n".join(lines) + "\n").encode())


def _cuts(start: int, stop: int, extent: int, side: int) -> list[tuple[int, int, slice, slice]]:
    """Return along one axis every tile under the values ``start`` to ``stop`` of an image.

    Returns:
        Number of the tile, its length, its share of the crop, and where in the tile that lies.
    """
    cuts = []
    for number in range(start // side, -(-stop // side)):
        tile = number * side
        first, last = max(tile, start), min(tile + side, stop)
        cuts.append(
            (
                number,
                min(side, extent - tile),
                slice(first - start, last - start),
                slice(first - tile, last - tile),
            )
        )
    return cuts


def _entries(path: str, key: str) -> int:
    """Return how many values a shard holds.

    Raises:
        ValueError: it is missing, damaged or cut off.
    """
    import lmdb

    try:
        shard = environment(path)
        if shard_is_whole(shard, path):
            return shard.stat()["entries"]
    except lmdb.Error as error:
        raise ValueError(
            f"{key}: {path} is missing or damaged ({error}); make_store.py repairs it"
        ) from error
    raise ValueError(f"{key}: {path} is cut off; copy it again, or let make_store.py repair it")
