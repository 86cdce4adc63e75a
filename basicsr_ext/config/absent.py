"""Evaluation sets that are not on this machine: runs and tests go on without them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from .datasets import EvaluationSet
from .errors import Problem
from .facts import Facts
from .overrides import OVERRIDE
from .paths import ImageFolder
from .sections import metadata_of
from .structure import model_for


def absent_sets(
    mapping: Mapping[str, Any], facts: Facts, places: Mapping[str, str], phases: Collection[str]
) -> dict[str, Problem]:
    """Return the evaluation sets that can be done without, by their key below ``datasets``: what each lacks.

    Those of which no folder exists. A set that is there in part is taken for a mistake, and so is one that an
    override names.

    Args:
        mapping: the option file.
        facts: of the same file.
        places: where each dotted key was written.
        phases: sets that are looked at: any of ``val``, ``test``.
    """
    absent = {}
    for key in facts.keys("datasets"):
        name = key.removeprefix("datasets.")
        if name.split("_")[0] not in {"val", "test"}.intersection(phases):
            continue
        roots = list(_image_roots(mapping["datasets"][name], key))
        asked_for = any(places.get(place, "").startswith(OVERRIDE) for place in (key, *(k for k, _ in roots)))
        if roots and not asked_for and not any(os.path.exists(os.path.expanduser(r)) for _, r in roots):
            root_key, root = roots[0]
            absent.update((name, problem) for problem in ImageFolder().check(facts, root_key, root))
    return absent


def _image_roots(option: Mapping[str, Any], key: str) -> Iterator[tuple[str, str]]:
    """Yield dotted key and path of each folder of images that a data set names."""
    section = model_for(EvaluationSet, option)
    for name, field in {} if section is None else section.model_fields.items():
        is_root = any(isinstance(item, ImageFolder) for item in metadata_of(field.rebuild_annotation()))
        if is_root and isinstance(option.get(name), str):
            yield f"{key}.{name}", option[name]
