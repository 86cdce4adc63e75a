"""Modules that bring extensions of their own: the option ``plugins:``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module


class PluginError(ImportError):
    """A plug-in cannot be imported; :attr:`position` counts from 0 in the list."""

    def __init__(self, position: int, reason: Exception) -> None:
        self.position = position
        super().__init__(f"{type(reason).__name__}: {reason}")


def import_plugins(names: Iterable[str]) -> None:
    """Import modules that fill registries; as with ``python -m``, also from the working directory.

    Raises:
        PluginError: one of them cannot be imported.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")
    for position, name in enumerate(names):
        try:
            import_module(name)
        except Exception as error:  # whatever a foreign module may raise
            raise PluginError(position, error) from error
