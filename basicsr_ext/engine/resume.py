"""What a resumed run keeps of the run it continues, and what it takes from the option file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..config import Options, resolved_stages
from ..data.sampling import Stage
from .checkpoint import Checkpoint


def batch_options(options: Options) -> list[list[Any]]:
    """Return all that the option file says of each stage's batch, as plain values."""
    assert options.train is not None, "the loader requires a train section"
    return [
        [stage.batch_size_per_gpu, stage.batch_size_total, options.train.grad_accum]
        for stage in resolved_stages(options)
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
    assert options.train is not None, "the loader requires a train section"
    former, now = checkpoint.state["global_batches"], batch_options(options)
    before = checkpoint.state.get("batch_options", now)  # checkpoints of version 0.1 do not have it
    if not len(former) == len(before) == len(stages):
        return tuple(stages)
    unchanged = [samples if a == b else None for samples, a, b in zip(former, before, now, strict=True)]
    return keep_global_batch(stages, unchanged, ranks * options.train.grad_accum)


def keep_global_batch(stages: Sequence[Stage], former: Sequence[int | None], share: int) -> tuple[Stage, ...]:
    """Return the stages with as many samples an iteration as another number of ranks has trained with.

    Args:
        stages: as the option file asks for.
        former: samples of one iteration, stage by stage; ``None``: those that the stage asks for.
        share: ranks times micro-batches. A stage whose former samples it does not divide stays as it is.
    """
    return tuple(
        stage if samples is None or samples % share else replace(stage, batch_size=samples // share)
        for stage, samples in zip(stages, former, strict=True)
    )
