"""Are the files and folders there that an option file names? A key's annotation says what it has to be."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ..spelling import closest
from .errors import Problem
from .facts import Facts
from .published_sets import where_from

LOG = logging.getLogger("basicsr_ext")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

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


def image_files(folder: str) -> Iterator[str]:
    """Yield the paths in ``folder``, with ``/``, of all image files at any depth but hidden ones.

    Links are followed, as data sets are often put together from links to folders elsewhere, but each folder
    is read once, by its own name where it has one in ``folder``. A line in the log tells what is left out.
    """
    seen: set[tuple[int, int]] = set()
    own, linked = [""], []
    while own or linked:
        place = (own or linked).pop()
        path = os.path.join(folder, place)
        try:
            status = os.stat(path)
            entries = [] if (status.st_dev, status.st_ino) in seen else sorted(os.scandir(path), key=_name)
        except OSError as error:
            LOG.warning("%s is left out: it cannot be read (%s)", path, error.strerror)
            continue
        if (status.st_dev, status.st_ino) in seen:
            LOG.warning("%s is left out: it leads to a folder that has been read already", path)
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                continue
            inside = f"{place}/{entry.name}" if place else entry.name
            if _is_folder(entry):
                (linked if entry.is_symlink() else own).append(inside)
            elif entry.name.lower().endswith(IMAGE_SUFFIXES):
                yield inside


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
    return any(True for _ in image_files(folder))
