"""Write options/schema.json, by which editors complete and check option files.

Usage: python scripts/generate_schema.py [--check]
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from basicsr_ext.config.degradations import STEPS
from basicsr_ext.config.schema import BUILTIN_DATASETS, EvalDataset, Options, TrainDataset
from basicsr_ext.config.signature import argument_types
from basicsr_ext.config.structure import model_for

ROOT = Path(__file__).resolve().parents[1]
SCHEMA_FILE = ROOT / "options" / "schema.json"
Schema = dict[str, Any]


def build_schema(networks: Mapping[str, Callable[..., Any]]) -> Schema:
    """Return the JSON Schema (draft 7) of option files, with the arguments of our ``networks``."""
    schema = Options.model_json_schema()
    definitions = schema["$defs"]
    for definition in (schema, *definitions.values()):
        _tidy(definition)
    definitions["Datasets"] = {
        "type": "object",
        "description": "'train' and any number of val, val_N, test, test_N sets.",
        "properties": {"train": _dataset(TrainDataset)},
        "patternProperties": {"^(val|test)(_.*)?$": _dataset(EvalDataset)},
        "additionalProperties": False,
    }
    definitions["DegradationStep"] = _steps()
    for definition in definitions.values():
        if "degradation" in definition.get("properties", {}):
            definition["properties"]["degradation"]["anyOf"][0]["items"] = {"$ref": "#/$defs/DegradationStep"}
    schema["properties"]["network_g"] = _by_type("Network and its constructor arguments.", networks)
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema, "title": "Option file"}


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


def _dataset(union: Any) -> Schema:
    """Return the schema of a data set, whose type decides which keys it has."""
    names_of: dict[str, list[str]] = {}
    for name in BUILTIN_DATASETS:
        model = model_for(union, {"type": name})
        if model is not None:
            names_of.setdefault(model.__name__, []).append(name)
    builtin = [name for names in names_of.values() for name in names]
    foreign = model_for(union, {"type": "a plug-in's"})
    assert foreign is not None
    branches = [
        {"if": _type_is({"enum": names}), "then": {"$ref": f"#/$defs/{model}"}}
        for model, names in names_of.items()
    ]
    other = {"if": {"not": _type_is({"enum": builtin})}, "then": {"$ref": f"#/$defs/{foreign.__name__}"}}
    return {**_typed("A data set.", builtin), "allOf": [*branches, other]}


def _steps() -> Schema:
    """Return the schema of a degradation step, whose type decides which keys it has."""
    branches = [
        {"if": _type_is({"const": name}), "then": {"$ref": f"#/$defs/{model.__name__}"}}
        for name, model in STEPS.items()
    ]
    names = {"properties": {"type": {"enum": list(STEPS)}}}
    return {**_typed("A step that makes LQ of GT.", []), **names, "allOf": branches}


def _by_type(description: str, constructors: Mapping[str, Callable[..., Any]]) -> Schema:
    """Return the schema of a type and its arguments: known for ours, free for others."""
    branches = [
        {"if": _type_is({"const": name}), "then": _arguments(constructor)}
        for name, constructor in sorted(constructors.items())
    ]
    return _typed(description, sorted(constructors)) | ({"allOf": branches} if branches else {})


def _typed(description: str, names: list[str]) -> Schema:
    of_ours = [{"enum": names}] if names else []
    return {
        "type": "object",
        "description": description,
        "required": ["type"],
        "properties": {"type": {"anyOf": [*of_ours, {"type": "string"}]}},
    }


def _type_is(condition: Schema) -> Schema:
    return {"properties": {"type": condition}, "required": ["type"]}


def _arguments(constructor: Callable[..., Any]) -> Schema:
    parameters = inspect.signature(constructor).parameters
    types = argument_types(constructor)
    words = _documented(constructor)
    properties: Schema = {"type": {}}
    required = ["type"]
    free = False
    for name, parameter in parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            free = free or parameter.kind is parameter.VAR_KEYWORD
            continue
        value = types[name][1].json_schema() if name in types else {}
        if parameter.default is parameter.empty:
            required.append(name)
        elif isinstance(parameter.default, bool | int | float | str | tuple | list):
            value["default"] = parameter.default
        if name in words:
            value["description"] = words[name]
        properties[name] = value
    return {"properties": properties, "required": required, "additionalProperties": free}


def _documented(constructor: Callable[..., Any]) -> dict[str, str]:
    """Return what the docstring's ``Args:`` section says of each argument."""
    section = (inspect.getdoc(constructor) or "").partition("Args:\n")[2].partition("\n\n")[0]
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(words.split()) for name, words in entries}


def main(arguments: list[str] | None = None) -> int:
    """Write the schema, or with ``--check`` say whether the written one is current (exit code 1: stale)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if it is stale")
    check = parser.parse_args(arguments).check

    from basicsr_ext.archs import NETWORKS

    text = json.dumps(build_schema(NETWORKS.own()), indent=1, ensure_ascii=False) + "\n"
    if not check:
        SCHEMA_FILE.write_text(text, encoding="utf-8")
        return 0
    if SCHEMA_FILE.is_file() and SCHEMA_FILE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{SCHEMA_FILE} is stale; run python scripts/generate_schema.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
