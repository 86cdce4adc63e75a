"""Download public data sets and lay them out as datasets/README.md says. Needs the network.

    python scripts/download_data.py DF2K benchmarks

================ ======================================================= ======= ==================
name             what                                                    images  archive
================ ======================================================= ======= ==================
DIV2K            training photographs, into DF2K/HR                      800     3.5 GB
Flickr2K         training photographs, into DF2K/HR                      2650    20 GB
DF2K             both
DIV2K_valid      validation photographs, into DIV2K_valid/HR             100     0.4 GB
benchmarks       Set5, Set14, B100, Urban100, each into <name>/HR        219     0.25 GB
================ ======================================================= ======= ==================

Only ground truth is unpacked: low quality is computed while training, or by scripts/make_lr.py. An
interrupted download goes on where it was stopped, and images that are there are kept: start the same
command again. Sizes are compared with what the server says, every image's checksums with its content, and
the number of images with the published one. Manga109 is given out on request only (manga109.org).
Mind the data sets' licences: most allow academic use only.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from _command import ROOT, CommandError, parser, run
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from basicsr_ext.files import user_path, write_atomically

_CHUNK = 1 << 20
_ATTEMPTS = 5
_TIMEOUT = 30


@dataclass(frozen=True)
class Images:
    """A set of images in an archive.

    Args:
        parent: the members' folder, or the end of its path.
        names: regular expression of their names.
        folder: where they go, below the root.
        count: how many there are.
    """

    parent: str
    names: str
    folder: str
    count: int

    def holds(self, member: str) -> bool:
        """Say whether a member of the archive belongs to the set."""
        path, parent = PurePosixPath(member), PurePosixPath(self.parent)
        parts = path.parent.parts[-len(parent.parts) :]
        return parts == parent.parts and re.fullmatch(self.names, path.name) is not None

    def complete(self, root: Path) -> bool:
        """Say whether all of the set's images lie in their folder."""
        folder = root / self.folder
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        return sum(re.fullmatch(self.names, name) is not None for name in names) == self.count


@dataclass(frozen=True)
class Archive:
    """A file to download and the images in it."""

    url: str
    images: tuple[Images, ...]


_DIV2K = "https://data.vision.ee.ethz.ch/cvl/DIV2K"
_EDSR = "https://cv.snu.ac.kr/research/EDSR"
ARCHIVES = {
    "DIV2K": Archive(
        f"{_DIV2K}/DIV2K_train_HR.zip", (Images("DIV2K_train_HR", r"\d{4}\.png", "DF2K/HR", 800),)
    ),
    "DIV2K_valid": Archive(
        f"{_DIV2K}/DIV2K_valid_HR.zip", (Images("DIV2K_valid_HR", r"\d{4}\.png", "DIV2K_valid/HR", 100),)
    ),
    "Flickr2K": Archive(f"{_EDSR}/Flickr2K.tar", (Images("Flickr2K_HR", r"\d{6}\.png", "DF2K/HR", 2650),)),
    "benchmarks": Archive(
        f"{_EDSR}/benchmark.tar",
        tuple(
            Images(f"{name}/HR", r"\w.*\.png", f"{name}/HR", count)
            for name, count in (("Set5", 5), ("Set14", 14), ("B100", 100), ("Urban100", 100))
        ),
    ),
}
GROUPS = {"DF2K": ("DIV2K", "Flickr2K")}


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = parser(__doc__)
    command.add_argument("names", nargs="+", choices=[*ARCHIVES, *GROUPS], help="what to download")
    command.add_argument(
        "--root", type=user_path, default=ROOT / "datasets", help="default: datasets/ of this clone"
    )
    command.add_argument("--mirror", metavar="URL", help="folder to take archives from, by their file names")
    command.add_argument("--keep_archives", action="store_true", help="do not delete archives once unpacked")
    options = command.parse_args(arguments)

    names = dict.fromkeys(part for name in options.names for part in GROUPS.get(name, (name,)))
    for name in names:
        archive = ARCHIVES[name]
        if all(images.complete(options.root) for images in archive.images):
            print(f"{name}: all images are there")
            continue
        file_name = archive.url.rpartition("/")[2]
        url = f"{options.mirror.rstrip('/')}/{file_name}" if options.mirror else archive.url
        file = options.root / ".downloads" / file_name
        download(url, file)
        unpack(file, archive.images, options.root)
        if not options.keep_archives:
            file.unlink()
        print(f"{name}: {sum(images.count for images in archive.images)} images below {options.root}")
    return []


# --- downloading ------------------------------------------------------------------------------------


def download(url: str, file: Path) -> None:
    """Fetch ``url``, going on with what ``<file>.part`` holds; the file appears once it is complete.

    Raises:
        CommandError: the server cannot be reached, refuses, or keeps breaking off.
    """
    if file.exists():
        return
    part = file.with_name(f"{file.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    most, failures = _size(part), 0
    while True:
        try:
            _fetch(url, part)
            break
        except HTTPError as error:
            raise CommandError(f"{url}: the server answers {error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            failures = 0 if _size(part) > most else failures + 1
            most = max(most, _size(part))
            if failures == _ATTEMPTS or not most:
                reason = error.reason if isinstance(error, URLError) else error
                raise CommandError(f"{url}: cannot be downloaded ({reason}); is there a network?") from error
        time.sleep(failures)
    part.replace(file)


def _fetch(url: str, part: Path) -> None:
    have = _size(part)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        # Nothing lies beyond what is there: the file is complete, or another one by now.
        if error.code != 416:
            raise
        if error.headers["Content-Range"] == f"bytes */{have}":
            return
        part.unlink()
        raise URLError("the file has changed on the server") from error
    with response:
        if response.status != 206:
            have = 0  # This server sends everything from the start.
        length = response.headers["Content-Length"]
        total = None if length is None else have + int(length)
        _require_space(part, total, have)
        with part.open("ab" if have else "wb") as file, _bar(part.stem, total, have) as advance:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                advance(len(chunk))
    if total is not None and _size(part) != total:
        raise URLError(f"{_size(part)} of {total} bytes arrived")


@contextmanager
def _bar(name: str, total: int | None, have: int) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    columns = TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total, completed=have)
        yield lambda count: progress.advance(task, count)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _require_space(part: Path, total: int | None, have: int) -> None:
    # Archive and images lie beside each other until the archive is deleted.
    free, needed = shutil.disk_usage(part.parent).free, 2 * (total or 0) - have
    if free < needed:
        raise CommandError(f"{part.parent}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed")


# --- unpacking --------------------------------------------------------------------------------------


def unpack(file: Path, sets: Sequence[Images], root: Path) -> None:
    """Write an archive's images to their folders, each file whole or not at all.

    Raises:
        CommandError: a damaged archive or image, or not as many images as published.
    """
    counts = dict.fromkeys(sets, 0)
    try:
        for name, content in _members(file):
            for images in sets:
                if images.holds(name):
                    # Only the last part of a member's name is used: no archive writes elsewhere.
                    _write_image(content, root / images.folder / PurePosixPath(name).name)
                    counts[images] += 1
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise CommandError(f"{file}: damaged ({error}); delete it and start again") from error
    for images, count in counts.items():
        if count != images.count:
            raise CommandError(f"{file}: {count} images for {images.folder}, expected {images.count}")


def _members(file: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                with archive.open(member) as content:
                    yield member.filename, content
        return
    with tarfile.open(file, "r:") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name.removeprefix("./"), content


def _write_image(content: IO[bytes], target: Path) -> None:
    if target.exists():
        return
    from PIL import Image

    data = content.read()
    try:
        with Image.open(BytesIO(data)) as image:
            image.verify()
    except Exception as error:
        raise CommandError(f"{target.name}: damaged ({error}); delete the archive and start again") from error
    write_atomically(target, data, durable=False)


if __name__ == "__main__":
    raise SystemExit(run(main))
