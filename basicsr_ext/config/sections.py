"""What all mappings of an option file have in common, and those whose ``type`` decides about the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from ..registry import Registry
from ..spelling import closest, nearest
from .errors import Problem
from .facts import Facts
from .values import show


class OptionMapping(BaseModel):
    """A mapping of the option file; ``~`` says the same as leaving a key out."""

    # BasicSR's model_type is a key like any other; pydantic would reserve the prefix.
    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())

    @classmethod
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        """Yield what is wrong with this mapping beyond the type of each of its keys.

        Overridden where keys depend on each other. Called for a mapping of this type wherever one
        stands in the file, also where other keys are wrong: what is asked of ``facts`` and is in doubt
        is None.

        Args:
            facts: the whole file.
            key: dotted key of this mapping; empty for the file itself.
        """
        yield from ()

    @classmethod
    def knows(cls, key: str) -> bool:
        """Say whether ``key`` is one of this mapping's own; what a constructor decides about is not."""
        return key in cls.model_fields

    @model_validator(mode="before")
    @classmethod
    def _null_means_absent(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {key: value for key, value in data.items() if value is not None or not cls.knows(key)}


class Section(OptionMapping):
    """A mapping whose keys are all known here; others are errors."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Named:
    """Annotation metadata of ``dict[str, Section]``: ``~`` under a name says the same as leaving it out."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._without_nulls, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        mapping = handler(schema)
        return {
            **mapping,
            "additionalProperties": {"anyOf": [mapping["additionalProperties"], {"type": "null"}]},
        }

    @staticmethod
    def _without_nulls(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: section for name, section in value.items() if section is not None}


@dataclass(frozen=True)
class ByType:
    """Annotation metadata: a mapping whose ``type`` names the registered section with its other keys.

    Attributes:
        registry: holds option sections by name, perhaps one for all other names under ``*``.
        wanted: what the type has to name, in words.
        variant: maps a section found to the one to use in this place, or to ``None`` if it does not fit.
        misfit: what is wanted where ``variant`` gives ``None``.
    """

    registry: Registry
    wanted: str
    variant: Callable[[type[OptionMapping]], type[OptionMapping] | None] | None = None
    misfit: str = ""

    def section(self, value: Any) -> type[OptionMapping] | None:
        """Return the section that ``value`` is checked against, or None where its type names none."""
        name = value.get("type") if isinstance(value, dict) else None
        if not isinstance(name, str):
            return None
        section = self.registry.section(name)
        return section if section is None or self.variant is None else self.variant(section)

    def sections(self) -> dict[str, type[OptionMapping]]:
        """Return every registered section that fits, by name."""
        found = {name: self.section({"type": name}) for name in self.registry.names()}
        return {name: section for name, section in found.items() if section is not None}

    def problem(self, path: str, value: Any) -> Problem:
        """Return what is wrong with a ``value`` that no section can be found for."""
        known = f"known: {', '.join(self.registry.names())}"
        if not isinstance(value, dict):
            name = closest(value, self.registry.names()) if isinstance(value, str) else None
            return Problem(
                path, show(value), "a mapping with type", f"write {{type: {name}}}" if name else known
            )
        name = value.get("type")
        if name is None:
            return Problem(f"{path}.type", "nothing", self.wanted, known)
        if isinstance(name, str) and name in self.registry.names():
            return Problem(f"{path}.type", show(name), self.misfit)
        return Problem(
            f"{path}.type", show(name), self.wanted, nearest(str(name), self.registry.names()) or known
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        # Which sections there are is known to who asks for a schema: see scripts/generate_schema.py.
        return {"by_type": [self.registry.symbol, self.variant is not None]}

    def _validate(self, value: Any) -> OptionMapping:
        if isinstance(value, OptionMapping):
            return value
        section = self.section(value)
        if section is None or not isinstance(value, dict):
            raise PydanticCustomError("no_section", "no section is registered for this type")
        return section.model_validate(value)


@dataclass(frozen=True)
class ConstructedBy:
    """Annotation metadata of a :class:`.schema.Spec`: whose constructor decides which keys it has.

    Attributes:
        registry: holds the constructors.
        supplied: arguments that do not come from the option file.
        kept: keys that are read elsewhere and do not reach the constructor.
        tried: whether building one is cheap enough to try before a run what it refuses.
    """

    registry: Registry
    supplied: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    tried: bool = False

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        constructed_by = {"symbol": self.registry.symbol, "supplied": self.supplied, "kept": self.kept}
        return {"constructed_by": constructed_by, "allOf": [handler(schema)]}


def metadata_of(annotation: Any) -> Iterator[Any]:
    """Yield what is attached to an annotation, and to the members of a union."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        yield from metadata
        yield from metadata_of(inner)
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from metadata_of(member)
