"""Progressive learning (Restormer, arXiv:2111.09881): its three spellings, checked and made one."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from .errors import Problem
from .facts import Facts
from .sections import Section
from .values import PositiveInt, alternatives, show

_TRAIN = "datasets.train"
_RESTORMER = ("mini_batch_sizes", "iters", "gt_sizes")
_BATCH = ("batch_size_per_gpu", "batch_size_total")


class StageOptions(Section):
    """One stage of progressive learning (Restormer, arXiv:2111.09881)."""

    iters: PositiveInt = Field(description="Iterations this stage lasts.")
    gt_size: PositiveInt = Field(description="Side of the square ground-truth crop, in pixels.")
    batch_size_per_gpu: PositiveInt | None = Field(
        default=None, description="Samples per rank and micro-batch."
    )
    batch_size_total: PositiveInt | None = Field(
        default=None,
        description="Samples per iteration over all ranks and micro-batches; instead of batch_size_per_gpu.",
    )


def check_stages(facts: Facts) -> Iterator[Problem]:
    """Yield what is wrong with patch sizes, batch sizes and stage lengths of the training set."""
    if not facts.written(_TRAIN):
        return
    staged = facts.written(f"{_TRAIN}.stages")
    restormer = [key for key in _RESTORMER if facts.written(f"{_TRAIN}.{key}")]
    if staged:
        plain = [key for key in ("gt_size", *_BATCH) if facts.written(f"{_TRAIN}.{key}")]
        if restormer or plain:
            yield Problem(
                _TRAIN,
                f"stages beside {alternatives([*plain, *restormer])}",
                "stages alone: each has its own gt_size, iters and batch size",
                "delete the others",
            )
        else:
            yield from _check_ours(facts)
            yield from _check_accumulation(facts, len(list(facts.keys(f"{_TRAIN}.stages"))))
    elif restormer:
        yield from _check_restormer(facts, restormer)
        yield from _check_accumulation(facts, len(facts.get(f"{_TRAIN}.{restormer[0]}") or []))
    else:
        yield from _check_plain(facts)
        yield from _check_accumulation(facts, 1)


def _check_ours(facts: Facts) -> Iterator[Problem]:
    stages = list(facts.keys(f"{_TRAIN}.stages"))
    for stage in stages:
        yield from _check_batch(facts, stage)
        yield from _check_size(facts, f"{stage}.gt_size")
    yield from _check_sum(facts, f"{_TRAIN}.stages", [f"{stage}.iters" for stage in stages])


def _check_restormer(facts: Facts, written: list[str]) -> Iterator[Problem]:
    for key in _RESTORMER:
        if key not in written:
            expected = f"a list with one value a stage, as in {written[0]}"
            yield Problem(f"{_TRAIN}.{key}", "nothing", expected)
    if facts.written(f"{_TRAIN}.batch_size_total"):
        yield Problem(
            f"{_TRAIN}.batch_size_total",
            "it beside mini_batch_sizes",
            "mini_batch_sizes alone, which are per GPU",
            "delete it",
        )
    lists = {key: facts.get(f"{_TRAIN}.{key}") for key in written}
    lengths = {key: len(values) for key, values in lists.items() if values is not None}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} {key}" for key, length in lengths.items())
        yield Problem(f"{_TRAIN}.{written[0]}", found, "as many of each: one a stage")
    for index in range(lengths.get("gt_sizes", 0)):
        yield from _check_size(facts, f"{_TRAIN}.gt_sizes.{index}")
    yield from _check_largest(facts, "gt_sizes", "gt_size")
    yield from _check_largest(facts, "mini_batch_sizes", "batch_size_per_gpu")
    count = lengths.get("iters", 0)
    if len(set(lengths.values())) == 1:
        yield from _check_sum(facts, f"{_TRAIN}.iters", [f"{_TRAIN}.iters.{i}" for i in range(count)])


def _check_plain(facts: Facts) -> Iterator[Problem]:
    if not facts.written(f"{_TRAIN}.gt_size"):
        yield Problem(
            f"{_TRAIN}.gt_size",
            "nothing",
            "a positive whole number (side of the ground-truth crop), or stages",
        )
    yield from _check_size(facts, f"{_TRAIN}.gt_size")
    yield from _check_batch(facts, _TRAIN)


def _check_batch(facts: Facts, key: str) -> Iterator[Problem]:
    given = [name for name in _BATCH if facts.written(f"{key}.{name}")]
    if len(given) != 1:
        found = " and ".join(given) if given else "no batch size"
        fix = "delete one of them" if given else "add batch_size_per_gpu"
        yield Problem(key, found, f"exactly one of {' and '.join(_BATCH)}", fix)


def _check_accumulation(facts: Facts, stages: int) -> Iterator[Problem]:
    numbers = facts.get("train.grad_accum")
    if isinstance(numbers, list) and len(numbers) != stages:
        expected = f"one number for all stages, or one for each of {stages}"
        yield Problem("train.grad_accum", show(numbers), expected)


def _check_size(facts: Facts, key: str) -> Iterator[Problem]:
    size = facts.get(key)
    scale = facts.get(f"{_TRAIN}.scale", facts.get("scale", 1))
    if size is None or scale is None or size % scale == 0:
        return
    below = size // scale * scale
    nearby = [str(candidate) for candidate in (below, below + scale) if candidate > 0]
    yield Problem(
        key,
        f"{size}, which is not divisible by scale {scale}",
        f"a multiple of {scale}",
        f"use {alternatives(nearby)}",
    )


def _check_largest(facts: Facts, values_key: str, largest_key: str) -> Iterator[Problem]:
    largest = facts.get(f"{_TRAIN}.{largest_key}")
    for index, value in enumerate(facts.get(f"{_TRAIN}.{values_key}") or []):
        if largest is not None and value > largest:
            yield Problem(
                f"{_TRAIN}.{values_key}.{index}",
                show(value),
                f"at most {largest_key}, the largest of all stages, which is {show(largest)}",
                f"raise {largest_key} or lower this",
            )


def _check_sum(facts: Facts, key: str, lengths: list[str]) -> Iterator[Problem]:
    total = facts.get("train.total_iter")
    iterations = [facts.get(length) for length in lengths]
    if total is None or not iterations or None in iterations or sum(iterations) == total:
        return
    yield Problem(
        key,
        f"stages of {sum(iterations)} iterations in all ({' + '.join(map(str, iterations))})",
        f"the {total} of train.total_iter",
        f"set train.total_iter to {sum(iterations)} or change the stages",
    )
