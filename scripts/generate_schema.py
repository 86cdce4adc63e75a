"""Write options/schema.json, by which editors complete and check option files.

Usage: python scripts/generate_schema.py [--check] [--plugins MODULE … --out FILE]
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from basicsr_ext import registry
from basicsr_ext.config.datasets import EVALUATION_SET, TRAINING_SET, Datasets
from basicsr_ext.config.schema import Options
from basicsr_ext.config.sections import ByType, ConstructedBy, OptionMapping
from basicsr_ext.config.signature import argument_parts, argument_types
from basicsr_ext.files import user_path
from basicsr_ext.plugins import PluginError, import_plugins

ROOT = Path(__file__).resolve().parents[1]
SCHEMA_FILE = ROOT / "options" / "schema.json"
Schema = dict[str, Any]


def build_schema() -> Schema:
    """Return the JSON Schema (draft 7) of option files: of every kind of training, data set, network, …."""
    builder = _Builder()
    default = registry.MODELS.find(Options.model_fields["model_type"].default)
    names: dict[type[Options], list[str]] = {}
    for name, kind in registry.MODELS.own().items():
        names.setdefault(kind.Options, []).append(name)  # pyright: ignore[reportFunctionMemberAccess]
    usual = names.pop(default.Options)  # pyright: ignore[reportFunctionMemberAccess]
    others = [name for group in names.values() for name in group]
    branches = [
        {"if": _has("model_type", {"enum": group}), "then": builder.define(options)}
        for options, group in names.items()
    ]
    rest = builder.define(default.Options)  # pyright: ignore[reportFunctionMemberAccess]
    branches.append({"if": {"not": _has("model_type", {"enum": others})}, "then": rest})
    known = {"model_type": {"anyOf": [{"enum": [*usual, *others]}, {"type": "string"}]}}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Option file",
        "type": "object",
        "properties": known,
        "allOf": branches,
        "$defs": builder.definitions,
    }


class _Builder:
    """Collects the definitions of sections, each one once."""

    def __init__(self) -> None:
        self.definitions: Schema = {}

    def define(self, section: type[OptionMapping]) -> Schema:
        """Return a reference to a section's schema."""
        name = section.__name__
        if name not in self.definitions:
            self.definitions[name] = {}
            schema = section.model_json_schema()
            inner = schema.pop("$defs", {})
            for other, definition in {name: schema, **inner}.items():
                if other == Datasets.__name__:
                    definition = self._datasets()
                if not self.definitions.get(other):
                    self.definitions[other] = definition
                    _tidy(definition)
                    self.definitions[other] = self._resolved(definition)
        return {"$ref": f"#/$defs/{name}"}

    def _datasets(self) -> Schema:
        return {
            "type": "object",
            "description": "'train' and any number of val, val_N, test, test_N sets.",
            "properties": {"train": self._by_type(TRAINING_SET)},
            "patternProperties": {
                "^(val|test)(_.*)?$": {"anyOf": [self._by_type(EVALUATION_SET), {"type": "null"}]}
            },
            "additionalProperties": False,
        }

    def _resolved(self, value: Any) -> Any:
        """Fill in what depends on what is registered."""
        if isinstance(value, list):
            return [self._resolved(item) for item in value]
        if not isinstance(value, dict):
            return value
        value = {key: self._resolved(item) for key, item in value.items()}
        if "by_type" in value:
            symbol, _ = value.pop("by_type")
            value = {**self._by_type(ByType(getattr(registry, symbol), "")), **value}
        if "constructed_by" in value:
            decides = value.pop("constructed_by")
            constructors = getattr(registry, decides["symbol"]).own()
            known = _by_constructor(constructors, decides["supplied"], decides["kept"])
            value = {**known, **value, "allOf": [*known.get("allOf", []), *value.get("allOf", [])]}
        return value

    def _by_type(self, chosen: ByType) -> Schema:
        """Return the schema of a mapping whose type decides which keys it has."""
        names: dict[type[OptionMapping], list[str]] = {}
        for name, section in chosen.sections().items():
            names.setdefault(section, []).append(name)
        known = [name for group in names.values() for name in group]
        branches = [
            {"if": _has("type", {"enum": group}), "then": self.define(section)}
            for section, group in names.items()
        ]
        other = chosen.section({"type": "*"})
        if other is not None:
            branches.append({"if": {"not": _has("type", {"enum": known})}, "then": self.define(other)})
            known_type: Schema = {"anyOf": [{"enum": known}, {"type": "string"}]}
        else:
            known_type = {"enum": known}
        return {"type": "object", "required": ["type"], "properties": {"type": known_type}, "allOf": branches}


def _tidy(definition: Schema) -> None:
    """Drop generated titles; let '~' stand for the default of every optional key, as loading does."""
    definition.pop("title", None)
    required = definition.get("required", [])
    for name, value in definition.get("properties", {}).items():
        value.pop("title", None)
        if value.get("default", ...) is None:
            del value["default"]
        branches = value.get("anyOf", [])
        if name in required or {"type": "null"} in branches:
            continue
        kept = {key: value.pop(key) for key in ("description", "default") if key in value}
        branches = branches or [dict(value)]
        value.clear()
        value.update({"anyOf": [*branches, {"type": "null"}], **kept})


def _by_constructor(
    constructors: Mapping[str, Callable[..., Any]], supplied: Collection[str], kept: Collection[str]
) -> Schema:
    """Return the schema of a type and its arguments: known for ours, free for others."""
    branches = [
        {"if": _has("type", {"const": name}), "then": _arguments(constructor, supplied, kept)}
        for name, constructor in sorted(constructors.items())
    ]
    of_ours = [{"enum": sorted(constructors)}] if constructors else []
    return {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"anyOf": [*of_ours, {"type": "string"}]}},
        **({"allOf": branches} if branches else {}),
    }


def _has(key: str, condition: Schema) -> Schema:
    return {"properties": {key: condition}, "required": [key]}


def _arguments(constructor: Callable[..., Any], supplied: Collection[str], kept: Collection[str]) -> Schema:
    parameters = inspect.signature(constructor).parameters
    types, parts = argument_types(constructor), argument_parts(constructor)
    words = _documented(constructor)
    properties: Schema = {"type": {}, **{name: {} for name in kept}}
    required = ["type"]
    free = False
    for name, parameter in parameters.items():
        if name in supplied:
            continue
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            free = free or parameter.kind is parameter.VAR_KEYWORD
            continue
        value = types[name][1].json_schema() if name in types else {}
        if name in parts:
            value = _part(parts[name])
        if parameter.default is parameter.empty:
            required.append(name)
        elif isinstance(parameter.default, bool | int | float | str | tuple | list):
            value["default"] = parameter.default
        if name in words:
            value["description"] = words[name]
        properties[name] = value
    return {"properties": properties, "required": required, "additionalProperties": free}


def _part(part: ConstructedBy) -> Schema:
    """Return the schema of a part: its name, or a mapping of type and arguments."""
    names = {"anyOf": [{"enum": sorted(part.registry.names())}, {"type": "string"}]}
    return {"anyOf": [names, _by_constructor(part.registry.own(), part.supplied, part.kept)]}


def _documented(constructor: Callable[..., Any]) -> dict[str, str]:
    """Return what the docstring's ``Args:`` section says of each argument."""
    section = (inspect.getdoc(constructor) or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def main(arguments: list[str] | None = None) -> int:
    """Write the schema, or with ``--check`` say whether the written one is current (exit code 1: stale)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if it is stale")
    parser.add_argument("--plugins", nargs="+", default=[], metavar="MODULE", help="with what these bring")
    parser.add_argument(
        "--out", type=user_path, default=SCHEMA_FILE, metavar="FILE", help=f"default: {SCHEMA_FILE}"
    )
    parsed = parser.parse_args(arguments)
    try:
        import_plugins(parsed.plugins)
    except PluginError as error:
        parser.error(f"--plugins {parsed.plugins[error.position]}: {error}")
    text = json.dumps(build_schema(), indent=1, ensure_ascii=False) + "\n"
    if not parsed.check:
        parsed.out.write_text(text, encoding="utf-8")
        return 0
    if parsed.out.is_file() and parsed.out.read_text(encoding="utf-8") == text:
        return 0
    print(f"{parsed.out} is stale; run python scripts/generate_schema.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
