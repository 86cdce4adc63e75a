"""Folders that a benchmark is pointed at: where the ground truth lies in them, and what is odd about it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.paths import IMAGE_SUFFIXES, image_files
from ..config.protocols import Protocol
from ..config.published_sets import deviations, published_name
from .images import ImageError
from .opening import open_source
from .sources import StoredSource, first_few

_TRUTH = ("hr", "gt", "target", "targets", "groundtruth", "ground_truth", "original", "sharp", "clean")
_DEGRADED = ("input", "inputs", "lq", "lr", "rain", "rainy", "blur", "blurry", "noisy")
_LOW = re.compile(r"(lr|lq|input|rain|blur|noisy|x\d\b)", re.IGNORECASE)


@dataclass(frozen=True)
class BenchmarkSet:
    """A test set as it lies on disk.

    Attributes:
        name: for tables: the published name, or the folder's.
        option: its section of an option file, but for what the protocol says.
        remarks: what a reader of its scores should know, a sentence each.
    """

    name: str
    option: dict[str, Any]
    remarks: tuple[str, ...] = ()


def find_set(
    folder: Path, protocol: Protocol, lq: Path | None = None, filename_tmpl: str = "{}"
) -> BenchmarkSet:
    """Find out what there is to evaluate in a folder.

    Ground truth is what lies in the folder, or in its one sub-folder with such a name (``HR``, ``GT``,
    ``target``, ...). Low quality is made of it, or for protocols that have it stored it is read from the
    sub-folder ``input`` (``LQ``, ``rain``, ``blur``, ...).

    Args:
        folder: or an LMDB or a store.
        protocol: what it is for.
        lq: folder of low quality; instead of what is said above.
        filename_tmpl: LQ file name for a GT base name.

    Raises:
        ValueError: no images, or files of which it is not clear what they are.
    """
    truth, others = _ground_truth(folder)
    remarks = []
    if lq is None and protocol.stored:
        lq = _degraded(folder, others)
    elif lq is not None and not protocol.stored:
        remarks.append(f"low quality is read from {lq}, not made of the ground truth")
    elif others := [path.name for path in others if _LOW.match(path.name)]:
        words = first_few(sorted(others))
        remarks.append(f"{words} beside the ground truth is not read: low quality is made of it")
    source = open_source(str(truth), "--data")
    _refuse_mixtures(source, truth)
    published = published_name(str(folder))
    if published is not None:
        remarks += deviations(published, _sizes(source))
    option: dict[str, Any] = {"dataroot_gt": str(truth)}
    if lq is not None:
        option |= {"dataroot_lq": str(lq), "filename_tmpl": filename_tmpl}
    if "color" in protocol.choices:
        option["color"] = _grey_of(source)
    name = published or (folder.parent if folder.name.lower() in _TRUTH else folder).name
    return BenchmarkSet(name, option, tuple(remarks))


def _ground_truth(folder: Path) -> tuple[Path, list[Path]]:
    """Return the folder of ground truth, and the folders of other images beside it."""
    if not folder.is_dir():
        raise ValueError(f"--data: {folder} is not a folder")
    if folder.suffix in (".lmdb", ".store"):
        return folder, []
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and any(image_files(str(path)))]
    if any(entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in folder.iterdir() if entry.is_file()):
        if below:
            words = first_few([path.name for path in below])
            raise ValueError(
                f"--data: {folder} holds images, and folders of images ({words}), all of which would be taken"
                " for ground truth; put them apart"
            )
        return folder, list(_siblings(folder)) if folder.name.lower() in _TRUTH else []
    named = [path for path in below if path.name.lower() in _TRUTH]
    if len(named) == 1:
        return named[0], [path for path in below if path not in named]
    if named or any(_LOW.match(path.name) for path in below):
        words = first_few([path.name for path in named or below])
        raise ValueError(f"--data: which folder of {folder} is the ground truth? It has {words}; name one")
    return folder, []


def _siblings(folder: Path) -> Iterator[Path]:
    beside = (path for path in folder.absolute().parent.iterdir() if path.is_dir())
    yield from (path for path in beside if path.name != folder.name and any(image_files(str(path))))


def _degraded(folder: Path, others: Sequence[Path]) -> Path:
    found = [path for path in others if path.name.lower() in _DEGRADED]
    if len(found) != 1:
        what = first_few([path.name for path in found]) if found else "no input, LQ, rain or blur"
        raise ValueError(f"--data: {folder} has {what} beside the ground truth; name the inputs with --lq")
    return found[0]


def _refuse_mixtures(source: StoredSource, folder: Path) -> None:
    """Raise ValueError where low-quality images lie among their ground truth."""
    names = set(source.names)
    low = []
    for name in source.names:
        ending = re.search(r"(x\d|_LR)$", name)
        stem = name[: ending.start()] if ending else ""
        if stem and (stem in names or f"{stem}_HR" in names):
            low.append(name)
    if low:
        raise ValueError(
            f"--data: {folder} holds low-quality images beside their ground truth: {first_few(low)}; put them"
            " apart"
        )


def _sizes(source: StoredSource) -> list[tuple[int, int]]:
    sizes, broken = [], []
    for index in range(len(source)):
        try:
            sizes.append(source.size(index))
        except ImageError as error:
            broken.append(str(error))
    if broken:
        raise ValueError("\n".join(broken))
    return sizes


def _grey_of(source: StoredSource) -> str:
    """Return the option ``color`` that makes published grey of these files.

    Raises:
        ValueError: some are grey and some are not.
    """
    from PIL import Image

    grey = []
    for index in range(len(source)):
        path = source.path(index)
        if not os.path.isfile(path):
            raise ValueError(
                f"--data: {source.folder} keeps no files, so that grey ones cannot be told apart"
            )
        with Image.open(path) as header:
            grey.append(header.mode in ("1", "L", "LA", "I", "I;16"))
    if any(grey) and not all(grey):
        raise ValueError(f"--data: {source.folder} holds {sum(grey)} grey files and others in colour")
    return "gray" if all(grey) else "matlab_gray"
