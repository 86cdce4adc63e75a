"""From a path in an option file to a source: folders, BasicSR's LMDBs, stores; the sides of pairs matched."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from .databases import LmdbSource, open_lmdb
from .folder_index import open_indexed_folder
from .images import ImageError
from .sources import FileSource, StoredSource, first_few, require_unique
from .store import open_store

LOG = logging.getLogger("basicsr_ext")

_SHAPE = re.compile(r"\(\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*\d+\s*\)", re.ASCII)
_LOOKED_AT = 16
"""Files whose headers are read to see whether a list is theirs."""


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
    open_database = {".lmdb": open_lmdb, ".store": open_store}.get(kind)
    if open_database is None:
        return open_indexed_folder(folder, key)
    source = open_database(folder, key)
    require_unique(source.names, root, key)
    return source


def select(source: StoredSource, meta_info: str, key: str) -> StoredSource:
    """Return the images that a meta-info file lists: names in the first column, relative to the source.

    Where ``(height,width,channels)`` follows, image files need not be opened for their sizes. A few are, and
    if one has another size than the list says, the list's sizes are not used.

    Raises:
        ValueError: the file is missing or empty, or lists an image that does not exist.
    """
    try:
        lines = Path(meta_info).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{key}: {meta_info} cannot be read ({reason})") from error
    columns = [line.split(None, 1) for line in lines if line.strip()]
    if not columns:
        raise ValueError(f"{key}: {meta_info} lists no image")
    wanted = [os.path.splitext(name)[0] for name, *_ in columns]
    position = {name: index for index, name in enumerate(source.names)}
    missing = [name for name in wanted if name not in position]
    if missing:
        raise ValueError(f"{key}: {meta_info} lists images that {source.folder} lacks: {first_few(missing)}")
    chosen = source.take([position[name] for name in wanted])
    if isinstance(chosen, FileSource):
        shapes = [_SHAPE.match(rest[0]) if rest else None for _, *rest in columns]
        sizes = [(int(shape[1]), int(shape[2])) if shape else (0, 0) for shape in shapes]
        return _with_listed_sizes(chosen, np.array(sizes, np.int32), meta_info)
    return chosen


def _with_listed_sizes(source: FileSource, sizes: np.ndarray, meta_info: str) -> FileSource:
    """Return a source with the sizes that a list tells of, unless files say something else."""
    told = np.flatnonzero((sizes > 0).all(axis=1))
    for index in told[:: -(-len(told) // _LOOKED_AT) or 1].tolist():
        try:
            size = source.size(index)
        except ImageError:
            continue  # whoever needs the image says so
        if size != (listed := tuple(sizes[index].tolist())):
            words = "%s: %s has %dx%d pixels, not %dx%d; its sizes are not used, and files are opened"
            LOG.warning(words, meta_info, source.path(index), *size, *listed)
            return source
    recorded = source.recorded_sizes()
    return replace(source, sizes=np.where(sizes > 0, sizes, recorded))


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
    partners = partner_names(gt, lq, template)
    position = {name: index for index, name in enumerate(lq.names)}
    missing = [name for name in partners if name not in position]
    extra = [] if allow_extra else sorted(position.keys() - set(partners))
    if missing or extra:
        complaints = []
        if missing:
            complaints.append(f"{lq.folder} lacks partners of {gt.folder}: {first_few(missing)}")
        if extra:
            complaints.append(f"{lq.folder} holds images without partner in {gt.folder}: {first_few(extra)}")
        hint = "" if isinstance(lq, LmdbSource) else f" (filename_tmpl is {template!r})"
        raise ValueError(f"{key}: {'; '.join(complaints)}{hint}")
    return lq.take([position[name] for name in partners])


def partner_names(gt: StoredSource, lq: StoredSource, template: str) -> list[str]:
    """Return what the partner in ``lq`` is called of each image of ``gt``, as :func:`match` has it."""
    if isinstance(lq, LmdbSource):
        return list(gt.names)
    paths = map(PurePosixPath, gt.names)
    return [(path.parent / template.format(path.name)).as_posix() for path in paths]
