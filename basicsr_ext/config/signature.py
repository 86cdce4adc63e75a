"""Do an option file's keyword arguments fit the constructor they are for?"""

from __future__ import annotations

import ast
import collections.abc
import inspect
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import (
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from ..spelling import nearest
from . import parts
from .errors import Problem
from .sections import ConstructedBy, metadata_of
from .values import show

_SCALARS = (bool, int, float, str, type(None))
_CONTAINERS = (list, tuple, dict)


def check_arguments(
    constructor: Callable[..., Any],
    kwargs: Mapping[str, Any],
    key: str,
    supplied: Collection[str] = (),
    *,
    allow_extra: bool = True,
    all_known: bool = True,
) -> list[Problem]:
    """Compare keyword arguments with a constructor's signature.

    Args:
        constructor: class or function that will be called.
        kwargs: the arguments an option file gives.
        key: dotted key under which they stand (``network_g``).
        supplied: names of arguments the caller adds itself (``params`` of an optimizer).
        allow_extra: whether a ``**kwargs`` of the constructor may take unknown names; false where it is
            known to ignore them.
        all_known: whether everything is registered that will be: names of parts that are not are wrong.

    Returns:
        A problem for each unknown argument, each missing one, and each value that does not fit its
        annotation; annotations that no YAML value can meet are not checked. Without annotation, text
        is refused where the default is a number or a boolean.
    """
    try:
        parameters = inspect.signature(constructor).parameters
    except (TypeError, ValueError):
        return []  # Compiled code may have no signature to compare with.
    name = getattr(constructor, "__name__", str(constructor))
    takes_any = allow_extra and any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    named = {
        word: parameter
        for word, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    free = [word for word in named if word not in supplied]
    missing = [word for word in free if named[word].default is inspect.Parameter.empty and word not in kwargs]
    problems = []
    for word in kwargs:
        if word in free or (takes_any and word not in supplied):
            continue
        suggestion = nearest(word, free)
        missing = [other for other in missing if repr(other) not in suggestion]
        fix = suggestion or f"known: {', '.join(free) or 'none'}"
        problems.append(Problem(f"{key}.{word}", "an unknown key", f"an argument of {name}", fix))
    problems += [Problem(f"{key}.{word}", "nothing", f"a value, which {name} needs") for word in missing]
    types_by_name = argument_types(constructor)
    for word in [word for word in kwargs if word in free]:
        value, default = kwargs[word], named[word].default
        if word in types_by_name and not (value is None and default is None):
            problems += _check_value(value, *types_by_name[word], f"{key}.{word}")
        elif isinstance(default, bool | int | float) and isinstance(value, str):
            # Most of basicsr is not annotated, and text such as 'no' counts as true wherever it is tested.
            kind = "true or false" if isinstance(default, bool) else "a number"
            expected = f"{kind}, like the default {show(default)}"
            problems.append(Problem(f"{key}.{word}", show(value), expected))
    for word, part in argument_parts(constructor).items():
        if word in kwargs:
            problems += _check_part(kwargs[word], part, f"{key}.{word}", all_known)
    return problems


def _check_part(value: Any, part: ConstructedBy, key: str, all_known: bool) -> list[Problem]:
    """Compare a part's name and arguments with its constructor."""
    given = {"type": value} if isinstance(value, str) else value
    if not isinstance(given, dict):
        return []  # the argument's annotation has said so
    name, registry = given.get("type"), part.registry
    if not isinstance(name, str):
        known = f"known: {', '.join(registry.known_names())}"
        found = "nothing" if name is None else show(name)
        return [Problem(f"{key}.type", found, f"the name of a {registry.kind}", known)]
    if name not in registry.known_names():
        place = key if isinstance(value, str) else f"{key}.type"
        fix = nearest(name, registry.known_names()) or f"known: {', '.join(registry.known_names())}"
        return [Problem(place, repr(name), f"a registered {registry.kind}", fix)] if all_known else []
    definition = registry.definition(name)
    constructor = registry.find(name) if definition is None else written_constructor(definition)
    if constructor is None:
        return []
    kwargs = {word: item for word, item in given.items() if word != "type"}
    return check_arguments(constructor, kwargs, key, part.supplied, all_known=all_known)


def argument_parts(constructor: Callable[..., Any]) -> dict[str, ConstructedBy]:
    """Return whose constructor decides about an argument's value, for the arguments that name a part."""
    found: dict[str, ConstructedBy] = {}
    for word, annotation in _hints(constructor).items():
        for item in metadata_of(annotation):
            if isinstance(item, ConstructedBy):
                found[word] = item
    return found


def _hints(constructor: Callable[..., Any]) -> dict[str, Any]:
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # Names that exist for type checkers only may raise anything when evaluated.
        return {}


def argument_types(constructor: Callable[..., Any]) -> dict[str, tuple[str, TypeAdapter[Any]]]:
    """Return annotation in words and validator of each argument that a YAML value can meet."""
    types_by_name: dict[str, tuple[str, TypeAdapter[Any]]] = {}
    for word, annotation in _hints(constructor).items():
        usable = _usable(annotation)
        if word == "return" or usable is None:
            continue
        with suppress(PydanticSchemaGenerationError, PydanticUserError):
            types_by_name[word] = (_words(usable), TypeAdapter(usable))
    return types_by_name


def written_constructor(definition: ast.ClassDef | ast.FunctionDef) -> Callable[..., Any] | None:
    """Return a function with the signature of a constructor that is known by its source alone.

    Annotations of names beyond the builtins, ``typing``, ``collections.abc`` and :mod:`.parts` are left out,
    and defaults that are no literals stand as ``...``.

    Args:
        definition: a function, or a class.

    Returns:
        ``None`` for a class without ``__init__`` of its own.
    """
    function: ast.stmt | None = definition
    if isinstance(definition, ast.ClassDef):
        methods = (item for item in definition.body if isinstance(item, ast.FunctionDef))
        function = next((method for method in methods if method.name == "__init__"), None)
    if not isinstance(function, ast.FunctionDef):
        return None
    of_class = isinstance(definition, ast.ClassDef)
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    without_default = len(positional) - len(arguments.defaults)
    defaults = [*[None] * without_default, *arguments.defaults]
    both = [
        *zip(positional, defaults, [inspect.Parameter.POSITIONAL_OR_KEYWORD] * len(positional), strict=True),
        *zip(
            arguments.kwonlyargs,
            arguments.kw_defaults,
            [inspect.Parameter.KEYWORD_ONLY] * len(arguments.kwonlyargs),
            strict=True,
        ),
    ][of_class:]
    parameters = [
        inspect.Parameter(
            item.arg, kind, default=inspect.Parameter.empty if value is None else _literal(value)
        )
        for item, value, kind in both
    ]
    if arguments.kwarg is not None:
        parameters.append(inspect.Parameter(arguments.kwarg.arg, inspect.Parameter.VAR_KEYWORD))

    def constructor(**_: Any) -> None: ...

    constructor.__name__ = definition.name
    constructor.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    constructor.__annotations__ = {}
    for item, _, _ in both:
        with suppress(NameError, TypeError):
            if item.annotation is not None:
                constructor.__annotations__[item.arg] = eval(ast.unparse(item.annotation), dict(_KNOWN_TYPES))
    return constructor


_KNOWN_TYPES = {**vars(typing), **vars(collections.abc), **vars(parts)}


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        return ...


def _check_value(value: Any, words: str, adapter: TypeAdapter[Any], key: str) -> list[Problem]:
    try:
        # Not strict: YAML has lists where constructors ask for tuples.
        accepted = _same(value, adapter.validate_python(value))
    except ValidationError:
        accepted = False
    return [] if accepted else [Problem(key, show(value), words)]


def _usable(annotation: Any) -> Any:
    """Return the part of an annotation that a YAML value can meet, or None if there is none."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _SCALARS or annotation in _CONTAINERS or origin is Literal:
        return annotation
    if origin is Annotated:
        return _usable(arguments[0])
    if origin in (Union, types.UnionType):
        members = [member for item in arguments if (member := _usable(item)) is not None]
        if types.NoneType in arguments and members == [types.NoneType]:
            return None
        return Union[tuple(members)] if members else None  # noqa: UP007 (members are known at run time only)
    if inspect.isclass(origin) and issubclass(origin, Collection):
        items = [item for item in arguments if item is not Ellipsis]
        return annotation if all(_usable(item) is not None for item in items) else None
    return None


def _same(found: Any, accepted: Any) -> bool:
    """Say whether validation kept every scalar's kind: no '5' for 5, no true for 1."""
    if isinstance(found, dict):
        return isinstance(accepted, Mapping) and all(_same(found[key], accepted[key]) for key in found)
    if isinstance(found, list):
        # Sequences may come back as iterators, which pydantic checks lazily.
        return not isinstance(accepted, Collection) or all(map(_same, found, accepted))
    if isinstance(found, int) and not isinstance(found, bool):
        return type(accepted) in (int, float)
    return type(found) is type(accepted)


def _words(annotation: Any) -> str:
    if inspect.isclass(annotation) and not get_args(annotation):
        return annotation.__name__
    return re.sub(r"\b(typing|collections\.abc)\.", "", str(annotation))
