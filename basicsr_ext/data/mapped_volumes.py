"""``cache: disk`` of volumes: voxels as episodes need them, in files that are mapped into memory.

They lie beside the folder of volumes, in one whose name ends in ``.cache``: an ``.npy`` file for each
volume, label and file of supervoxels, made on first use. Processes share what they have read of it, and of a
mapped volume only the slices that somebody asks for are read.
"""

from __future__ import annotations

import glob
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from ..files import write_atomically
from .sources import file_version
from .volumes import Kind, VolumeSource, VoxelError

_FORMAT = 1
"""Of the arrays; another normalisation or type is another format."""


class MappedVolumes(VolumeSource):
    """The volumes of another source, mapped from files.

    Args:
        source: of files.
        root: the folder that holds them.
    """

    def __init__(self, source: VolumeSource, root: Path) -> None:
        self._source = source
        whole = root.absolute()
        self._folder = whole.with_name(f"{whole.name}.cache")
        self.misfits = source.misfits

    @property
    @override
    def names(self) -> Sequence[str]:
        return self._source.names

    @override
    def kinds(self, index: int) -> Sequence[Kind]:
        return self._source.kinds(index)

    @override
    def path(self, index: int, kind: Kind) -> str:
        return self._source.path(index, kind)

    @override
    def read(self, index: int, kind: Kind) -> np.ndarray:
        return self._source.read(index, kind)

    @override
    def image(self, index: int) -> np.ndarray:
        return self._mapped(index, "image", self._source.image)

    @override
    def label(self, index: int) -> np.ndarray:
        return self._mapped(index, "label", self._source.label)

    @override
    def supervoxels(self, index: int) -> np.ndarray:
        return self._mapped(index, "supervoxels", self._source.supervoxels)

    def _mapped(self, index: int, kind: Kind, make: Callable[[int], np.ndarray]) -> np.ndarray:
        """Map what ``make`` returns; it is written where its file is missing, damaged or of an older origin.

        Raises:
            VoxelError: ``make`` failed, or there is no place for the file.
        """
        original = Path(self.path(index, kind))
        try:
            version = hashlib.blake2b(f"{_FORMAT} {file_version(str(original))}".encode(), digest_size=8)
        except OSError as error:
            raise VoxelError(f"{original}: cannot be read ({error.strerror or error})") from error
        folder = self._folder / original.parent.name
        file = folder / f"{original.name}.{version.hexdigest()}.npy"
        try:
            return _map(file)
        except (OSError, ValueError, EOFError):
            pass
        content = io.BytesIO()
        np.save(content, make(index))
        try:
            write_atomically(file, content.getvalue())
            for older in folder.glob(f"{glob.escape(original.name)}.*.npy"):
                if older != file:
                    older.unlink(missing_ok=True)
        except OSError as error:
            raise VoxelError(
                f"{original}: cache: disk could not write {file} ({error.strerror or error}); "
                "make room there, or leave cache out"
            ) from error
        return _map(file)


def _map(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r").view(np.ndarray)
