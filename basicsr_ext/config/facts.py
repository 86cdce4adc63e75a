"""What a file that may hold mistakes still says for certain, for checks that compare several keys."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .values import whole


@dataclass(frozen=True)
class Facts:
    """A raw mapping and the dotted keys already known to be wrong.

    Checks ask for values by dotted key and stay silent where a value is in doubt, so that every
    mistake is reported and none twice.
    """

    mapping: Mapping[str, Any]
    wrong: Collection[str] = ()

    def written(self, key: str) -> bool:
        """Say whether the file gives ``key`` a value, right or wrong."""
        return self._raw(key) is not None

    def removed(self, key: str) -> bool:
        """Say whether the file gives ``key``, or the section that it stands in, the value ``~``."""
        section, _, name = key.rpartition(".")
        return name in self.removed_below(section) or (section != "" and self.removed(section))

    def removed_below(self, section: str) -> list[str]:
        """Return the names in a section (empty: the file itself) that the file gives the value ``~``."""
        mapping = self._raw(section) if section else self.mapping
        return (
            [name for name, value in mapping.items() if value is None] if isinstance(mapping, Mapping) else []
        )

    def valid(self, key: str) -> bool:
        """Say whether nothing is known to be wrong at ``key``, above it or below it."""
        return not any(
            key == wrong or key.startswith(f"{wrong}.") or wrong.startswith(f"{key}.") or not wrong
            for wrong in self.wrong
        )

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of ``key``; ``default`` if it is absent, None if it is in doubt."""
        if not self.valid(key):
            return None
        value = self._raw(key)
        if value is None:
            return default
        return [whole(item) for item in value] if isinstance(value, list) else whole(value)

    def keys(self, key: str) -> Iterator[str]:
        """Yield the dotted keys of the mappings that stand in the mapping or list ``key``."""
        below = self._raw(key)
        if isinstance(below, Mapping):
            items = list(below.items())
        else:
            items = list(enumerate(below)) if isinstance(below, list) else []
        yield from (f"{key}.{name}" for name, value in items if isinstance(value, Mapping))

    def _raw(self, key: str) -> Any:
        value: Any = self.mapping
        for name in key.split("."):
            if isinstance(value, Mapping):
                value = value.get(name)
            elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            else:
                return None
        return value
