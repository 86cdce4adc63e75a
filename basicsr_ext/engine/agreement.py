"""Ranks compare what they are about to run: one on another machine may have read other files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import OptionError, Options, Problem
from ..data.images import ImageError
from ..data.pairs import ImagePairs
from ..data.samples import in_words, source_sizes
from ..data.sources import first_few
from .build import Parts
from .checkpoint import Checkpoint
from .distributed import World
from .experiment import flatten

_ON_ALL = "the same on all ranks"
_PLACES = ("dataroot_", "meta_info", "cache")
"""Begin the names of keys that may differ: each node may have its own copy of the images."""


@dataclass(frozen=True)
class Plan:
    """What one rank is about to run.

    Attributes:
        options: by dotted key.
        start: what the run begins with, in words.
        images: of every data set by its option key, in order: names and sizes, or their number alone where
            the set is not ours; none for a validation set that the rank has left out.
    """

    options: dict[str, str]
    start: str
    images: dict[str, list[str]]

    def digest(self) -> str:
        """Return a text that two plans share only if they are the same."""
        return hashlib.sha256(json.dumps([self.options, self.start, self.images]).encode()).hexdigest()


def require_agreement(options: Options, parts: Parts, checkpoint: Checkpoint | None, world: World) -> None:
    """Compare what the ranks are about to run; to be called by all of them.

    Raises:
        OptionError: on every rank, with all that differs.
    """
    if world.size == 1:
        return
    digest = _plan(options, parts, checkpoint, _fingerprint).digest()
    world.wait_for_all("looking at its images")
    if len(set(world.gather(digest))) == 1:
        return
    # Lists of images may be long: they are made, and travel, only where something differs. They may turn out
    # to be the same, as what a rank has on record of a file may be out of date.
    if problems := disagreements(world.gather(_plan(options, parts, checkpoint, _images))):
        raise OptionError(problems, options.source)


def disagreements(plans: Sequence[Plan]) -> list[Problem]:
    """Return what differs between the plans of the ranks, which are given in their order."""
    problems = []
    left_out = tuple(f"{key}." for plan in plans for key, images in plan.images.items() if not images)
    for key in dict.fromkeys(key for plan in plans for key in plan.options):
        if key.startswith(left_out):
            continue
        values = [plan.options.get(key, "nothing") for plan in plans]
        if len(set(values)) > 1:
            fix = "start all ranks with the same option file and --force_yml"
            problems.append(Problem(key, _by_rank(values), _ON_ALL, fix))
    starts = [plan.start for plan in plans]
    if len(set(starts)) > 1:
        fix = "the run's folder has to be one that all nodes share"
        problems.append(Problem("path.experiments_root", _by_rank(starts), _ON_ALL, fix))
    for key in plans[0].images:
        lists = [plan.images.get(key, []) for plan in plans]
        if any(images != lists[0] for images in lists):
            fix = "give all nodes the same files"
            problems.append(Problem(key, _by_rank(_differing(lists)), _ON_ALL, fix))
    return problems


def _plan(
    options: Options, parts: Parts, checkpoint: Checkpoint | None, describe: Callable[[Any], list[str]]
) -> Plan:
    dumped = flatten(json.loads(options.model_dump_json()))
    values = {key: str(value) for key, value in dumped if not key.rpartition(".")[2].startswith(_PLACES)}
    sets = {"datasets.train": parts.train_set}
    for key, option in options.datasets.evaluation("val").items():
        # Where a kind evaluates a set in several ways, each sees the same images.
        name = option.name or key
        sets[f"datasets.{key}"] = next(parts.eval_sets[n] for n in parts.eval_sets if n.startswith(name))
    start = "the beginning" if checkpoint is None else f"the checkpoint of iteration {checkpoint.iteration}"
    images = {key: describe(dataset) for key, dataset in sets.items()}
    return Plan(values, start, {**images, **{f"datasets.{key}": [] for key in options.absent("val")}})


def _fingerprint(dataset: Any) -> list[str]:
    """Return what differs where :func:`_images` does, without a text for each of a million images."""
    pairs = getattr(dataset, "pairs", None)
    if not isinstance(pairs, ImagePairs):
        return _images(dataset)
    digest = hashlib.sha256("\0".join(pairs.names).encode("utf-8", "surrogateescape"))
    for sizes in _recorded_sizes(pairs):
        digest.update(sizes.astype(np.int32).tobytes())
        for index in np.flatnonzero((sizes < 1).any(axis=1)).tolist():
            digest.update(_sizes(pairs, index).encode())
    return [digest.hexdigest()]


def _recorded_sizes(pairs: ImagePairs) -> list[np.ndarray]:
    return [*pairs.lq.recorded_sizes(), *([] if pairs.gt is None else [pairs.gt.recorded_sizes()])]


def _images(dataset: Any) -> list[str]:
    """Return names and sizes of a data set's images, or their number alone where it is not ours."""
    pairs = getattr(dataset, "pairs", None)
    if not isinstance(pairs, ImagePairs):
        return [in_words(source_sizes(dataset))]
    return [f"{name} {_sizes(pairs, index)}" for index, name in enumerate(pairs.names)]


def _sizes(pairs: ImagePairs, index: int) -> str:
    try:
        sizes = [size for _, *size in pairs.lq.sizes(index)]
        if pairs.gt is not None:
            sizes.append([*pairs.gt.size(index)])
    except ImageError:
        return "(unreadable)"
    return " and ".join("x".join(map(str, size)) for size in sizes)


def _differing(lists: Sequence[Sequence[str]]) -> list[str]:
    """Return in words what each list has that not all of them have."""
    common = set(lists[0]).intersection(*lists[1:])
    words = []
    for images in lists:
        own = [image for image in images if image not in common]
        words.append(f"{len(images)} images" + (f", among them {first_few(own)}" if own else ""))
    return words if len(set(words)) > 1 else [f"{text} in an order of its own" for text in words]


def _by_rank(values: Sequence[str]) -> str:
    """Return ``0.1 on rank 0; 0.2 on ranks 1, 3``."""
    ranks: Mapping[str, list[str]] = {value: [] for value in values}
    for rank, value in enumerate(values):
        ranks[value].append(str(rank))
    return "; ".join(
        f"{value} on rank{'s'[: len(where) > 1]} {', '.join(where)}" for value, where in ranks.items()
    )
