"""What a disk may hold after the machine has stopped: file-system operations recorded, and all their remains.

The model is that of Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014), with next to
nothing taken for granted. What a file holds is safe once the file is synced; until then all of it, half of
it, none of it, or zeros of its length may be there. A name that was made, moved or removed is safe once its
folder is synced; until then any of these may be undone, whatever came later. A folder whose own name is lost
takes what lies in it along. One rename happens wholly or not at all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

Kind = Literal["folder", "create", "rename", "remove", "write", "sync", "sync folder", "promise"]
NAMING = ("folder", "create", "rename", "remove")
Disk = Mapping[str, bytes | None]
"""Content by path; ``None`` for a folder."""


@dataclass(frozen=True)
class Operation:
    """One operation.

    Args:
        kind: of it; ``promise`` marks a moment from which something must not be lost any more.
        path: below the recorded folder; of a promise, what is promised.
        number: of the file or folder, which keeps it whatever its name.
        target: the new path of a rename.
        data: what a write has made of the whole file.
    """

    kind: Kind
    path: str
    number: int = 0
    target: str = ""
    data: bytes = b""

    def __str__(self) -> str:
        return f"{self.kind} {self.path}" + (f" to {self.target}" if self.target else "")


class Recorder:
    """Records what this process does below ``root``, which must be empty to begin with."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.operations: list[Operation] = []
        self._numbers: dict[str, int] = {}
        self._known: dict[int, bytes] = {}
        self._made = 0

    def promise(self, what: str) -> None:
        """Note that ``what`` has been promised from here on."""
        self._look_for_writes()
        self.operations.append(Operation("promise", what))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record inside the block."""
        _install_hook()
        sync = os.fsync

        def recorded_sync(descriptor: int) -> None:
            path = self._below(os.readlink(f"/proc/self/fd/{descriptor}"))
            sync(descriptor)
            if path is not None:
                self._look_for_writes()
                folder = os.path.isdir(self.root / path)
                number = 0 if folder else self._numbers[path]
                self.operations.append(Operation("sync folder" if folder else "sync", path, number))

        os.fsync = recorded_sync
        _listeners.append(self._heard)
        try:
            yield
        finally:
            _listeners.remove(self._heard)
            os.fsync = sync

    def _heard(self, event: str, arguments: Sequence[object]) -> None:
        """Take note of an operation that is about to happen, unless it is about to fail."""
        path = self._below(arguments[0])
        if path is None:
            return
        there = os.path.lexists(self.root / path)
        if event == "open":
            flags = arguments[2]
            if not there and isinstance(flags, int) and flags & os.O_CREAT:
                self._name("create", path)
        elif event == "os.mkdir" and not there and (self.root / path).parent.is_dir():
            self._name("folder", path)
        elif there and (event == "os.remove" or (event == "os.rmdir" and not os.listdir(self.root / path))):
            self._look_for_writes()
            self.operations.append(Operation("remove", path, self._numbers.pop(path)))
        elif event == "os.rename" and there:
            self._look_for_writes()
            target, number = self._below(arguments[1]), self._numbers.pop(path)
            assert target is not None, "nothing is moved out of the folder"
            self._numbers[target] = number
            self.operations.append(Operation("rename", path, number, target))

    def _name(self, kind: Kind, path: str) -> None:
        self._look_for_writes()
        self._made += 1
        self._numbers[path] = self._made
        self.operations.append(Operation(kind, path, self._made))

    def _look_for_writes(self) -> None:
        """Record what files hold now, where it is something else than before."""
        for path, number in self._numbers.items():
            if (self.root / path).is_file():
                data = (self.root / path).read_bytes()
                if data != self._known.get(number, b""):
                    self._known[number] = data
                    self.operations.append(Operation("write", path, number, data=data))

    def _below(self, path: object) -> str | None:
        if not isinstance(path, str | os.PathLike):
            return None
        parent, name = os.path.split(os.path.abspath(path))
        whole = Path(os.path.realpath(parent), name)
        return str(whole.relative_to(self.root)) if whole.is_relative_to(self.root) else None


_listeners: list[Callable[[str, Sequence[object]], None]] = []
_HEARD = {"open", "os.mkdir", "os.remove", "os.rmdir", "os.rename"}


def _install_hook(installed: list[bool] = []) -> None:  # noqa: B006 (once a process: hooks are for good)
    def hook(event: str, arguments: Sequence[object]) -> None:
        if _listeners and event in _HEARD:
            listeners, _listeners[:] = list(_listeners), []
            try:
                for listener in listeners:
                    listener(event, arguments)
            finally:
                _listeners[:] = listeners

    if not installed:
        installed.append(True)
        sys.addaudithook(hook)


def crashes(operations: Sequence[Operation]) -> Iterator[tuple[int, Disk]]:
    """Yield everything that the disk may hold if the machine stops, after how many operations."""
    for count in range(len(operations) + 1):
        for disk in remains(operations[:count]):
            yield count, disk


def remains(operations: Sequence[Operation]) -> Iterator[Disk]:
    """Yield everything that the disk may hold after ``operations``."""
    naming = [(index, one) for index, one in enumerate(operations) if one.kind in NAMING]
    unsafe = [index for index, one in naming if not _is_safe(one, operations[index:])]
    contents = _contents(operations)
    for kept in product((True, False), repeat=len(unsafe)):
        lost = {index for index, keep in zip(unsafe, kept, strict=True) if not keep}
        names = _names([one for index, one in naming if index not in lost])
        files = {number for number in names.values() if number in contents}
        for chosen in product(*(contents[number] for number in sorted(files))):
            data = dict(zip(sorted(files), chosen, strict=True))
            yield {path: data.get(number) for path, number in names.items()}


def _is_safe(operation: Operation, later: Sequence[Operation]) -> bool:
    synced = {one.path for one in later if one.kind == "sync folder"}
    paths = [operation.path, *([operation.target] if operation.target else [])]
    return {os.path.dirname(path) or "." for path in paths} <= synced


def _names(operations: Sequence[Operation]) -> dict[str, int]:
    """Return what is reachable by which name after naming operations of which some may be lost."""
    names: dict[str, int] = {}
    for operation in operations:
        if names.get(operation.path) == operation.number:
            del names[operation.path]
        if operation.kind != "remove":
            names[operation.target or operation.path] = operation.number
    return {path: number for path, number in names.items() if _parents(path) <= names.keys()}


def _parents(path: str) -> set[str]:
    return {str(parent) for parent in Path(path).parents} - {"."}


def _contents(operations: Sequence[Operation]) -> dict[int, list[bytes]]:
    """Return what each file may hold."""
    contents: dict[int, list[bytes]] = {}
    for operation in operations:
        if operation.kind == "create":
            contents[operation.number] = [b""]
        elif operation.kind == "write":
            data = operation.data
            may = [*contents[operation.number], data[: len(data) // 2], bytes(len(data)), data]
            contents[operation.number] = list(dict.fromkeys(may))
        elif operation.kind == "sync":
            contents[operation.number] = contents[operation.number][-1:]
    return contents


def restore(disk: Disk, folder: Path) -> None:
    """Write what a disk holds to ``folder``."""
    for path in sorted(disk):
        content = disk[path]
        if content is None:
            (folder / path).mkdir(parents=True, exist_ok=True)
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
