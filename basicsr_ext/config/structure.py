"""Does the file have the schema's keys and types? Every difference as one :class:`Problem`."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator, Tag, TypeAdapter, ValidationError

from .degradations import STEPS, DegradationStep
from .errors import Problem, closest, nearest
from .schema import Datasets, Dist, EvalDataset, Logger, Options, Paths, Train, TrainKeys, Val
from .values import describe, show
from .yaml_text import read_yaml

_SECTIONS: dict[str, type[BaseModel]] = {
    "the top level": Options,
    "path": Paths,
    "train": Train,
    "val": Val,
    "logger": Logger,
    "dist_params": Dist,
    "datasets.train": TrainKeys,
}
_EVALUATION = re.compile(r"(val|test)(_.*)?\Z")


# --- walking the schema beside a raw value ----------------------------------------------------------


def model_for(annotation: Any, value: Any) -> type[BaseModel] | None:
    """Return the model that ``value`` is checked against, or None where it is no mapping of the schema."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        for item in metadata:
            if isinstance(item, Discriminator) and callable(item.discriminator):
                return _tagged(inner, item.discriminator(value))
        return model_for(inner, value)
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return model_for(members[0], value) if len(members) == 1 else None
    # Python 3.10 takes list[int] for a class.
    plain = isinstance(annotation, type) and get_origin(annotation) is None
    return annotation if plain and issubclass(annotation, BaseModel) else None


def _tagged(union: Any, tag: Hashable) -> type[BaseModel] | None:
    for member in get_args(union):
        model, *metadata = get_args(member)
        if any(isinstance(item, Tag) and item.tag == tag for item in metadata):
            return model
    return None


def annotation_below(annotation: Any, value: Any, key: Any) -> Any:
    """Return the schema's annotation for ``value[key]``; Any where a constructor decides."""
    model = model_for(annotation, value)
    if model is not None:
        if key in model.model_fields:
            return model.model_fields[key].rebuild_annotation()
        return EvalDataset if model is Datasets else Any
    annotation = _without_none(annotation)
    return get_args(annotation)[-1] if get_origin(annotation) in (list, dict) else Any


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        return _without_none(members[0]) if len(members) == 1 else annotation
    return annotation


def _below(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


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


def repair(mapping: dict[str, Any], places: dict[str, str]) -> Repaired:
    """Report every key that the schema does not know; rename it to the nearest key, or leave it out."""
    repaired = Repaired(places=dict(places))
    repaired.mapping = _repair(mapping, Options, "", repaired)
    return repaired


def _repair(value: Any, annotation: Any, path: str, repaired: Repaired) -> Any:
    model = model_for(annotation, value)
    if isinstance(value, dict) and model is not None:
        value = _repair_keys(value, model, path, repaired)
    children = {
        key: _repair(child, annotation_below(annotation, value, key), _join(path, key), repaired)
        for key, child in _below(value)
    }
    if isinstance(value, dict):
        return children
    return list(children.values()) if isinstance(value, list) else value


def _repair_keys(
    value: dict[str, Any], model: type[BaseModel], path: str, repaired: Repaired
) -> dict[str, Any]:
    fixed: dict[str, Any] = {}
    suggestions = {key: _suggest(key, value, model) for key in value if not _knows(model, key, value)}
    for key, child in value.items():
        if key not in suggestions:
            fixed[key] = child
            continue
        repaired.problems.append(_unknown(key, suggestions[key], value, model, path))
        target = suggestions[key]
        if target and target not in value and target not in fixed:
            fixed[target] = child
            repaired.renamed.add(_join(path, target))
            _move(repaired.places, _join(path, key), _join(path, target))
    return fixed


def _knows(model: type[BaseModel], key: str, value: dict[str, Any]) -> bool:
    if key in model.model_fields:
        return True
    if model is Datasets:
        return bool(_EVALUATION.match(key))
    if model.model_config.get("extra") != "allow":
        return False
    # Constructors decide about other keys, unless this one is plainly a mandatory key misspelt.
    return not any(closest(key, [name]) for name in _required(model) if name not in value)


def _required(model: type[BaseModel]) -> list[str]:
    return [name for name, field in model.model_fields.items() if field.is_required()]


def _suggest(key: str, value: dict[str, Any], model: type[BaseModel]) -> str | None:
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
    key: str, suggestion: str | None, value: dict[str, Any], model: type[BaseModel], path: str
) -> Problem:
    owner = path or "the option file"
    if path.startswith("datasets.") and "type" in value and path.count(".") == 1:
        owner = f"a {value['type']} {'training' if path == 'datasets.train' else 'evaluation'} set"
    known = ["train", "val", "val_1", "test", "test_1"] if model is Datasets else list(model.model_fields)
    homes = [name for name, section in _SECTIONS.items() if key in section.model_fields]
    if model in STEPS.values():
        owner, homes = f"a {value['type']} step", []
    if len(homes) == 1:
        fix = f"{key!r} belongs to {homes[0]}"
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


def validate(mapping: dict[str, Any]) -> tuple[Options | None, list[Problem]]:
    """Return the typed options, or None and one problem for each key that is missing or of a wrong type."""
    try:
        return Options.model_validate(mapping), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
    problems: dict[str, Problem] = {}
    for detail in details:
        problem = _translate(detail["loc"], detail["type"], mapping)
        problems.setdefault(problem.key, problem)
    return None, list(problems.values())


def _translate(location: tuple[Any, ...], kind: str, mapping: dict[str, Any]) -> Problem:
    missing = kind == "missing"
    path, description = "", ""
    value: Any = mapping
    annotation: Any = Options
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
    expected = describe(annotation)
    if missing:
        return Problem(path, "nothing", f"{expected} ({description})" if description else expected)
    if annotation == DegradationStep:
        return _unknown_step(path, value)
    if kind == "union_tag_invalid":
        return Problem(
            f"{path}.type", show(dict(value).get("type")), "a data set to train with, which this is not"
        )
    return Problem(path, show(value), expected, _better(value, annotation))


def _unknown_step(path: str, value: Any) -> Problem:
    known = f"known: {', '.join(STEPS)}"
    if not isinstance(value, dict):
        named = isinstance(value, str) and closest(value, STEPS)
        return Problem(
            path, show(value), "a mapping with type", f"write {{type: {named}}}" if named else known
        )
    if "type" not in value:
        misspelt = closest("type", value)
        return Problem(
            f"{path}.type",
            "nothing",
            "a step's name",
            f"write 'type' for {misspelt!r}" if misspelt else known,
        )
    name = value["type"]
    return Problem(f"{path}.type", show(name), "a step's name", nearest(str(name), STEPS) or known)


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
