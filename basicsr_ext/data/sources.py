"""Where images come from: folders of files, BasicSR's LMDBs, stores; how the sets of a pair are matched."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from threading import RLock
from typing import Any

import numpy as np
from typing_extensions import override

from ..config.paths import IMAGE_SUFFIXES
from .images import ImageError, decode_image, grey, image_size, read_image

_LISTED = 5


class ImageSource(ABC):
    """A sequence of images, read on demand; can be pickled and handed to loader processes."""

    @property
    def reads_crops(self) -> bool:
        """Whether :meth:`read_crop` costs less than :meth:`read`, and :meth:`size` next to nothing."""
        return False

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Relative paths without suffix, ``/`` between folders; unique."""

    @abstractmethod
    def read(self, index: int) -> np.ndarray:
        """Return the image, (H, W, 3) RGB or (H, W, 1) grey, uint8 or uint16; not to be written to."""

    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Return rows ``top`` to ``top + height`` and columns ``left`` to ``left + width`` of the image.

        Raises:
            ValueError: the crop leaves the image.
        """
        image = self.read(index)
        require_inside(image.shape[:2], top, left, height, width)
        return image[top : top + height, left : left + width]

    @abstractmethod
    def size(self, index: int) -> tuple[int, int]:
        """Return (height, width), without decoding the image where possible."""

    @abstractmethod
    def path(self, index: int) -> str:
        """Return what messages call the image."""

    def __len__(self) -> int:
        return len(self.names)


class StoredSource(ImageSource):
    """Images that lie in one folder."""

    folder: str

    @abstractmethod
    def version(self, index: int) -> str:
        """Return a text that changes when the file changes that holds the image.

        Raises:
            OSError: there is no such file.
        """

    @abstractmethod
    def take(self, indices: Sequence[int]) -> StoredSource:
        """Return the images at ``indices``, in that order."""


@dataclass(frozen=True)
class FileSource(StoredSource):
    """Image files below a folder."""

    folder: str
    files: tuple[str, ...]

    @property
    @override
    def names(self) -> Sequence[str]:
        return tuple(map(_without_suffix, self.files))

    @override
    def read(self, index: int) -> np.ndarray:
        return read_image(self.path(index))

    @override
    def size(self, index: int) -> tuple[int, int]:
        return image_size(self.path(index))

    @override
    def path(self, index: int) -> str:
        return os.path.join(self.folder, self.files[index])

    @override
    def version(self, index: int) -> str:
        return file_version(self.path(index))

    @override
    def take(self, indices: Sequence[int]) -> FileSource:
        return FileSource(self.folder, tuple(self.files[index] for index in indices))


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
    def path(self, index: int) -> str:
        return f"{self.folder}/{self.keys[index]}"

    @override
    def version(self, index: int) -> str:
        return file_version(os.path.join(self.folder, "data.mdb"))

    @override
    def take(self, indices: Sequence[int]) -> LmdbSource:
        keys = tuple(self.keys[index] for index in indices)
        return LmdbSource(self.folder, keys, tuple(self.sizes[index] for index in indices))


@dataclass(frozen=True)
class _Wrapper(ImageSource):
    source: ImageSource

    @property
    @override
    def names(self) -> Sequence[str]:
        return self.source.names

    @override
    def size(self, index: int) -> tuple[int, int]:
        return self.source.size(index)

    @override
    def path(self, index: int) -> str:
        return self.source.path(index)


class GreySource(_Wrapper):
    """Another source's images in grey."""

    @property
    @override
    def reads_crops(self) -> bool:
        return self.source.reads_crops

    @override
    def read(self, index: int) -> np.ndarray:
        return grey(self.source.read(index))

    @override
    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        return grey(self.source.read_crop(index, top, left, height, width))


@dataclass(frozen=True)
class RememberedSource(_Wrapper):
    """Another source's images, each decoded once a process; for a handful of small images only."""

    _images: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @override
    def read(self, index: int) -> np.ndarray:
        if index not in self._images:
            image = self.source.read(index)
            image.flags.writeable = False
            self._images[index] = image
        return self._images[index]


class LazyImage:
    """One image of a source, of which only the windows asked for are read: ``image[rows, columns]``.

    Args:
        source: holds the image.
        index: of the image.
        multiple: rows and columns beyond a multiple of this are cut, at bottom and right.

    Attributes:
        shape: (height, width) after cutting.
    """

    def __init__(self, source: ImageSource, index: int, multiple: int = 1) -> None:
        self._source, self._index = source, index
        # Where a crop costs as much as the image, one decoding serves all windows.
        self._whole = None if source.reads_crops else source.read(index)
        height, width = source.size(index) if self._whole is None else self._whole.shape[:2]
        self.shape = height // multiple * multiple, width // multiple * multiple

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        (top, bottom, _), (left, right, _) = (
            part.indices(extent) for part, extent in zip(window, self.shape, strict=True)
        )
        if self._whole is not None:
            return self._whole[top:bottom, left:right]
        return self._source.read_crop(self._index, top, left, bottom - top, right - left)


def require_inside(shape: Sequence[int], top: int, left: int, height: int, width: int) -> None:
    """Raise ValueError unless a crop lies in an image of ``shape`` (height, width)."""
    inside = min(top, left) >= 0 and top + height <= shape[0] and left + width <= shape[1]
    if not inside or height < 1 or width < 1:
        raise ValueError(
            f"a {height}x{width} crop at ({top}, {left}) does not lie in an image of"
            f" {shape[0]}x{shape[1]} pixels"
        )


def first_few(names: Sequence[str]) -> str:
    """Return the first five of ``names`` in one line, and how many more there are."""
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def open_source(root: str, key: str) -> StoredSource:
    """Open a folder of images, at any depth, a ``.lmdb`` or a ``.store``; images are in order of their names.

    Args:
        root: the folder.
        key: the option that named it, for messages (``dataroot_gt``).

    Raises:
        ValueError: missing, empty, or with two images of one name.
    """
    folder = os.path.expanduser(root)
    if not os.path.isdir(folder):
        raise ValueError(f"{key}: {root} is not a folder")
    kind = os.path.splitext(folder.rstrip("/"))[1]
    source = {".lmdb": _open_lmdb, ".store": _open_store}.get(kind, _open_folder)(folder, key)
    seen: set[str] = set()
    doubled = [name for name in source.names if name in seen or seen.add(name)]
    if doubled:
        raise ValueError(f"{key}: {root} holds several images called {first_few(doubled)}")
    return source


def select(source: StoredSource, meta_info: str, key: str) -> StoredSource:
    """Return the images that a meta-info file lists: names in the first column, relative to the source.

    Raises:
        ValueError: the file is missing or empty, or lists an image that does not exist.
    """
    try:
        lines = Path(meta_info).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{key}: {meta_info} cannot be read ({reason})") from error
    wanted = [_without_suffix(line.split()[0]) for line in lines if line.strip()]
    if not wanted:
        raise ValueError(f"{key}: {meta_info} lists no image")
    place = {name: index for index, name in enumerate(source.names)}
    missing = [name for name in wanted if name not in place]
    if missing:
        raise ValueError(f"{key}: {meta_info} lists images that {source.folder} lacks: {first_few(missing)}")
    return source.take([place[name] for name in wanted])


def match(
    gt: StoredSource, lq: StoredSource, template: str, key: str, *, allow_extra: bool = False
) -> StoredSource:
    """Return ``lq`` in the order of ``gt``: to each image the one with its name put into ``template``.

    Suffixes may differ. LMDBs go by equal keys and ignore the template, as BasicSR's do.

    Args:
        gt: the images to find partners for.
        lq: where to look for them.
        template: ``filename_tmpl``; ``"{}x4"`` pairs ``0001`` with ``0001x4``.
        key: the option that named ``lq``, for messages.
        allow_extra: accept images of ``lq`` that have no partner.

    Raises:
        ValueError: images without partner on either side; the message lists them.
    """
    if isinstance(lq, LmdbSource):
        template = "{}"
    partners = [_from_template(name, template) for name in gt.names]
    place = {name: index for index, name in enumerate(lq.names)}
    missing = [name for name in partners if name not in place]
    extra = [] if allow_extra else sorted(place.keys() - set(partners))
    if missing or extra:
        complaints = []
        if missing:
            complaints.append(f"{lq.folder} lacks partners of {gt.folder}: {first_few(missing)}")
        if extra:
            complaints.append(f"{lq.folder} holds images without partner in {gt.folder}: {first_few(extra)}")
        hint = f" (filename_tmpl is {template!r})"
        raise ValueError(f"{key}: {'; '.join(complaints)}{hint}")
    return lq.take([place[name] for name in partners])


def _open_store(folder: str, key: str) -> StoredSource:
    from .store import open_store

    return open_store(folder, key)


def _open_folder(folder: str, key: str) -> FileSource:
    files = []
    # Data sets are often put together from links to folders elsewhere.
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [
            Path(parent, name).relative_to(folder).as_posix()
            for name in names
            if not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)
        ]
    if not files:
        raise ValueError(f"{key}: {folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return FileSource(folder, tuple(sorted(files)))


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

# The name ends in no space, lest a long run of spaces be tried at every place.
_META_LINE = re.compile(
    r"(?P<name>.*\S)\s+\((?P<height>\d{1,9}),\s*(?P<width>\d{1,9}),\s*\d+\)(\s+\d+)?\s*", re.ASCII
)


def _open_lmdb(folder: str, key: str) -> LmdbSource:
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
        images.append((_without_suffix(entry["name"]), size))
    if not images:
        raise ValueError(f"{key}: {folder}/meta_info.txt lists no image")
    keys, sizes = zip(*sorted(images), strict=True)
    return LmdbSource(folder, keys, sizes)


def file_version(path: str) -> str:
    """Return a text that changes when a file does: its name, size and time of change."""
    status = os.stat(path)
    return f"{os.path.basename(path)} {status.st_size} {status.st_mtime_ns}"


def _without_suffix(file: str) -> str:
    return os.path.splitext(file)[0]


def _from_template(name: str, template: str) -> str:
    path = PurePosixPath(name)
    return (path.parent / template.format(path.name)).as_posix()
