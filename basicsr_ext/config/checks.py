"""Checks that compare several keys, or know more of one than its type. No network code is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .degradation_checks import check_degradations
from .errors import Problem, nearest
from .facts import Facts
from .stages import check_stages
from .values import show

_SCHEDULERS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # name: required arguments, optional ones
    "MultiStepLR": (("milestones",), ("gamma", "restarts", "restart_weights")),
    "MultiStepRestartLR": (("milestones",), ("gamma", "restarts", "restart_weights")),
    "CosineAnnealingRestartLR": (("periods",), ("restart_weights", "eta_min")),
    "CosineAnnealingRestartCyclicLR": (("periods",), ("restart_weights", "eta_mins")),
}
_NUMBERS = ("gamma", "eta_min")
_SCHEDULE = "train.scheduler"


def check_relations(facts: Facts) -> Iterator[Problem]:
    """Yield every problem that a single key's type does not show."""
    yield from check_stages(facts)
    yield from _check_sections(facts)
    yield from _check_pairs(facts)
    yield from check_degradations(facts)
    yield from _check_validation(facts)
    yield from _check_scheduler(facts)
    yield from _check_warm_up(facts)
    yield from _check_network_scale(facts)


def _check_sections(facts: Facts) -> Iterator[Problem]:
    train, data = facts.written("train"), facts.written("datasets.train")
    if train and not data:
        yield Problem("datasets.train", "nothing", "a training set, as there is a train section")
    if data and not train:
        yield Problem("train", "nothing", "a train section (total_iter, optim_g, …) for datasets.train")
    if facts.sound("datasets") and not (data or list(facts.keys("datasets"))):
        yield Problem("datasets", "no data set", "train, val, val_1, test or test_1 below it")


def _check_pairs(facts: Facts) -> Iterator[Problem]:
    for data in facts.keys("datasets"):
        paired = facts.get(f"{data}.type") in ("PairedImageDataset", "Dataset_PairedImage")
        scale = facts.get(f"{data}.scale", facts.get("scale", 1))
        made = facts.written(f"{data}.dataroot_lq") or facts.written(f"{data}.degradation")
        if paired and scale == 1 and not made:
            yield Problem(
                f"{data}.dataroot_lq",
                "nothing",
                "a folder of low-quality images, which can be left out only where scale is above 1",
                "or name the steps under degradation",
            )


def _check_validation(facts: Facts) -> Iterator[Problem]:
    sets = [data for data in facts.keys("datasets") if data.split(".")[1].split("_")[0] == "val"]
    if facts.written("val.val_freq") and facts.sound("datasets") and not sets:
        yield Problem(
            "val.val_freq",
            f"{show(facts.get('val.val_freq'))} but no validation set",
            "datasets.val beside it",
            "add datasets.val or delete val_freq",
        )
    if sets and facts.written("train") and not facts.written("val.val_freq"):
        yield Problem(
            "val.val_freq",
            f"nothing, though there is {sets[0]}",
            "a positive whole number (iterations between validations)",
        )
    tile, overlap = facts.get("val.tile"), facts.get("val.tile_overlap", 32)
    if tile is not None and overlap is not None and overlap >= tile:
        yield Problem("val.tile_overlap", show(overlap), f"less than val.tile, which is {tile}")


def _check_warm_up(facts: Facts) -> Iterator[Problem]:
    warm_up, total = facts.get("train.warmup_iter", -1), facts.get("train.total_iter")
    if warm_up is not None and total is not None and warm_up >= total:
        yield Problem("train.warmup_iter", show(warm_up), f"less than train.total_iter, which is {total}")


def _check_network_scale(facts: Facts) -> Iterator[Problem]:
    # 'upscale' is what BasicSR's own networks call the factor.
    upscale, scale = facts.get("network_g.upscale"), facts.get("scale", 1)
    if isinstance(upscale, int) and scale is not None and upscale != scale:
        yield Problem("network_g.upscale", show(upscale), f"the file's scale, which is {scale}")


# --- schedulers -------------------------------------------------------------------------------------


def _check_scheduler(facts: Facts) -> Iterator[Problem]:
    name = facts.get(f"{_SCHEDULE}.type")
    if name is None:
        return
    if name not in _SCHEDULERS:
        fix = nearest(name, _SCHEDULERS) or f"known: {', '.join(_SCHEDULERS)}"
        yield Problem(f"{_SCHEDULE}.type", show(name), "a known learning-rate schedule", fix)
        return
    required, optional = _SCHEDULERS[name]
    problems = [*_check_argument_names(facts, name, required, optional)]
    problems += [
        problem
        for argument in (*required, *optional)
        if facts.written(f"{_SCHEDULE}.{argument}")
        for problem in _check_argument(facts, argument)
    ]
    problems = problems or list(_check_lengths(facts, name))
    yield from problems or _check_periods(facts)


def _check_argument_names(
    facts: Facts, name: str, required: tuple[str, ...], optional: tuple[str, ...]
) -> Iterator[Problem]:
    known = (*required, *optional)
    written = [key for key in facts.get(_SCHEDULE) or {} if key != "type"]
    missing = [key for key in required if key not in written]
    for key in written:
        if key not in known:
            fix = nearest(key, known) or f"known: {', '.join(known)}"
            missing = [other for other in missing if f"{other!r}" not in fix]
            yield Problem(f"{_SCHEDULE}.{key}", "an unknown key", f"an argument of {name}", fix)
    for key in missing:
        yield Problem(f"{_SCHEDULE}.{key}", "nothing", f"a list, which {name} needs")


def _check_argument(facts: Facts, argument: str) -> Iterator[Problem]:
    key = f"{_SCHEDULE}.{argument}"
    value = facts.get(key)
    if argument in _NUMBERS:
        if not _number(value) or value < 0:
            yield Problem(key, show(value), "a number from 0 up")
        return
    iterations = argument in ("milestones", "periods", "restarts")
    accepted = _iteration if iterations else _number
    if not isinstance(value, list) or not value or not all(map(accepted, value)):
        kind = "whole numbers from 0 up" if iterations else "numbers"
        fix = f"write [{value}]" if accepted(value) else ""
        yield Problem(key, show(value), f"a list of {kind}", fix)
    elif argument in ("milestones", "restarts") and sorted(set(value)) != value:
        yield Problem(key, show(value), "increasing iterations", f"write {sorted(set(value))}")
    elif argument == "periods" and 0 in value:
        yield Problem(key, show(value), "a list of positive whole numbers")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _iteration(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_lengths(facts: Facts, name: str) -> Iterator[Problem]:
    # Left out, each list has one value.
    def values(argument: str) -> list[Any]:
        return facts.get(f"{_SCHEDULE}.{argument}", [0 if argument == "eta_mins" else 1])

    first = "restarts" if name.startswith("MultiStep") else "periods"
    count = len(values(first))
    for other in ["restart_weights"] + (["eta_mins"] if name.endswith("CyclicLR") else []):
        found = values(other)
        if len(found) != count:
            yield Problem(
                f"{_SCHEDULE}.{other}",
                f"{len(found)} {'value' if len(found) == 1 else 'values'} ({show(found)})",
                f"{count}, one for each of {first}",
            )


def _check_periods(facts: Facts) -> Iterator[Problem]:
    periods, total = facts.get(f"{_SCHEDULE}.periods"), facts.get("train.total_iter")
    if periods is not None and total is not None and sum(periods) < total:
        yield Problem(
            f"{_SCHEDULE}.periods",
            f"periods of {sum(periods)} iterations in all",
            f"at least train.total_iter, which is {total}",
        )
