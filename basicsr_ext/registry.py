"""Look a ``type:`` up by name: ours first, then basicsr's registry, which plug-ins fill."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, TypeVar

from .config.errors import nearest

T = TypeVar("T", bound=Callable[..., Any])


class UnknownTypeError(LookupError):
    """No registry knows the name; the message suggests the nearest one."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        self.kind, self.name, self.known = kind, name, known
        self.suggestion = nearest(name, known)
        super().__init__(f"no {kind} is called {name!r}. {self.suggestion or 'Known: ' + ', '.join(known)}")


class Registry:
    """Named constructors of one kind.

    Args:
        kind: word for messages ("network").
        package: package whose ``*<suffix>.py`` modules register ours; imported on first use.
        suffix: ending of those modules' names, BasicSR's convention ("_arch").
        basicsr: name of the registry in ``basicsr.utils.registry`` to fall back to, if there is one.
    """

    def __init__(self, kind: str, package: str, suffix: str, basicsr: str | None) -> None:
        self.kind = kind
        self._package, self._suffix, self._basicsr = package, suffix, basicsr
        self._own: dict[str, Callable[..., Any]] = {}
        self._scanned = False

    def register(self, *names: str) -> Callable[[T], T]:
        """Return a decorator that registers its object under ``names``, or its own name."""

        def decorate(obj: T) -> T:
            for name in names or (obj.__name__,):
                if self._own.setdefault(name, obj) is not obj:
                    raise ValueError(f"{self.kind} {name!r} is registered twice")
            return obj

        return decorate

    def own(self) -> dict[str, Callable[..., Any]]:
        """Return ours by name."""
        if not self._scanned:
            package = import_module(self._package)
            for module in iter_modules(package.__path__):
                if module.name.endswith(self._suffix):
                    import_module(f"{self._package}.{module.name}")
            self._scanned = True  # not before: a module that fails to import must fail again, not vanish
        return dict(self._own)

    def find(self, name: str) -> Callable[..., Any]:
        """Return the constructor called ``name``.

        Raises:
            UnknownTypeError: neither we, basicsr nor a loaded plug-in know it.
        """
        own = self.own()
        if name in own:
            return own[name]
        foreign = dict(self._foreign())
        # basicsr falls back to the suffixed name for classes that exist in sister projects, too.
        for candidate in (name, f"{name}_basicsr"):
            if candidate in foreign:
                return foreign[candidate]
        raise UnknownTypeError(self.kind, name, sorted({*own, *foreign}))

    def is_own(self, name: str) -> bool:
        """Say whether ``name`` means ours."""
        return name in self.own()

    def _foreign(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        if self._basicsr is None:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            registries = import_module("basicsr.utils.registry")
        yield from getattr(registries, self._basicsr)
