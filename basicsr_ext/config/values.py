"""Single values of an option file: number types, and how values and types are put into words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic_core import CoreSchema, core_schema

LARGEST_INTEGER = 2**63 - 1
"""Integers beyond this magnitude are refused: nothing in training counts so far."""

_LONGEST_SHOWN = 60


def whole(value: Any) -> Any:
    """Return a float without fractional part as an integer (``!!float 5e3``), anything else unchanged."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_INTEGER:
        return int(value)
    return value


@dataclass(frozen=True)
class Expect:
    """Annotation metadata: what a value has to be, in words, for one and for a list of them."""

    one: str
    many: str


@dataclass(frozen=True)
class Interval(Expect):
    """Annotation metadata for ``tuple[float, float]``: a number x, read as (x, x), or a list [low, high].

    Attributes:
        least: lowest number allowed.
        most: highest number allowed.
        step: 0 for any number, 1 for whole ones, 2 for odd ones.
    """

    least: float
    most: float
    step: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._parse, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        number: dict[str, Any] = {"type": "integer" if self.step else "number"}
        number |= {"minimum": self.least} if math.isfinite(self.least) else {}
        number |= {"maximum": self.most} if math.isfinite(self.most) else {}
        return {"anyOf": [number, {"type": "array", "items": number, "minItems": 2, "maxItems": 2}]}

    def _parse(self, value: Any) -> tuple[float, float]:
        pair = value if isinstance(value, list | tuple) else (value, value)
        if len(pair) != 2 or not all(map(self._allows, pair)) or pair[0] > pair[1]:
            raise ValueError("outside of the interval")
        low, high = map(whole if self.step else float, pair)
        return low, high

    def _allows(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        fits = not self.step or (whole(value) % 2 == 1 if self.step == 2 else float(value).is_integer())
        return math.isfinite(value) and self.least <= value <= self.most and fits


def interval(least: float = -math.inf, most: float = math.inf, step: int = 0) -> Interval:
    """Return the metadata of numbers, or ranges of them, that lie between two bounds."""
    kind = ("number", "whole number", "odd number")[step]
    if math.isfinite(most):
        bounds = f" from {least:g} to {most:g}"
    else:
        bounds = f" from {least:g} up" if math.isfinite(least) else ""
    article = "an" if kind.startswith("odd") else "a"
    return Interval(f"{article} {kind}{bounds}, or two as [low, high]", f"{kind}s{bounds}", least, most, step)


PositiveInt = Annotated[
    int, Field(gt=0), BeforeValidator(whole), Expect("a positive whole number", "positive whole numbers")
]
NonNegativeInt = Annotated[
    int, Field(ge=0), BeforeValidator(whole), Expect("a whole number from 0 up", "whole numbers from 0 up")
]
PositiveFloat = Annotated[
    float, Field(gt=0, allow_inf_nan=False), Expect("a positive number", "positive numbers")
]
NonNegativeFloat = Annotated[
    float, Field(ge=0, allow_inf_nan=False), Expect("a number from 0 up", "numbers from 0 up")
]
Probability = Annotated[float, Field(ge=0, le=1), Expect("a number from 0 to 1", "numbers from 0 to 1")]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False), Expect("a number", "numbers")]


def alternatives(words: Iterable[str]) -> str:
    """Join words as ``a, b or c``."""
    *rest, last = words
    return f"{', '.join(rest)} or {last}" if rest else last


def show(value: Any) -> str:
    """Return a found value in words that fit on one line."""
    if value is None:
        return "nothing (~)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"{_shorten(repr(value))} (text)"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value and not value.is_integer() else repr(value)
    if isinstance(value, Mapping):
        return (
            f"a mapping with the keys {_shorten(', '.join(map(str, value)))}" if value else "an empty mapping"
        )
    if isinstance(value, list):
        return f"the list {_shorten(str(value))}"
    return f"a {type(value).__name__}"


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"


def describe(annotation: Any, many: bool = False) -> str:
    """Return what a type annotation of the schema accepts, in words; ``many`` gives the plural."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        for item in metadata:
            if isinstance(item, Expect):
                return item.many if many else item.one
        return describe(inner, many)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return _describe_union(arguments, many)
    if origin is Literal:
        return alternatives(f"{item!r}" for item in arguments)
    if origin is list:
        return ("lists of " if many else "a list of ") + describe(arguments[0], many=True)
    if origin is dict:
        return ("mappings of " if many else "a mapping of ") + describe(arguments[1], many=True)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _describe_model(annotation, many)
    one, plural = _PLAIN.get(annotation, ("a value", "values"))
    return plural if many else one


_PLAIN: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "true or false"),
    str: ("text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
}


def _describe_union(members: tuple[Any, ...], many: bool) -> str:
    # Variants of a data set share their mandatory keys as far as a message is concerned.
    words = [describe(member, many) for member in members if member is not type(None)]
    return alternatives(dict.fromkeys(words)) if len(words) < 4 else words[-1]


def _describe_model(model: type[BaseModel], many: bool) -> str:
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    word = "mappings" if many else "a mapping"
    return f"{word} with {' and '.join(required)}" if required else word


_LONGEST_NAME = 200
"""Bytes; a log's name has a date besides, and file systems end at 255."""


def _named(name: str) -> str:
    if len(name.encode()) > _LONGEST_NAME or not name.strip(".") or not name.isprintable():
        raise ValueError("not the name of a folder")
    return name


FolderName = Annotated[
    str,
    Field(min_length=1, max_length=_LONGEST_NAME, pattern="^[^/]*$"),
    AfterValidator(_named),
    Expect(f"the name of a folder: text of 1 to {_LONGEST_NAME} bytes without /", "names of folders"),
]
