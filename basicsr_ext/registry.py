"""What an option file's ``type:`` names: ours first, then what basicsr and plug-ins have registered.

An extension is one file: a class or function under ``@NETWORKS.register()`` or one of the other registries
below, in the package's folder (``archs/<name>_arch.py``) or in a module named under ``plugins:``. Its typed
signature, or for option sections its fields, is the only place where its options are named.

Which file registers a name, here or in basicsr, is read off the files' text: only the file of the wanted name
is imported, and option files can be checked without importing torch. Nothing else of the package is imported
here.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from .spelling import nearest

T = TypeVar("T", bound=Callable[..., Any])
Definition = ast.ClassDef | ast.FunctionDef


class UnknownTypeError(LookupError):
    """No registry knows the name; the message suggests the nearest one."""

    def __init__(self, kind: str, name: str, known: list[str]) -> None:
        self.kind, self.name, self.known = kind, name, known
        self.suggestion = nearest(name, known)
        super().__init__(f"no {kind} is called {name!r}. {self.suggestion or 'Known: ' + ', '.join(known)}")


@dataclass(frozen=True)
class Elsewhere:
    """Files of another package that define what a registry falls back to.

    Attributes:
        package: of the first level.
        folder: in it.
        pattern: regular expression, whose one group is the name, of what stands before a definition.
    """

    package: str
    folder: str
    pattern: str

    def homes(self) -> dict[str, Path]:
        """Return the file that defines each name, as far as the package is installed; nothing is imported."""
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            return {}
        files = sorted((Path(spec.origin).parent / self.folder).glob("*.py"))
        texts = {file: file.read_text(encoding="utf-8") for file in files}
        return {
            name: file
            for file, text in texts.items()
            for name in re.findall(self.pattern, text, flags=re.MULTILINE)
        }


class Registry:
    """Named classes or functions of one kind.

    Args:
        symbol: the name under which modules import this registry, such as ``NETWORKS``; an attribute, too.
        kind: word for messages ("network").
        package: package whose ``*<suffix>.py`` modules hold ours; ``None``: there are only plug-ins'.
        suffix: ending of those modules' names, BasicSR's convention ("_arch").
        basicsr: name of the registry in ``basicsr.utils.registry`` to fall back to, if there is one.
        elsewhere: where the names that are neither ours nor a plug-in's are defined.
    """

    def __init__(
        self,
        symbol: str,
        kind: str,
        package: str | None = None,
        suffix: str = "",
        basicsr: str | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.kind, self._elsewhere = kind, elsewhere
        self.symbol, self._package, self._suffix, self._basicsr = symbol, package, suffix, basicsr
        self._registered: dict[str, Callable[..., Any]] = {}

    def register(self, *names: str) -> Callable[[T], T]:
        """Return a decorator that registers its object under ``names``, or its own name.

        ``names`` are literals: they are read off the file before it is imported. The name ``*`` is for the
        option section of every name that nothing else is registered under.
        """

        def decorate(obj: T) -> T:
            for name in names or (obj.__name__,):
                elsewhere = not obj.__module__.startswith(self._homes.get(name, obj.__module__))
                if self._registered.setdefault(name, obj) is not obj or elsewhere:
                    raise ValueError(f"{self.kind} {name!r} is registered twice")
            return obj

        return decorate

    def names(self) -> list[str]:
        """Return the names of ours and of what plug-ins have registered here, without importing anything."""
        return [name for name in dict.fromkeys([*self._homes, *self._registered]) if name != "*"]

    def own(self) -> dict[str, Callable[..., Any]]:
        """Return everything registered here by name."""
        return {name: self.find(name) for name in self.names()}

    def known_names(self) -> list[str]:
        """Return :meth:`names` and those of basicsr or torch, as far as their files tell."""
        return list(dict.fromkeys([*self.names(), *self._homes_elsewhere]))

    def find(self, name: str) -> Callable[..., Any]:
        """Return what is called ``name``.

        Raises:
            UnknownTypeError: neither we, basicsr nor a loaded plug-in know it.
        """
        if name not in self._registered and name in self._homes:
            import_module(self._homes[name])
        if name in self._registered:
            return self._registered[name]
        foreign = dict(self._foreign())
        # basicsr falls back to the suffixed name for classes that exist in sister projects, too.
        for candidate in (name, f"{name}_basicsr"):
            if candidate in foreign:
                return foreign[candidate]
        raise UnknownTypeError(self.kind, name, sorted({*self.names(), *foreign}))

    def section(self, name: str) -> Any:
        """Return the option section called ``name``, that of all other names, or None."""
        for candidate in (name, "*"):
            if candidate in self._homes or candidate in self._registered:
                return self.find(candidate)
        return None

    def definition(self, name: str) -> Definition | None:
        """Return the syntax tree of what is called ``name``, if a file of ours or of basicsr's has it."""
        if name in self._registered and name not in self._homes:
            return None
        if name in self._homes:
            return next(item for item, names in self._definitions(self._homes[name]) if name in names)
        if name not in self._homes_elsewhere:
            return None
        tree = ast.parse(self._homes_elsewhere[name].read_text(encoding="utf-8"))
        return next(item for item in tree.body if isinstance(item, Definition) and item.name == name)

    @cached_property
    def _homes_elsewhere(self) -> dict[str, Path]:
        return {} if self._elsewhere is None else self._elsewhere.homes()

    @cached_property
    def _homes(self) -> dict[str, str]:
        """The module that registers each of our names."""
        if self._package is None:
            return {}
        modules = [path for path in self._folder.glob(f"*{self._suffix}.py") if path.stem != "__init__"]
        modules += [path.parent for path in self._folder.glob(f"*{self._suffix}/__init__.py")]
        return {
            name: f"{self._package}.{module.stem}"
            for module in sorted(modules)
            for _, names in self._definitions(f"{self._package}.{module.stem}")
            for name in names
        }

    @property
    def _folder(self) -> Path:
        assert self._package is not None, "only packages have a folder"
        spec = find_spec(self._package)
        assert spec is not None, f"{self._package} is part of this package"
        return Path(str(spec.origin)).parent

    def _definitions(self, module: str) -> Iterator[tuple[Definition, list[str]]]:
        """Yield what a module registers here: its syntax tree and its names."""
        path = self._folder / module.rpartition(".")[2]
        files = sorted(path.glob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
        for text in (file.read_text(encoding="utf-8") for file in files):
            if f"@{self.symbol}.register" not in text:
                continue
            for item in ast.parse(text).body:
                if isinstance(item, Definition):
                    for decorator in item.decorator_list:
                        if ast.unparse(decorator).startswith(f"{self.symbol}.register("):
                            assert isinstance(decorator, ast.Call), "register is called"
                            yield item, [ast.literal_eval(name) for name in decorator.args] or [item.name]

    def _foreign(self) -> Iterator[tuple[str, Callable[..., Any]]]:
        if self._basicsr is None:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            registries = import_module("basicsr.utils.registry")
        yield from getattr(registries, self._basicsr)


def _of_basicsr(symbol: str, kind: str, package: str, suffix: str, basicsr: str, folder: str) -> Registry:
    registered = rf"^@{basicsr}\.register\(.*\)\n(?:@.*\n)*(?:class|def) (\w+)"
    elsewhere = Elsewhere("basicsr", folder, registered)
    return Registry(symbol, kind, f"basicsr_ext.{package}", suffix, basicsr, elsewhere)


NETWORKS = _of_basicsr("NETWORKS", "network", "archs", "_arch", "ARCH_REGISTRY", "archs")
"""Classes, ``torch.nn.Module``."""
MIXERS = Registry("MIXERS", "token mixer", "basicsr_ext.archs.mixers")
"""Classes, ``torch.nn.Module``: see :mod:`basicsr_ext.archs.mixers`."""
FEED_FORWARDS = Registry("FEED_FORWARDS", "feed-forward network", "basicsr_ext.archs.mixers")
"""Likewise."""
LOSSES = _of_basicsr("LOSSES", "loss", "losses", "_loss", "LOSS_REGISTRY", "losses")
"""Classes, ``torch.nn.Module``: what they take is the model kind's matter."""
METRICS = _of_basicsr("METRICS", "metric", "metrics", "_metric", "METRIC_REGISTRY", "metrics")
"""Functions of an image and its reference, or classes after :class:`basicsr_ext.metrics.Metric`."""
DATASETS = _of_basicsr("DATASETS", "data set", "data", "_dataset", "DATASET_REGISTRY", "data")
"""Option sections after :class:`basicsr_ext.data.sections.DatasetSection`."""
OPTIMIZERS = Registry(
    "OPTIMIZERS", "optimizer", elsewhere=Elsewhere("torch", "optim", r"^class (\w+)\((?:Optimizer|Adam)\)")
)
"""Classes, ``torch.optim.Optimizer``; torch's own and importable ones need no registration."""
SCHEDULERS = Registry("SCHEDULERS", "learning-rate schedule", "basicsr_ext.schedulers", "_scheduler")
"""Option sections after :class:`basicsr_ext.config.Scheduler`."""
DEGRADATIONS = Registry("DEGRADATIONS", "degradation step", "basicsr_ext.data.degradations")
"""Option sections after :class:`basicsr_ext.data.degradations.Step` or its ``ShrinkingStep``."""
MODELS = Registry("MODELS", "model", "basicsr_ext.models", "_model")
"""Model kinds after :class:`basicsr_ext.models.ModelKind`."""
