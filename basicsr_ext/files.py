"""Paths as users write them, and writing files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_TEMPORARY_SUFFIX = ".tmp"


def user_path(text: str | os.PathLike[str]) -> Path:
    """Return the path that a user has written, in which ``~`` is the home folder."""
    return Path(os.path.expanduser(text))


def cache_folder(name: str) -> Path:
    """Return the user's folder for what can be made again, ``~/.cache/basicsr_ext/<name>``.

    Where the environment variable ``XDG_CACHE_HOME`` is set, it takes the place of ``~/.cache``.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "basicsr_ext", name)


def write_atomically(path: str | os.PathLike[str], data: bytes, *, durable: bool = True) -> None:
    """Write ``data`` to ``path``: other processes see the old file or the new one, never a part of it.

    The folder is created. Of several processes that write one file, the last one's stays. A process that is
    killed while it writes leaves a file that :func:`remove_leftovers` removes.

    Args:
        path: of the file; its permissions are those of any new file.
        data: its content.
        durable: see to it that the same holds if the machine stops: wait for the disk.

    Raises:
        OSError: it cannot be written; what was there before is intact.
    """
    path = Path(path)
    make_folder(path.parent, durable=durable)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}")
    # Fails where the file exists, and gives it the permissions that the umask leaves.
    file = temporary.open("xb")
    try:
        with file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def make_folder(folder: Path, *, durable: bool = True) -> None:
    """Make a folder and those above it, where they are missing.

    Args:
        folder: the folder.
        durable: see to it that they are still there if the machine stops, and with them what is written
            to them: wait for the disk.

    Raises:
        OSError: it cannot be made.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if durable:
        for path in reversed(missing):
            sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers have left in ``folder``, which nobody else may be writing to."""
    for path in folder.glob(f".*{_TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until the names of all that lies in a folder are on the disk.

    Raises:
        OSError: the folder cannot be read, or the disk has failed.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
