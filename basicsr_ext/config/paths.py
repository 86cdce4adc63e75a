"""Are the files and folders there that an option file names? A key's annotation says what it has to be."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..spelling import closest
from .errors import Problem
from .facts import Facts
from .published_sets import where_from

LOG = logging.getLogger("basicsr_ext")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

_INSTANT = 2 * 10**9
"""Nanoseconds within which two changes may have one time stamp; FAT's are the coarsest."""

_PREPARED = (
    "'python scripts/download_data.py' fetches published sets; datasets/README.md shows the layout of all"
)


class Existing:
    """Annotation metadata of a key that names something on disk."""

    def check(self, facts: Facts, key: str, path: str) -> Iterator[Problem]:
        """Yield what is wrong with ``path``, the value of ``key``."""
        raise NotImplementedError


@dataclass(frozen=True)
class ExistingFile(Existing):
    """A file; ``what`` it has to be and how to mend it, in words."""

    what: str
    fix: str

    def check(self, facts: Facts, key: str, path: str) -> Iterator[Problem]:
        """Yield a problem if there is no such file."""
        if not os.path.isfile(os.path.expanduser(path)):
            yield _missing(key, path, self.what, self.fix)


@dataclass(frozen=True)
class ResumeState(ExistingFile):
    """A training state to begin with; ``--auto_resume`` needs it no longer once the run has checkpoints."""

    def check(self, facts: Facts, key: str, path: str) -> Iterator[Problem]:
        """Yield a problem if there is no such file, and no checkpoint of the run either."""
        folder = run_folder(facts.get("path.experiments_root"), str(facts.get("name")))
        if not any(folder.glob("training_states/*.json")):
            yield from super().check(facts, key, path)


@dataclass(frozen=True)
class ImageFolder(Existing):
    """A folder of images, an LMDB or a store."""

    def check(self, facts: Facts, key: str, path: str) -> Iterator[Problem]:
        """Yield a problem if nothing is there, or no image in it."""
        data, _, name = key.rpartition(".")
        folder = os.path.expanduser(path)
        if folder.rstrip("/").endswith(".lmdb"):
            if not os.path.isfile(os.path.join(folder, "data.mdb")):
                yield _missing(
                    key, path, "a BasicSR LMDB (a folder with data.mdb, meta_info.txt)", _provider(path)
                )
        elif folder.rstrip("/").endswith(".store"):
            if not os.path.isfile(os.path.join(folder, "images.txt")):
                store = "a complete store (a folder with meta.yml, images.txt)"
                fix = "start scripts/make_store.py; it goes on where it was stopped"
                if os.path.isdir(folder):
                    yield Problem(key, f"{path!r}, which lacks images.txt", store, fix)
                else:
                    yield _missing(key, path, store, fix)
        elif facts.get(f"{data}.io_backend.type") == "lmdb":
            yield Problem(key, repr(path), "a folder whose name ends in .lmdb, as io_backend.type is lmdb")
        elif not os.path.isdir(folder):
            yield _missing(key, path, _layout(facts, data, name), _preparation(facts, data, name, path))
        elif not _holds_image(folder):
            found = f"{path!r} ({os.path.abspath(folder)}), which holds no image"
            yield Problem(key, found, f"a folder of images such as 0001.png ({' '.join(IMAGE_SUFFIXES)})")


@dataclass(frozen=True)
class VolumeFolder(Existing):
    """A folder of NIfTI volumes."""

    def check(self, facts: Facts, key: str, path: str) -> Iterator[Problem]:
        """Yield a problem if there is no such folder, or no volume in it."""
        layout = "a folder of image_0.nii.gz, label_0.nii.gz, …"
        if not os.path.isdir(os.path.expanduser(path)):
            yield _missing(key, path, layout, where_from(path) or "docs/few_shot.md shows the layout")
        elif not any(Path(path).expanduser().glob("image_*.nii*")):
            yield Problem(key, f"{path!r}, which holds no image_<number>.nii.gz", layout)


ImageRoot = Annotated[str, ImageFolder()]
VolumeRoot = Annotated[str, VolumeFolder()]
MetaInfoFile = Annotated[
    str,
    ExistingFile(
        "a text file with one ground-truth image name a line", "leave it out to use every image of the folder"
    ),
]


def run_folder(experiments_root: str | None, name: str) -> Path:
    """Return the folder of a run's checkpoints and logs, below the folder of all runs."""
    return Path(experiments_root or "experiments").expanduser() / name


@dataclass(frozen=True)
class Listed:
    """What a walk has to know of a folder to pass it by later.

    Attributes:
        changed: when entries were last added, removed or renamed, in nanoseconds; -1 where that was so
            recently that a later change could have the same time.
        folders: those in it, with ``/``, from where the walk began.
        links: links to folders.
    """

    changed: int
    folders: tuple[str, ...]
    links: tuple[str, ...]


def image_files(folder: str) -> Iterator[str]:
    """Yield the paths in ``folder``, with ``/``, of all image files at any depth but hidden ones.

    Links are followed, as data sets are often put together from links to folders elsewhere, but each folder
    is read once, by its own name where it has one in ``folder``. A line in the log tells what is left out.
    """
    for _, _, files in walk_images(folder, {}):
        yield from files or ()


def walk_images(folder: str, known: Mapping[str, Listed]) -> Iterator[tuple[str, Listed, list[str] | None]]:
    """Yield every folder that :func:`image_files` reads, and its image files; only changed ones are read.

    Args:
        folder: where to begin.
        known: what an earlier walk has yielded.

    Yields:
        The folder's path in ``folder``, what to know of it, and its files, sorted; None if they are as the
        earlier walk found them.
    """
    seen: set[tuple[int, int]] = set()
    own, linked = [""], []
    while own or linked:
        place = (own or linked).pop()
        path = os.path.join(folder, place)
        files = None
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                LOG.warning("%s is left out: it leads to a folder that has been read already", path)
                continue
            seen.add((status.st_dev, status.st_ino))
            listed = known.get(place)
            if listed is None or listed.changed != status.st_mtime_ns:
                listed, files = _list_folder(path, place, status.st_mtime_ns)
        except OSError as error:
            LOG.warning("%s is left out: it cannot be read (%s)", path, error.strerror)
            continue
        own += listed.folders
        linked += listed.links
        yield place, listed, files


def _list_folder(path: str, place: str, changed: int) -> tuple[Listed, list[str]]:
    settled = changed < time.time_ns() - _INSTANT
    folders, links, files = [], [], []
    for entry in sorted(os.scandir(path), key=_name):
        if entry.name.startswith("."):
            continue
        inside = f"{place}/{entry.name}" if place else entry.name
        if _is_folder(entry):
            (links if entry.is_symlink() else folders).append(inside)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            files.append(inside)
    return Listed(changed if settled else -1, tuple(folders), tuple(links)), files


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for one: whoever reads the file will say so
        return False


def _layout(facts: Facts, data: str, name: str) -> str:
    if name == "dataroot_gt" or not facts.written(f"{data}.dataroot_gt"):
        return "a folder of images such as 0001.png"
    template = facts.get(f"{data}.filename_tmpl", "{}")
    partner = str(template).replace("{}", "0001")
    return f"a folder of images such as {partner}.png for the ground truth's 0001.png"


def _preparation(facts: Facts, data: str, name: str, path: str) -> str:
    scale = facts.get(f"{data}.scale", facts.get("scale", 1))
    if name == "dataroot_lq" and facts.written(f"{data}.dataroot_gt") and scale is not None and scale > 1:
        return "'python scripts/make_lr.py' makes it from the ground truth; left out, LQ is made on the fly"
    return _provider(path)


def _provider(path: str) -> str:
    return where_from(path) or _PREPARED


def _missing(key: str, path: str, what: str, fix: str) -> Problem:
    full = os.path.abspath(os.path.expanduser(path))
    similar = _similar(full)
    hint = f"did you mean {os.path.join(os.path.dirname(path), similar)!r}?" if similar else ""
    resolved = "" if full == path else f"{full} "
    return Problem(key, f"{path!r} ({resolved}does not exist)", what, f"{hint} {fix}".strip())


def _similar(full: str) -> str | None:
    try:
        neighbours = os.listdir(os.path.dirname(full))
    except (OSError, ValueError):
        return None
    return closest(os.path.basename(full), neighbours)


def _holds_image(folder: str) -> bool:
    with suppress(OSError), os.scandir(folder) as entries:
        # One folder of a million images is not read to its end for this.
        if any(_is_image(entry) for entry in entries):
            return True
    return any(True for _ in image_files(folder))


def _is_image(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".") and not _is_folder(entry)
