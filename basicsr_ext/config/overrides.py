"""``--force_yml a:b:c=VALUE``: values are YAML, keys any that the schema knows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .errors import Problem
from .values import show
from .yaml_text import Document, read_yaml

OVERRIDE = "--force_yml "
"""Begins the place of what an override has set."""

_TRAIN = "datasets.train"
_BATCH = {"batch_size_per_gpu", "batch_size_total"}
_REPLACED = {
    "stages": {"gt_size", *_BATCH, "mini_batch_sizes", "iters", "gt_sizes"},
    "batch_size_total": {"batch_size_per_gpu"},
    "batch_size_per_gpu": {"batch_size_total"},
}
"""Keys of the training set that say the same thing in another way, and give way to an override."""


def apply_overrides(document: Document, overrides: Iterable[str]) -> None:
    """Set values in a document; what cannot be set becomes a problem of the document.

    Whether the schema knows the keys is checked afterwards, with the rest of the document. Mappings on
    the way that the file lacks are made; list items are named by their number.
    """
    overridden: set[str] = set()
    for text in overrides:
        words, equals, value_text = text.partition("=")
        keys = [key.strip() for key in words.split(":")]
        place = f"{OVERRIDE}{':'.join(keys)}"
        if not equals or not all(keys):
            problem = Problem("", repr(text), "'key:key=value'", "e.g. train:total_iter=100", place=place)
            document.problems.append(problem)
            continue
        read = read_yaml(value_text, lambda line, place=place: place, ".".join(keys))
        document.problems.extend(read.problems)
        document.unusable.update(read.unusable)
        if read.value is None and read.problems:
            document.unusable.add(".".join(keys))
        elif _set(document, keys, read, place) and read.value is not None:
            overridden.add(".".join(keys))
    document.problems[:] = dict.fromkeys(document.problems)  # of an override that is given twice
    _drop_replaced(document, overridden)


def _set(document: Document, keys: list[str], read: Document, place: str) -> bool:
    holder: Any = document.value
    for depth, key in enumerate(keys):
        path = ".".join(keys[: depth + 1])
        slot = _slot(holder, key)
        if slot is None:
            expected = (
                f"a number from 0 to {len(holder) - 1}"
                if isinstance(holder, list)
                else "a section to set it in"
            )
            above = ".".join(keys[:depth])
            found = f"{key!r} below {above}, which is {show(holder)}"
            document.problems.append(Problem(path, found, expected, place=place))
            return False
        if depth == len(keys) - 1:
            holder[slot] = read.value
            _forget(document, path)
            document.places.update({path: place, **read.places})
            return True
        if isinstance(holder, dict) and holder.get(slot) is None:
            holder[slot] = {}
            document.places[path] = place
        holder = holder[slot]
    return False


def _slot(holder: Any, key: str) -> Any:
    """Return what indexes ``holder`` at ``key``, or None where nothing can."""
    if isinstance(holder, dict):
        return key
    if isinstance(holder, list) and key.isdecimal() and int(key) < len(holder):
        return int(key)
    return None


def _forget(document: Document, path: str) -> None:
    """Drop what was known of the value that ``path`` had before."""
    below = f"{path}."
    for known in [known for known in document.places if known.startswith(below)]:
        del document.places[known]
    document.unusable = {
        known for known in document.unusable if known != path and not known.startswith(below)
    }


def _drop_replaced(document: Document, overridden: set[str]) -> None:
    train = document.value
    for key in _TRAIN.split("."):
        train = train.get(key) if isinstance(train, dict) else None
    if not isinstance(train, dict):
        return
    for key, replaced in _REPLACED.items():
        if f"{_TRAIN}.{key}" in overridden:
            for other in replaced:
                if f"{_TRAIN}.{other}" not in overridden:
                    train.pop(other, None)
