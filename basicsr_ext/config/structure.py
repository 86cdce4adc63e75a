"""Does the file have the schema's keys and types? Every difference as one :class:`Problem`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from ..spelling import closest, nearest
from .datasets import Datasets, EvaluationSet, LoaderKeys
from .errors import Problem
from .facts import Facts
from .paths import Existing
from .schema import Options, Scheduler
from .sections import ByType, ConstructedBy, OptionMapping, metadata_of
from .signature import check_arguments, written_constructor
from .values import describe, show
from .yaml_text import read_yaml

# --- walking the schema beside a raw value ----------------------------------------------------------


def by_type(annotation: Any) -> ByType | None:
    """Return what decides about the section of a value by its ``type``, where something does."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        return next((item for item in metadata if isinstance(item, ByType)), None) or by_type(inner)
    inner = _without_none(annotation)
    return by_type(inner) if inner is not annotation else None


def model_for(annotation: Any, value: Any) -> type[OptionMapping] | None:
    """Return the section that ``value`` is checked against, or None where it is no mapping of the schema."""
    chosen = by_type(annotation)
    if chosen is not None:
        return chosen.section(value)
    plain = _without_none(annotation)
    # Python 3.10 takes list[int] for a class.
    is_class = isinstance(plain, type) and get_origin(plain) is None
    return plain if is_class and issubclass(plain, OptionMapping) else None


def annotation_below(annotation: Any, value: Any, key: Any) -> Any:
    """Return the schema's annotation for ``value[key]``; Any where a constructor decides."""
    model = model_for(annotation, value)
    if model is not None:
        if key in model.model_fields:
            return model.model_fields[key].rebuild_annotation()
        return EvaluationSet if model is Datasets else Any
    annotation = _without_none(annotation)
    return get_args(annotation)[-1] if get_origin(annotation) in (list, dict) else Any


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return members[0] if by_type(members[0]) else _without_none(members[0])
    return annotation


def _walk(value: Any, annotation: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield every value of the file with its dotted key and its annotation."""
    yield path, value, annotation
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield from _walk(child, annotation_below(annotation, value, key), _join(path, key))


def check_relations(
    mapping: dict[str, Any],
    root: type[Options],
    facts: Facts,
    phases: Collection[str],
    absent: Collection[str] = (),
) -> Iterator[Problem]:
    """Yield what a key's type alone does not show: contradictions between keys, files that are not there.

    Args:
        mapping: the option file.
        root: the model kind's options.
        facts: of the same file.
        phases: data sets whose files have to exist: any of ``train``, ``val``, ``test``.
        absent: keys below ``datasets`` of the sets whose files may be missing all the same.
    """
    for path, value, annotation in _walk(mapping, root, ""):
        model = model_for(annotation, value) if isinstance(value, dict) else None
        if model is not None:
            yield from model.relations(facts, path)
        for item in metadata_of(annotation):
            if isinstance(item, Existing) and isinstance(value, str) and facts.valid(path):
                yield from item.check(facts, path, value) if _is_needed(path, phases, absent) else ()
            if isinstance(item, ConstructedBy | ByType) and isinstance(value, dict):
                found = _check_type(item, value, path, bool(mapping.get("plugins")))
                yield from (problem for problem in found if facts.valid(problem.key))


def _check_type(
    decides: ConstructedBy | ByType, value: dict[str, Any], path: str, plugins: bool
) -> Iterator[Problem]:
    """Compare type and arguments with a constructor as its file has it; plug-ins' are compared when built."""
    name, registry = value.get("type"), decides.registry
    if not isinstance(name, str):
        return
    known = registry.known_names()
    # Without a section of its own a type is checked here; with dots it is an importable name.
    named_elsewhere = plugins or "." in name
    if (
        name not in known
        and not named_elsewhere
        and (isinstance(decides, ConstructedBy) or registry.section(name))
    ):
        fix = nearest(name, known) or f"known: {', '.join(known)}"
        fix += "; or name under plugins: the module that registers it"
        yield Problem(f"{path}.type", repr(name), f"a registered {registry.kind}", fix)
    definition = registry.definition(name) if isinstance(decides, ConstructedBy) else None
    constructor = written_constructor(definition) if definition is not None else None
    if isinstance(decides, ConstructedBy) and constructor is not None:
        kwargs = {key: item for key, item in value.items() if key not in ("type", *decides.kept)}
        yield from check_arguments(
            constructor, kwargs, path, decides.supplied, allow_extra=False, all_known=not plugins
        )


def constructed_parts(options: Options) -> Iterator[tuple[str, dict[str, Any], ConstructedBy]]:
    """Yield what constructors will build: dotted key, the mapping there, and whose constructor it is."""
    for path, value, annotation in _walk(options.model_dump(exclude_unset=True), type(options), ""):
        for item in metadata_of(annotation):
            if isinstance(item, ConstructedBy) and isinstance(value, dict):
                yield path, value, item


def unknown_types(mapping: dict[str, Any], root: type[Options]) -> bool:
    """Say whether a ``type`` that decides about other keys names nothing registered here."""
    for _, value, annotation in _walk(mapping, root, ""):
        chosen = by_type(annotation)
        if (
            chosen is not None
            and isinstance(value, dict)
            and value.get("type") not in chosen.registry.names()
        ):
            return True
    return False


def _is_needed(path: str, phases: Collection[str], absent: Collection[str]) -> bool:
    parts = path.split(".")
    return parts[0] != "datasets" or (parts[1].split("_")[0] in phases and parts[1] not in absent)


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


# --- unknown keys -----------------------------------------------------------------------------------


@dataclass
class Repaired:
    """The mapping with misspelt keys put right as suggested, so that one misspelling is one problem."""

    mapping: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    renamed: set[str] = field(default_factory=set)


class _Typed(OptionMapping):
    """A mapping of which nothing is known before it has a type."""

    model_config = ConfigDict(extra="allow")
    type: str


def repair(mapping: dict[str, Any], root: type[Options], places: dict[str, str]) -> Repaired:
    """Report every key that the schema does not know; rename it to the nearest key, or leave it out."""
    repaired = Repaired(places=dict(places))
    repaired.mapping = _repair(mapping, root, "", repaired, _homes(root))
    return repaired


def _homes(root: type[Options]) -> dict[str, type[OptionMapping]]:
    """Return the sections whose keys are looked for when one stands in the wrong place."""
    fields = {name: model_for(field.rebuild_annotation(), {}) for name, field in root.model_fields.items()}
    sections = {name: model for name, model in fields.items() if model not in (None, Datasets)}
    return {"the top level": root, "datasets.train": LoaderKeys, **sections}  # pyright: ignore[reportReturnType]


def _repair(
    value: Any, annotation: Any, path: str, repaired: Repaired, homes: dict[str, type[OptionMapping]]
) -> Any:
    if isinstance(value, list):
        below = annotation_below(annotation, value, 0)
        return [_repair(item, below, _join(path, i), repaired, homes) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if by_type(annotation) and "type" not in value:
        value = _repair_keys(value, _Typed, path, repaired, homes)
    model = model_for(annotation, value)
    if model is not None:
        value = _repair_keys(value, model, path, repaired, homes)
    return {
        key: _repair(child, annotation_below(annotation, value, key), _join(path, key), repaired, homes)
        for key, child in value.items()
    }


def _repair_keys(
    value: dict[str, Any],
    model: type[OptionMapping],
    path: str,
    repaired: Repaired,
    homes: dict[str, type[OptionMapping]],
) -> dict[str, Any]:
    fixed: dict[str, Any] = {}
    suggestions = {key: _suggest(key, value, model) for key in value if not _knows(model, key, value)}
    for key, child in value.items():
        if key not in suggestions:
            fixed[key] = child
            continue
        repaired.problems.append(_unknown(key, suggestions[key], value, model, path, homes))
        target = suggestions[key]
        if target and target not in value and target not in fixed:
            fixed[target] = child
            repaired.renamed.add(_join(path, target))
            _move(repaired.places, _join(path, key), _join(path, target))
    return fixed


def _knows(model: type[OptionMapping], key: str, value: dict[str, Any]) -> bool:
    if model.knows(key):
        return True
    if model is Datasets or model.model_config.get("extra") != "allow":
        return False
    # Constructors decide about other keys, unless this one is plainly a mandatory key misspelt.
    return not any(closest(key, [name]) for name in _required(model) if name not in value)


def _required(model: type[OptionMapping]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


def _suggest(key: str, value: dict[str, Any], model: type[OptionMapping]) -> str | None:
    if model is Datasets:
        return _suggest_set(key)
    missing = [name for name in _required(model) if name not in value]
    if model.model_config.get("extra") == "allow":
        return closest(key, missing)
    return closest(key, missing) or closest(key, model.model_fields)


def _suggest_set(key: str) -> str | None:
    word, number = re.fullmatch(r"(.*?)(?:_?(\d+))?", key, re.DOTALL).groups()  # pyright: ignore[reportOptionalMemberAccess]
    phases = ["train", "val", "test"]
    begun = [phase for phase in phases if word.lower().startswith(phase[:3])]
    phase = begun[0] if begun else closest(word, phases)
    return f"{phase}_{number}" if phase in ("val", "test") and number else phase


def _unknown(
    key: str,
    suggestion: str | None,
    value: dict[str, Any],
    model: type[OptionMapping],
    path: str,
    homes: dict[str, type[OptionMapping]],
) -> Problem:
    owner = path or "the option file"
    if path.startswith("datasets.") and "type" in value:
        kind = "training set" if path == "datasets.train" else "evaluation set"
        owner = f"a {value['type']} {kind if path.count('.') == 1 else 'step'}"
    if issubclass(model, Scheduler):
        owner = value["type"]
    known = ["train", "val", "val_1", "test", "test_1"] if model is Datasets else list(model.model_fields)
    # A nested mapping's key is not likely meant for another section.
    at_home = [name for name, section in homes.items() if key in section.model_fields and path.count(".") < 2]
    if len(at_home) == 1:
        fix = f"{key!r} belongs to {at_home[0]}"
    elif suggestion:
        fix = f"did you mean {suggestion!r}?"
    elif "." in key and not path:
        fix = f"write {key.replace('.', ':')} in --force_yml"
    else:
        fix = f"known: {', '.join(known)}"
    return Problem(_join(path, key), "an unknown key", f"a key of {owner}", fix)


def _move(places: dict[str, str], old: str, new: str) -> None:
    for path in [path for path in places if path == old or path.startswith(f"{old}.")]:
        # The old key keeps its place: the problem is reported under it.
        places.setdefault(new + path[len(old) :], places[path])


# --- types ------------------------------------------------------------------------------------------


def validate(mapping: dict[str, Any], root: type[Options]) -> tuple[Options | None, list[Problem], set[str]]:
    """Return the typed options, or None and one problem for each key that is missing or of a wrong type.

    The set holds the dotted keys in doubt: those of the problems, and mappings that no section is known for.
    """
    try:
        return root.model_validate(mapping), [], set()
    except ValidationError as error:
        problems: dict[str, Problem] = {}
        doubtful: set[str] = set()
        for location, detail in _flattened(error):
            path, problem = _translate(location, detail["type"], mapping, root)
            problems.setdefault(problem.key, problem)
            doubtful |= {path, problem.key}
        return None, list(problems.values()), doubtful


def _flattened(
    error: ValidationError, above: tuple[Any, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], ErrorDetails]]:
    """Yield the single errors with their location, those of sections chosen by their type included."""
    for detail in error.errors(include_url=False):
        location = (*above, *detail["loc"])
        inner = detail.get("ctx", {}).get("error")
        if isinstance(inner, ValidationError):
            yield from _flattened(inner, location)
        else:
            yield location, detail


def _translate(
    location: tuple[Any, ...], kind: str, mapping: dict[str, Any], root: Any
) -> tuple[str, Problem]:
    """Return the dotted key of the value in doubt, and the problem, which may name a key in it."""
    missing = kind == "missing"
    path, description = "", ""
    value: Any = mapping
    annotation: Any = root
    for position, key in enumerate(location):
        # pydantic's locations hold names of union members, too: only what the file can hold is kept.
        holds = (isinstance(value, dict) and key in value) or (
            isinstance(value, list) and isinstance(key, int) and key < len(value)
        )
        last_missing = missing and position == len(location) - 1
        if not (holds or last_missing):
            continue
        model = model_for(annotation, value)
        if model is not None and key in model.model_fields:
            description = model.model_fields[key].description or ""
        annotation = annotation_below(annotation, value, key)
        path = _join(path, key)
        value = None if last_missing else value[key]
    chosen = by_type(annotation)
    if chosen is not None and not missing:
        return path, chosen.problem(path, value)
    expected = describe(annotation)
    if missing:
        return path, Problem(path, "nothing", f"{expected} ({description})" if description else expected)
    return path, Problem(path, show(value), expected, _better(value, annotation))


def _better(value: Any, annotation: Any) -> str:
    """Return a suggestion that the schema would accept in place of ``value``."""
    for candidate, words in _candidates(value, annotation):
        try:
            TypeAdapter(annotation).validate_python(candidate, strict=True)
        except ValidationError:
            continue
        return words
    return ""


def _candidates(value: Any, annotation: Any) -> Iterator[tuple[Any, str]]:
    yield [value], f"write [{value}]"
    if isinstance(value, list) and all(type(item) in (int, float) for item in value):
        yield sorted(value), f"write {sorted(value)}"
    if not isinstance(value, str):
        yield str(value), "put it in quotes"
        return
    match = re.fullmatch(r"\s*([-+]?[\d._]+(?:[eE][-+]?\d+)?)\s*([A-Za-z]*)\s*", value)
    if match:
        number = read_yaml(match[1], str).value
        thousands = {"k": 1000, "K": 1000, "m": 10**6, "M": 10**6}.get(match[2], 1)
        if isinstance(number, int | float):
            written = match[1] if thousands == 1 else show(number * thousands)
            without_quotes = not match[2]
            yield (
                number * thousands,
                (f"write {written} without quotes" if without_quotes else f"did you mean {written}?"),
            )
    lower = value.strip().lower()
    if lower in ("none", "null", "nothing"):
        yield None, "write ~ for none"
    if lower in ("yes", "on", "y", "true", "1"):
        yield True, "did you mean true?"
    if lower in ("no", "off", "n", "false", "0"):
        yield False, "did you mean false?"
    choice = closest(value, _choices(annotation))
    if choice:
        yield choice, f"did you mean {choice!r}?"
    yield {"type": value}, f"write 'type: {value}' below it"


def _choices(annotation: Any) -> list[str]:
    """Return the words that a Literal somewhere in ``annotation`` offers."""
    words: list[str] = []
    for argument in get_args(annotation):
        words.extend([argument] if isinstance(argument, str) else _choices(argument))
    return words
