"""One sample of every stage through the networks: a patch they cannot take is found before the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from ...config import OptionError, Options, Problem
from ...data.loader import batch_of, to_device
from ...data.sampling import SampleRequest, Stage
from ...models import ModelKind
from ..compiling import not_compiled
from ..failures import StepError, explained
from ..logger import LOG


def stage_batch(kind: ModelKind[Any], train_set: Any, stage: Stage, copies: int = 1) -> Any:
    """Return a micro-batch of ``stage`` on the host, made of one sample of each source.

    Args:
        kind: decides which sources there are.
        train_set: indexed with :class:`~basicsr_ext.data.sampling.SampleRequest`.
        stage: whose patch size.
        copies: of each sample; 0: as many as the stage asks for.
    """
    samples = []
    for share in kind.shares(stage):
        request = SampleRequest(0, share.gt_size, 0, share.source)
        samples += [(share.source, train_set[request])] * (copies or share.batch_size)
    return batch_of(samples)


def rehearse(
    options: Options,
    kind: ModelKind[Any],
    train_set: Any,
    stages: Sequence[Stage],
    channels_last: bool,
) -> None:
    """Compute the losses of one sample a stage in every phase, without gradients.

    The largest patches come first. A line in the log names the stages for which ``train.rehearsal_limit``
    has left no time.

    Args:
        options: of the run, for messages.
        kind: ready to train; nothing of it is changed.
        train_set: indexed with :class:`~basicsr_ext.data.sampling.SampleRequest`.
        stages: patch sizes in ground-truth pixels.
        channels_last: memory layout of the run's batches.

    Raises:
        OptionError: with every stage that fails.
        StepError: there is no memory for a single sample.
    """
    assert options.train is not None, "only training is rehearsed"
    limit, started = options.train.rehearsal_limit, time.monotonic()
    problems: dict[int, Problem] = {}
    untried: list[int] = []
    training = {name: network.training for name, network in kind.networks.items()}
    for network in kind.networks.values():
        network.eval()
    for number, stage in sorted(enumerate(stages), key=lambda numbered: -numbered[1].gt_size):
        if time.monotonic() - started > limit:
            untried.append(number + 1)
            continue
        batch = to_device(stage_batch(kind, train_set, stage), kind.device, channels_last)
        earlier: dict[str, Any] = {}
        try:
            with torch.no_grad(), not_compiled(), explained(f"one sample of stage {number + 1}"):
                losses = [kind.losses(phase.name, kind.networks, batch, earlier) for phase in kind.phases()]
        except StepError:
            raise
        except Exception as error:
            words = str(error).partition("\n")[0]
            found = f"{stage.gt_size}, with which a step fails ({type(error).__name__}: {words})"
            expected = "a patch that the networks take, and the losses"
            fix = kind.patch_advice(stage.gt_size)
            problems[number] = Problem(f"datasets.train.stages.{number}.gt_size", found, expected, fix)
            continue
        if not all(losses):
            problems[number] = Problem("train", "a phase without any loss", "a loss", "name one under train")
            break
    for name, network in kind.networks.items():
        network.train(training[name])
    if untried:
        which = ", ".join(map(str, sorted(untried)))
        LOG.warning("Stage %s was not tried: %g seconds have passed, the train.rehearsal_limit", which, limit)
    if problems:
        raise OptionError([problems[number] for number in sorted(problems)], options.source)
