"""What is known of large folders of images, so that a start need not look at every file again.

The index of a folder lies in the user's cache, not beside the images: these are often shared, or on a file
system that cannot be written to. It holds the names of all image files, by the folders below it, and the
sizes of those images whose headers have been read. At a start each folder's time of change is compared, one
call a folder. A folder that has changed is listed again, and the files in it whose length or time of change
is another one lose their sizes. What that cannot notice is a file that was overwritten where it lies, without
being renamed: its name is right, its size may be the old one. :func:`~.datasets.check_sizes` therefore looks
into a file before it says anything against it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np

from ..config.paths import Listed, image_files, walk_images
from ..files import cache_folder, write_atomically
from .exclusion import exclusive
from .images import ImageError, image_size
from .names import Names
from .packing import progress_bar
from .sources import FileSource, StoredSource, from_files, require_unique

LOG = logging.getLogger("basicsr_ext")

LEAST = 1000
"""Images from which on a folder has an index; fewer are looked at in a moment."""
_FORMAT = 1
_THREADS = 8
_CHUNK = 256
_NAME = 100
_UNREADABLE = -1


class _DamagedError(Exception):
    """An index that cannot be used; the message says why."""


@dataclass(frozen=True, eq=False)
class FolderIndex:
    """The image files of a folder and all below it.

    Attributes:
        folders: by path, in the order of the walk.
        names: paths of the files, sorted.
        folder_of: (N,) int32, the number in ``folders`` of each file's folder.
        sizes: (N, 2) int32, height and width; 0 where the header has not been read, -1 where it cannot be.
        stamps: (N, 2) int64, length in bytes and time of change of each file when its header was read.
    """

    folders: Mapping[str, Listed]
    names: Names
    folder_of: np.ndarray
    sizes: np.ndarray
    stamps: np.ndarray


_NOTHING = FolderIndex(
    {}, Names.of(()), np.zeros(0, np.int32), np.zeros((0, 2), np.int32), np.zeros((0, 2), np.int64)
)


def open_indexed_folder(folder: str, key: str) -> FileSource:
    """Open a folder of image files, as :func:`.open_folder` does, by its index if it is a large one.

    Of several processes that open a folder at once, one lists what has changed while the others wait.

    Args:
        folder: the folder.
        key: the option that named it, for messages (``dataroot_gt``).

    Raises:
        ValueError: there are no images, or two of one name.
    """
    path = index_path(folder)
    index, damage = _NOTHING, ""
    try:
        index = _load(path)
    except _DamagedError as error:
        damage = str(error)
    if index is _NOTHING:
        few = list(islice(image_files(folder), LEAST))
        if len(few) < LEAST:
            return _unique(from_files(folder, few, key), key)
    elif _is_current(folder, index):
        return FileSource(folder, index.names, index.sizes)
    with _alone(path, f"list {folder}"):
        # Whoever had the lock before may have done it.
        index = _load_or_nothing(path)
        if not _is_current(folder, index):
            index = _updated(folder, index)
            _unique(from_files(folder, index.names, key), key)
            if damage:
                LOG.warning("%s is made anew: %s", path, damage)
            _save(path, index)
    return FileSource(folder, index.names, index.sizes)


def measured(source: StoredSource) -> StoredSource:
    """Return a source that knows the sizes of its images: of files, headers are read that have not been yet.

    Of several processes that ask at once for a folder with an index, one reads while the others wait.
    """
    if not isinstance(source, FileSource) or (source.recorded_sizes() != 0).all():
        return source
    path = index_path(source.folder)
    if not path.exists():
        missing = np.flatnonzero(source.recorded_sizes()[:, 0] == 0)
        return _with_sizes(source, missing, _read_headers(source, missing)[0])
    with _alone(path, f"read the sizes of the images in {source.folder}"):
        index = _load_or_nothing(path)
        position = {name: number for number, name in enumerate(index.names)}
        missing = np.flatnonzero(source.recorded_sizes()[:, 0] == 0)
        files = source.files
        places = np.array([position.get(files[int(number)], -1) for number in missing], np.int64)
        missing, places = missing[places >= 0], places[places >= 0]
        source = _with_sizes(source, missing, index.sizes[places])
        left = index.sizes[places, 0] == 0
        missing, places = missing[left], places[left]
        if len(missing):
            if len(missing) >= LEAST:
                words = "Reading the sizes of %d images of %s; they are kept in %s"
                LOG.info(words, len(missing), source.folder, path)
            sizes, stamps = _read_headers(source, missing)
            index.sizes[places], index.stamps[places] = sizes, stamps
            _save(path, index)
            source = _with_sizes(source, missing, sizes)
    return source


def index_path(folder: str) -> Path:
    """Return where the index of a folder is, or would be."""
    real = os.path.realpath(folder)
    digest = hashlib.blake2b(os.fsencode(real), digest_size=8).hexdigest()
    return cache_folder("folders") / f"{os.path.basename(real)[:_NAME]}-{digest}.npz"


def _unique(source: FileSource, key: str) -> FileSource:
    require_unique(source.names, source.folder, key)
    return source


def _with_sizes(source: FileSource, numbers: np.ndarray, sizes: np.ndarray) -> FileSource:
    recorded = source.recorded_sizes().copy()
    recorded[numbers] = sizes
    return replace(source, sizes=recorded)


def _is_current(folder: str, index: FolderIndex) -> bool:
    """Say whether no folder has changed."""
    passed = 0
    for _, _, files in walk_images(folder, index.folders):
        if files is not None:
            return False
        passed += 1
    return passed == len(index.folders) > 0


def _updated(folder: str, index: FolderIndex) -> FolderIndex:
    """Return the index of what a folder holds now; what has not changed is taken from an earlier one."""
    walked = list(walk_images(folder, index.folders))
    before = _numbers_by_folder(index)
    names, origins, folder_of = [], [], []
    for number, (place, _, files) in enumerate(walked):
        old = before.get(place, np.zeros(0, np.int64))
        if files is None:
            names += [index.names[i] for i in old.tolist()]
            origins.append(old)
        else:
            names += files
            origins.append(_unchanged(folder, files, index, old))
        folder_of.append(np.full(len(origins[-1]), number, np.int32))
    order = np.array(sorted(range(len(names)), key=names.__getitem__), np.int64)
    origin = np.concatenate([*origins, np.zeros(0, np.int64)])[order]
    kept = origin >= 0
    sizes, stamps = np.zeros((len(order), 2), np.int32), np.zeros((len(order), 2), np.int64)
    sizes[kept], stamps[kept] = index.sizes[origin[kept]], index.stamps[origin[kept]]
    return FolderIndex(
        {place: listed for place, listed, _ in walked},
        Names.of(names[i] for i in order.tolist()),
        np.concatenate([*folder_of, np.zeros(0, np.int32)])[order],
        sizes,
        stamps,
    )


def _numbers_by_folder(index: FolderIndex) -> dict[str, np.ndarray]:
    order = np.argsort(index.folder_of, kind="stable")
    parts = np.split(order, np.searchsorted(index.folder_of[order], np.arange(1, len(index.folders))))
    return dict(zip(index.folders, parts, strict=False))


def _unchanged(folder: str, files: Sequence[str], index: FolderIndex, old: np.ndarray) -> np.ndarray:
    """Return which of the ``old`` numbers each file of a folder had; -1 if it is new or another one now."""
    position = {index.names[i]: i for i in old.tolist() if index.sizes[i, 0]}
    origins = [position.get(file, -1) for file in files]
    for number, origin in enumerate(origins):
        if origin >= 0 and _stamp(os.path.join(folder, files[number])) != (*index.stamps[origin].tolist(),):
            origins[number] = -1
    return np.array(origins, np.int64)


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _read_headers(source: FileSource, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sizes and stamps of images, both (n, 2)."""

    def read(chunk: np.ndarray) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        return [_header(path) for path in map(source.path, chunk.tolist())]

    # Python's lock leaves little to gain on a local disk; on a network file system threads wait together.
    chunks = np.split(numbers, range(_CHUNK, len(numbers), _CHUNK))
    with ThreadPoolExecutor(_THREADS) as pool:
        found = [*progress_bar()(pool.map(read, chunks), "reading sizes", len(chunks))]
    sizes, stamps = zip(*(header for chunk in found for header in chunk), strict=True)
    return np.array(sizes, np.int32), np.array(stamps, np.int64)


def _header(path: str) -> tuple[tuple[int, int], tuple[int, int]]:
    stamp = _stamp(path)
    try:
        return image_size(path), stamp
    except ImageError:
        return (_UNREADABLE, _UNREADABLE), stamp


@contextmanager
def _alone(path: Path, doing: str) -> Iterator[None]:
    """Let one process at a time through, where that can be had: without it each does the same by itself."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(exclusive(path.with_suffix(".lock"), doing))
        except OSError as error:
            LOG.debug("no lock: %s", error)
        yield


def _save(path: Path, index: FolderIndex) -> None:
    folders = json.dumps({place: asdict(listed) for place, listed in index.folders.items()})
    file = BytesIO()
    np.savez(
        file,
        format=np.array(_FORMAT),
        folders=np.frombuffer(folders.encode("utf-8", "surrogatepass"), np.uint8),
        text=np.frombuffer(index.names.text, np.uint8),
        ends=index.names.ends,
        folder_of=index.folder_of,
        sizes=index.sizes,
        stamps=index.stamps,
    )
    try:
        write_atomically(path, file.getvalue(), durable=False)
    except OSError as error:
        LOG.warning("%s cannot be written (%s): the folder is listed at every start", path, error.strerror)


def _load_or_nothing(path: Path) -> FolderIndex:
    try:
        return _load(path)
    except _DamagedError:
        return _NOTHING


def _load(path: Path) -> FolderIndex:
    """Return the index in a file, or :data:`_NOTHING` if there is no file.

    Raises:
        _DamagedError: it cannot be used.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if (version := int(file["format"])) != _FORMAT:
                raise _DamagedError(f"it is of format {version}, not {_FORMAT}")
            content: Callable[[str], np.ndarray] = file.__getitem__
            listed = json.loads(content("folders").tobytes().decode("utf-8", "surrogatepass"))
            index = FolderIndex(
                {
                    place: Listed(one["changed"], tuple(one["folders"]), tuple(one["links"]))
                    for place, one in listed.items()
                },
                Names(content("text").tobytes(), content("ends")),
                content("folder_of"),
                content("sizes"),
                content("stamps"),
            )
    except (FileNotFoundError, NotADirectoryError):
        return _NOTHING
    except _DamagedError:
        raise
    except Exception as error:  # NumPy and zipfile raise a dozen types for files they did not write
        raise _DamagedError(f"it cannot be read ({type(error).__name__}: {error})") from error
    return index
