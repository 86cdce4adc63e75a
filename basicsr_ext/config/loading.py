"""An option file, its overrides, all checks: options, or every problem at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..plugins import PluginError, import_plugins
from ..registry import DATASETS, MODELS
from ..spelling import closest, nearest
from .absent import absent_sets
from .errors import OptionError, Problem, SourceMap
from .facts import Facts
from .overrides import apply_overrides
from .protocols import apply_protocol
from .schema import Options, Written
from .structure import check_relations, repair, unknown_types, validate
from .unsupported import unsupported
from .values import show
from .yaml_text import MAX_DEPTH, Document, read_yaml

MAX_BYTES = 256 * 1024
"""Option files are smaller; what is larger is something else."""

PHASES = ("train", "val", "test")


def load_options(
    source: str | os.PathLike[str] | Mapping[str, Any],
    overrides: str | Iterable[str] | None = (),
    *,
    phases: Collection[str] = PHASES,
) -> Options:
    """Read, override and check an option file.

    Args:
        source: the file, or its content as a mapping (which is left unchanged).
        overrides: ``a:b:c=VALUE``, where VALUE is YAML, as ``--force_yml`` takes them; one or several.
        phases: data sets whose folders have to exist: any of ``train``, ``val``, ``test``. A validation or
            test set of which nothing is there is left out, unless an override names its folder.

    Returns:
        Options that know where each key was written (``options.source``), and what was left out
        (``options.absent``).

    Raises:
        OptionError: with one line for each thing wrong with the file.
    """
    if isinstance(source, Mapping):
        file = "options"
        document = _from_mapping(source)
    else:
        file = os.path.expanduser(source)
        document = _from_file(file)
    apply_overrides(document, [overrides] if isinstance(overrides, str) else overrides or ())
    checked = _check(document, phases)
    source_map = SourceMap(file, checked.places)
    if checked.options is None:
        raise OptionError(_in_file_order(checked.problems, source_map), source_map)
    checked.options._written = Written(source_map, document.value, checked.absent)
    return checked.options


@dataclass(frozen=True)
class _Checked:
    """Options, or None with every problem; places of keys as the problems name them; sets left out."""

    options: Options | None
    problems: list[Problem]
    places: dict[str, str]
    absent: dict[str, Problem] = field(default_factory=dict)


def _check(document: Document, phases: Collection[str]) -> _Checked:
    mapping = document.value
    # What a plug-in brings may decide which keys there are; else it is imported once all else is right.
    if _model_kind(mapping) is None or unknown_types(mapping, _options_of(mapping)):
        _import_plugins(document)
    document.problems += apply_protocol(mapping)
    if problem := unsupported(mapping, MODELS.names(), DATASETS.names()):
        return _Checked(None, [*document.problems, problem], document.places)
    root = _options_of(mapping)
    if _model_kind(mapping) is None:
        name = mapping["model_type"]
        known = MODELS.names()
        fix = nearest(name, known) or f"known: {', '.join(known)}"
        document.problems.append(Problem("model_type", repr(name), "a registered model", fix))
        return _Checked(None, document.problems, document.places)
    repaired = repair(mapping, root, document.places)
    options, mistyped, doubtful = validate(repaired.mapping, root)
    # One mistake, one line: an unreadable value is not also a wrong one, a misspelt key not also mistyped.
    known = document.unusable | repaired.renamed
    mistyped = [problem for problem in mistyped if problem.key not in known]
    problems = [*document.problems, *repaired.problems, *mistyped]
    facts = Facts(repaired.mapping, document.unusable | doubtful)
    absent = absent_sets(repaired.mapping, facts, repaired.places, phases)
    problems += check_relations(repaired.mapping, root, facts, phases, absent)
    if not problems:
        _import_plugins(document)
        problems = document.problems
    if absent and not problems:
        options, _, _ = validate(_without_sets(repaired.mapping, absent), root)
    return _Checked(None if problems else options, list(dict.fromkeys(problems)), repaired.places, absent)


def _without_sets(mapping: dict[str, Any], absent: Collection[str]) -> dict[str, Any]:
    kept = {name: option for name, option in mapping["datasets"].items() if name not in absent}
    return {**mapping, "datasets": kept}


def _model_kind(mapping: dict[str, Any]) -> str | None:
    """Return the registered kind that the file names, the default where it names none; None: unknown."""
    name = mapping.get("model_type")
    if not isinstance(name, str):
        return Options.model_fields["model_type"].default
    return name if name in MODELS.names() else None


def _options_of(mapping: dict[str, Any]) -> type[Options]:
    kind = _model_kind(mapping)
    return Options if kind is None else MODELS.find(kind).Options  # pyright: ignore[reportFunctionMemberAccess]


def _import_plugins(document: Document) -> None:
    names = document.value.get("plugins")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return
    try:
        import_plugins(names)
    except PluginError as error:
        problem = Problem(f"plugins.{error.position}", str(error), "an importable module")
        if problem not in document.problems:
            document.problems.append(problem)


def _in_file_order(problems: list[Problem], source: SourceMap) -> list[Problem]:
    def line(problem: Problem) -> float:
        number = (problem.place or source.locate(problem.key)).rpartition(":")[2]
        return int(number) if number.isdecimal() else float("inf")

    return sorted(problems, key=line)


# --- reading ----------------------------------------------------------------------------------------


def _from_file(file: str) -> Document:
    text = _read_text(file)
    document = read_yaml(text, lambda line: f"{file}:{line}")
    if not isinstance(document.value, dict):
        if not document.problems:
            expected = "a mapping with name, datasets, network_g, …"
            found = "an empty file" if document.value is None else f"{show(document.value)} at the top level"
            document.problems.append(Problem("", found, expected, "see the examples in options/", place=file))
        raise OptionError(document.problems)
    return document


def _read_text(file: str) -> str:
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _unreadable(file, "no such file", _similar_file(file)) from None
    except IsADirectoryError:
        raise _unreadable(file, "a folder", _similar_file(os.path.join(file, "x.yml"))) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _unreadable(file, f"a file that cannot be read ({reason})") from None
    if len(data) > MAX_BYTES:
        raise _unreadable(file, f"a file of more than {MAX_BYTES // 1024} kB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"the byte 0x{data[error.start]:02x}, which is not UTF-8"
        raise _unreadable(f"{file}:{line}", found, "save the file as UTF-8") from None


def _unreadable(place: str, found: str, fix: str = "") -> OptionError:
    return OptionError([Problem("", found, "an option file (YAML text)", fix, place=place)])


def _similar_file(file: str) -> str:
    folder, name = os.path.split(file)
    try:
        names = [entry for entry in os.listdir(folder or ".") if entry.endswith((".yml", ".yaml"))]
    except (OSError, ValueError):
        return f"there is no folder {folder!r} either"
    match = closest(name, names)
    if match:
        return f"did you mean {os.path.join(folder, match)!r}?"
    return f"there: {', '.join(sorted(names)[:8])}" if names else ""


def _from_mapping(mapping: Mapping[str, Any]) -> Document:
    document = Document()
    document.value = _plain(mapping, "", document)
    return document


def _plain(value: Any, key: str, document: Document) -> Any:
    """Return a copy made of dicts, lists, text, numbers, booleans and None."""
    if key.count(".") > MAX_DEPTH:
        raise OptionError([Problem(key, f"nesting deeper than {MAX_DEPTH} levels", "a few levels")])
    if isinstance(value, Mapping):
        return {
            str(name): _plain(item, f"{key}.{name}" if key else str(name), document)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, f"{key}.{index}", document) for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    document.unusable.add(key)
    document.problems.append(Problem(key, show(value), "plain data (text, numbers, lists, mappings)"))
    return None
