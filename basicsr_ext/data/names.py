"""Names of a million images in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os.path import splitext
from typing import overload

import numpy as np
from typing_extensions import override

_ENCODING = "utf-8", "surrogateescape"


@dataclass(frozen=True, eq=False)
class Names(Sequence[str]):
    """Texts in one piece of memory.

    A tuple of strings would take twice as much, and be copied to every loader process as their reference
    counts change.

    Args:
        text: the names, one after the other, in UTF-8.
        ends: (N,) int64, where each name ends in ``text``.
    """

    text: bytes
    ends: np.ndarray

    @classmethod
    def of(cls, names: Iterable[str | bytes]) -> Names:
        """Return these names."""
        encoded = [name.encode(*_ENCODING) if isinstance(name, str) else name for name in names]
        return cls(b"".join(encoded), np.cumsum([len(name) for name in encoded], dtype=np.int64))

    def raw(self, index: int) -> bytes:
        """Return the name at ``index``, which is not negative, as it is stored."""
        start = int(self.ends[index - 1]) if index else 0
        return self.text[start : int(self.ends[index])]

    def take(self, indices: Sequence[int] | np.ndarray) -> Names:
        """Return the names at ``indices``, in that order."""
        return Names.of(map(self.raw, np.asarray(indices, np.int64).tolist()))

    @override
    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Names: ...

    @override
    def __getitem__(self, index: int | slice) -> str | Names:
        numbers = range(len(self))[index]
        return self.take(numbers) if isinstance(numbers, range) else self.raw(numbers).decode(*_ENCODING)

    @override
    def __iter__(self) -> Iterator[str]:
        for start, end in pairwise([0, *self.ends.tolist()]):
            yield self.text[start:end].decode(*_ENCODING)

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    @override
    def __hash__(self) -> int:
        return hash(self.text)


@dataclass(frozen=True)
class Stems(Sequence[str]):
    """Paths of files without their suffixes."""

    files: Sequence[str]

    @override
    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Stems: ...

    @override
    def __getitem__(self, index: int | slice) -> str | Stems:
        return Stems(self.files[index]) if isinstance(index, slice) else splitext(self.files[index])[0]

    @override
    def __iter__(self) -> Iterator[str]:
        return (splitext(file)[0] for file in self.files)
