"""What a source of images is, and sources of image files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from typing_extensions import override

from ..config.paths import IMAGE_SUFFIXES, image_files
from .images import image_size, read_image
from .names import Names, Stems

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

    def recorded_sizes(self) -> np.ndarray:
        """Return what :meth:`size` gives, (N, 2) int32, as far as it is at hand; below 1 elsewhere.

        Unlike :meth:`size` it may be out of date: that of a file which has been overwritten since.
        """
        return np.zeros((len(self), 2), np.int32)

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
    """Image files below a folder.

    Args:
        folder: the folder.
        files: their paths in it, with ``/``.
        sizes: what :meth:`recorded_sizes` returns, if anything is known.
    """

    folder: str
    files: Sequence[str]
    sizes: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    @override
    def names(self) -> Sequence[str]:
        return Stems(self.files)

    @override
    def __len__(self) -> int:
        return len(self.files)

    @override
    def recorded_sizes(self) -> np.ndarray:
        return super().recorded_sizes() if self.sizes is None else self.sizes

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
        sizes = None if self.sizes is None else self.sizes[np.asarray(indices, np.int64)]
        return FileSource(self.folder, Names.of(self.files[index] for index in indices), sizes)


@dataclass(frozen=True)
class _Wrapper(ImageSource):
    source: ImageSource

    @property
    @override
    def names(self) -> Sequence[str]:
        return self.source.names

    @override
    def __len__(self) -> int:
        return len(self.source)

    @override
    def size(self, index: int) -> tuple[int, int]:
        return self.source.size(index)

    @override
    def recorded_sizes(self) -> np.ndarray:
        return self.source.recorded_sizes()

    @override
    def path(self, index: int) -> str:
        return self.source.path(index)


@dataclass(frozen=True)
class GreySource(_Wrapper):
    """Another source's images in grey, as a function makes them."""

    to_grey: Callable[[np.ndarray], np.ndarray]

    @property
    @override
    def reads_crops(self) -> bool:
        return self.source.reads_crops

    @override
    def read(self, index: int) -> np.ndarray:
        return self.to_grey(self.source.read(index))

    @override
    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        return self.to_grey(self.source.read_crop(index, top, left, height, width))


@dataclass(frozen=True)
class InMemorySource(_Wrapper):
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
        least: side up to which a smaller image goes on mirrored at bottom and right, its edge repeated
            (OpenCV's BORDER_REFLECT).

    Attributes:
        stored: (height, width) after cutting.
        shape: (height, width) with what is mirrored.

    Raises:
        ValueError: nothing is left after cutting.
    """

    def __init__(self, source: ImageSource, index: int, multiple: int = 1, least: int = 1) -> None:
        self._source, self._index = source, index
        # Where a crop costs as much as the image, one decoding serves all windows.
        self._whole = None if source.reads_crops else source.read(index)
        height, width = source.size(index) if self._whole is None else self._whole.shape[:2]
        self.stored = height // multiple * multiple, width // multiple * multiple
        if not all(self.stored):
            raise ValueError(f"the image has {height}x{width} pixels, less than {multiple}x{multiple}")
        self.shape = max(self.stored[0], least), max(self.stored[1], least)

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        rows, columns = (
            slice(*part.indices(extent)) for part, extent in zip(window, self.shape, strict=True)
        )
        if rows.stop <= self.stored[0] and columns.stop <= self.stored[1]:
            return self._read(rows, columns)
        rows, columns = (
            mirrored_indices(extent, part.start, part.stop - part.start)
            for part, extent in zip((rows, columns), self.stored, strict=True)
        )
        return self._read(touched(rows), touched(columns))[np.ix_(rows - rows.min(), columns - columns.min())]

    def _read(self, rows: slice, columns: slice) -> np.ndarray:
        if self._whole is not None:
            return self._whole[rows, columns]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return self._source.read_crop(self._index, rows.start, columns.start, height, width)


def mirrored_indices(extent: int, start: int, length: int) -> np.ndarray:
    """Return which of an image's rows stand at ``start``, ``start + 1``, … where it goes on mirrored.

    The edge is repeated: rows 0, 1, 2 are followed by 2, 1, 0, 0, 1, ….

    Args:
        extent: number of rows of the image.
        start: first row wanted; negative ones lie before the image.
        length: number of rows wanted.
    """
    index = np.arange(start, start + length) % (2 * extent)
    return np.minimum(index, 2 * extent - 1 - index)


def touched(indices: np.ndarray) -> slice:
    """Return the rows from the first to the last of ``indices``."""
    return slice(int(indices.min()), int(indices.max()) + 1)


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


def require_unique(names: Iterable[str], folder: str, key: str) -> None:
    """Raise ValueError if images share a name.

    Args:
        names: of the images.
        folder: that holds them.
        key: the option that named it, for messages (``dataroot_gt``).
    """
    seen: set[str] = set()
    doubled = [name for name in names if name in seen or seen.add(name)]
    if doubled:
        raise ValueError(f"{key}: {folder} holds several images called {first_few(doubled)}")


def open_folder(folder: str, key: str) -> FileSource:
    """Open a folder of image files, as :func:`~basicsr_ext.config.paths.image_files` finds them.

    Args:
        folder: the folder.
        key: the option that named it, for messages (``dataroot_gt``).

    Raises:
        ValueError: there are none.
    """
    return from_files(folder, image_files(folder), key)


def from_files(folder: str, files: Iterable[str], key: str) -> FileSource:
    """Return the image files of a folder in order of their names; raise ValueError if there are none."""
    ordered = sorted(files)
    if not ordered:
        raise ValueError(f"{key}: {folder} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    return FileSource(folder, Names.of(ordered))


def file_version(path: str) -> str:
    """Return a text that changes when a file does: its name, size and time of change."""
    status = os.stat(path)
    return f"{os.path.basename(path)} {status.st_size} {status.st_mtime_ns}"
