"""options/schema.json, by which editors check option files, says what the loader says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sections import PairedTrain

from basicsr_ext.config import schema as models
from basicsr_ext.config.yaml_text import read_yaml
from basicsr_ext.models.restoration_model import RestorationOptions, RestorationTrain, RestorationVal

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "options" / "schema.json").read_text(encoding="utf-8"))
PUBLISHED = sorted((ROOT / "tests" / "config" / "published").glob("*.yml"))
OPTIONS = sorted((ROOT / "options").glob("*.yml"))


def conforms(value: Any, schema: dict[str, Any] | bool) -> bool:
    """Say whether ``value`` meets the part of JSON Schema that the file uses."""
    if isinstance(schema, bool):
        return schema
    checks = [CHECKS[word](value, wanted, schema) for word, wanted in schema.items() if word in CHECKS]
    return all(checks)


def is_type(value: Any, name: str, _: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "null": value is None,
        "number": number,
        "integer": number and float(value).is_integer(),
    }[name]


def additional(value: Any, wanted: Any, schema: dict[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    known = schema.get("properties", {})
    patterns = schema.get("patternProperties", {})
    extra = [key for key in value if key not in known and not any(re.search(p, key) for p in patterns)]
    return all(conforms(value[key], wanted) for key in extra)


def number(compare: Any) -> Any:
    return lambda value, limit, _: not isinstance(value, int | float) or compare(value, limit)


CHECKS: dict[str, Any] = {
    "$ref": lambda v, ref, _: conforms(v, SCHEMA["$defs"][ref.removeprefix("#/$defs/")]),
    "type": is_type,
    "enum": lambda v, words, _: v in words,
    "const": lambda v, word, _: v == word,
    "anyOf": lambda v, options, _: any(conforms(v, option) for option in options),
    "allOf": lambda v, parts, _: all(conforms(v, part) for part in parts),
    "not": lambda v, part, _: not conforms(v, part),
    "if": lambda v, condition, schema: not conforms(v, condition) or conforms(v, schema["then"]),
    "required": lambda v, keys, _: not isinstance(v, dict) or all(key in v for key in keys),
    "properties": lambda v, parts, _: (
        not isinstance(v, dict) or all(conforms(v[key], parts[key]) for key in parts if key in v)
    ),
    "patternProperties": lambda v, parts, _: all(
        conforms(v[key], part) for pattern, part in parts.items() for key in v if re.search(pattern, key)
    ),
    "additionalProperties": additional,
    "items": lambda v, part, _: not isinstance(v, list) or all(conforms(item, part) for item in v),
    "minItems": lambda v, count, _: not isinstance(v, list) or len(v) >= count,
    "maxItems": lambda v, count, _: not isinstance(v, list) or len(v) <= count,
    "minLength": lambda v, count, _: not isinstance(v, str) or len(v) >= count,
    "maxLength": lambda v, count, _: not isinstance(v, str) or len(v) <= count,
    "pattern": lambda v, pattern, _: not isinstance(v, str) or bool(re.search(pattern, v)),
    "minimum": number(lambda v, limit: v >= limit),
    "maximum": number(lambda v, limit: v <= limit),
    "exclusiveMinimum": number(lambda v, limit: v > limit),
    "exclusiveMaximum": number(lambda v, limit: v < limit),
}
ANNOTATIONS = {"$defs", "$schema", "title", "description", "default", "then"}


def test_the_committed_schema_is_current():
    script = ROOT / "scripts" / "generate_schema.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("file", [*PUBLISHED, *OPTIONS], ids=lambda file: file.stem)
def test_option_files_conform(file):
    assert conforms(read_yaml(file.read_text(encoding="utf-8"), str).value, SCHEMA)


@pytest.mark.parametrize("file", OPTIONS, ids=lambda file: file.stem)
def test_our_option_files_name_the_schema_in_their_first_line(file):
    first = file.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=schema.json"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("total_iter", "totl_iter"),
        ("  val:\n", "  vall:\n"),
        ("gt_size: 128", "gt_size: 0"),
        ("gt_size: 128", "gt_size: '128'"),
        ("use_hflip: true", "use_hflip: yes"),
        ("dataroot_gt: datasets/DF2K", "dataroot: datasets/DF2K"),
        ("ema_decay: 0.999", "ema_decay: 1.0"),
        ("backend: nccl", "backend: nncl"),
        ("lr: !!float 2e-4", "lr: fast"),
        ("  type: MSRResNet", "  type: EDT"),
        ("scale: 4", "scale: 4.5"),
        ("name: ", "name: a/"),
    ],
)
def test_mistakes_do_not_conform(old, new):
    text = (ROOT / "tests" / "config" / "published" / "basicsr_train_msrresnet_x4.yml").read_text()
    assert old in text
    assert not conforms(read_yaml(text.replace(old, new, 1), str).value, SCHEMA)


SECTIONS = [RestorationOptions, RestorationTrain, RestorationVal, models.Logger, models.Paths, PairedTrain]


@pytest.mark.parametrize("section", [*SECTIONS, models.StageOptions], ids=lambda section: section.__name__)
def test_every_key_of_a_section_is_there(section):
    assert set(SCHEMA["$defs"][section.__name__]["properties"]) == set(section.model_fields)


@pytest.mark.parametrize(
    ("step", "right"),
    [
        ({"type": "jpeg", "quality": 10}, True),
        ({"type": "jpeg", "quality": [10, 40]}, True),
        ({"type": "jpeg", "quality": [10, 40, 70]}, False),
        ({"type": "jpeg", "quality": 101}, False),
        ({"type": "jpeg"}, False),
        ({"type": "jpg", "quality": 10}, False),
        ({"type": "rain", "sigma": 3}, False),
        ({"type": "real_esrgan", "sinc_prob": None}, True),
    ],
)
def test_degradation_steps_are_checked_by_their_type(step, right):
    assert conforms([step], SCHEMA["$defs"][PairedTrain.__name__]["properties"]["degradation"]) is right


def test_arguments_of_our_networks_are_there_with_their_meaning():
    [edt] = [
        branch["then"]
        for branch in SCHEMA["$defs"]["RestorationOptions"]["properties"]["network_g"]["allOf"]
        if "if" in branch and branch["if"]["properties"]["type"] == {"const": "EDT"}
    ]
    assert edt["properties"]["embed_dim"]["type"] == "integer"
    assert edt["properties"]["embed_dim"]["description"]
    assert edt["additionalProperties"] is False


def test_the_schema_uses_no_word_that_these_tests_do_not_know():
    def words(schema: Any) -> set[str]:
        if not isinstance(schema, dict):
            return set()
        found = set(schema)
        for name in ("properties", "patternProperties", "$defs"):
            for part in schema.get(name, {}).values():
                found |= words(part)
        for name in ("anyOf", "allOf"):
            for part in schema.get(name, []):
                found |= words(part)
        for name in ("items", "not", "if", "then", "additionalProperties"):
            found |= words(schema.get(name))
        return found

    assert words(SCHEMA) <= {*CHECKS, *ANNOTATIONS}
