"""What a resumed run keeps of the run it continues, and what it takes from the option file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..archs.weights import WeightsError
from ..config import Options, Problem, accumulated, resolved_stages
from ..config.schema import OptimizerSpec
from ..config.values import show
from ..data.sampling import Stage
from ..registry import MODELS, UnknownTypeError
from .checkpoint import Checkpoint
from .precision import build_optimizer

_ANOTHER_RUN = "go back to it, or begin a new run whose path.pretrain_network_g are this run's weights"
_EARLIER = "raise it, or name an earlier checkpoint as path.resume_state and leave --auto_resume out"


def batch_options(options: Options) -> list[list[Any]]:
    """Return all that the option file says of each stage's batch, as plain values."""
    return [
        [stage.batch_size_per_gpu, stage.batch_size_total, grad_accum]
        for stage, grad_accum in zip(resolved_stages(options), accumulated(options), strict=True)
    ]


def resumed_stages(
    options: Options, stages: Sequence[Stage], checkpoint: Checkpoint, ranks: int
) -> tuple[Stage, ...]:
    """Return the stages with the checkpoint's samples an iteration, where the option file is still the same.

    Args:
        options: of the run.
        stages: as they ask for with ``ranks`` processes.
        checkpoint: tells what was trained with, which is not what its options ask for if the number of
            processes has changed before.
        ranks: number of processes.
    """
    former, now = checkpoint.state["global_batches"], batch_options(options)
    before = checkpoint.state.get("batch_options", now)  # checkpoints of version 0.1 do not have it
    if not len(former) == len(before) == len(stages):
        return tuple(stages)
    unchanged = [samples if a == b else None for samples, a, b in zip(former, before, now, strict=True)]
    return keep_global_batch(stages, unchanged, ranks)


def resume_problems(options: Options, checkpoint: Checkpoint) -> list[Problem]:
    """Return what keeps the run of the options from going on where the checkpoint ends."""
    assert options.train is not None, "the loader requires a train section"
    former = json.loads(checkpoint.state["options"])["model_type"]
    if not _is_same_kind(former, options.model_type):
        expected = f"what the checkpoint of iteration {checkpoint.iteration} is of, {former!r}"
        return [Problem("model_type", repr(options.model_type), expected, _ANOTHER_RUN)]
    problems = _optimizer_problems(options, checkpoint)
    if options.train.total_iter < checkpoint.iteration:
        expected = f"at least {checkpoint.iteration}, the iteration of the checkpoint to go on from"
        problems.append(Problem("train.total_iter", str(options.train.total_iter), expected, _EARLIER))
    return problems


def misfit(key: str, error: WeightsError, iteration: int) -> Problem:
    """Return the problem of a network, at ``key``, that does not take the weights of a checkpoint."""
    first, *others = error.report.problems()
    found = f"a network that the weights do not fit ({first}{f', and {len(others)} more' if others else ''})"
    expected = f"the network of the checkpoint of iteration {iteration}"
    return Problem(key, found, expected, _ANOTHER_RUN)


def _is_same_kind(former: str, now: str) -> bool:
    try:
        return former == now or MODELS.find(former) is MODELS.find(now)
    except UnknownTypeError:
        return False


def _optimizer_problems(options: Options, checkpoint: Checkpoint) -> list[Problem]:
    """Return every optimizer that cannot go on from the state that the checkpoint holds of it."""
    train = json.loads(checkpoint.state["options"])["train"]
    problems = [
        Problem(
            f"train.{key}",
            show(now),
            f"what the checkpoint of iteration {checkpoint.iteration} groups parameters by, {show(former)}",
            _ANOTHER_RUN,
        )
        for key, nothing in (("filter_bias_and_norm", False), ("lr_factors", {}))
        if (now := getattr(options.train, key)) != (former := train.get(key, nothing))
    ]
    for name, state in checkpoint.state["optimizers"].items():
        spec, former = getattr(options.train, name, None), train[name]["type"]
        stepped = state["state"].values()
        if spec is None or spec.type != former:
            key, found = f"train.{name}.type", "nothing" if spec is None else repr(spec.type)
        elif stepped and (lacking := _state_keys(spec) - {key for kept in stepped for key in kept}):
            found = f"options with which {former} also needs {', '.join(sorted(lacking))}"
            key = f"train.{name}"
        else:
            continue
        expected = f"what the checkpoint of iteration {checkpoint.iteration} has the state of, {former!r}"
        problems.append(Problem(key, found, expected, _ANOTHER_RUN))
    return problems


def _state_keys(spec: OptimizerSpec) -> set[str]:
    """Return what an optimizer keeps of a parameter, as far as a step with a small one tells."""
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.zeros_like(parameter)
    try:
        optimizer = build_optimizer(spec.type, [parameter], parameter.device, lr=spec.lr, **spec.kwargs)
        optimizer.step()
    except Exception:  # its options are checked elsewhere, and some want other shapes
        return set()
    return set(optimizer.state[parameter])


def keep_global_batch(stages: Sequence[Stage], former: Sequence[int | None], ranks: int) -> tuple[Stage, ...]:
    """Return the stages with as many samples an iteration as another number of ranks has trained with.

    Args:
        stages: as the option file asks for.
        former: samples of one iteration, stage by stage; ``None``: those that the stage asks for.
        ranks: their number now. A stage whose former samples they and its micro-batches cannot share stays
            as it is.
    """

    def kept(stage: Stage, samples: int | None) -> Stage:
        share = ranks * stage.grad_accum
        return stage if samples is None or samples % share else replace(stage, batch_size=samples // share)

    return tuple(kept(stage, samples) for stage, samples in zip(stages, former, strict=True))
