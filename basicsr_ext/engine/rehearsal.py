"""One sample of every stage through the network, so that a patch it cannot take is found before the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..archs.padding import requirement_of
from ..config import OptionError, Options, Problem
from ..data.sampling import SampleRequest, Stage
from ..models.base_model import BaseModel
from .failures import StepError, explained


def rehearse(
    options: Options, model: BaseModel, train_set: Any, stages: Sequence[Stage], device: torch.device
) -> None:
    """Compute the losses of one sample a stage, without gradients.

    Args:
        options: of the run, for messages.
        model: its network is on ``device``; nothing of it is changed.
        train_set: indexed with :class:`~basicsr_ext.data.sampling.SampleRequest`.
        stages: patch sizes in ground-truth pixels.
        device: where the run will be.

    Raises:
        OptionError: with every stage that fails.
        StepError: there is no memory for a single sample.
    """
    network, problems = model.network, []
    was_training = network.training
    network.eval()
    for number, stage in enumerate(stages):
        sample = train_set[SampleRequest(0, stage.gt_size, 0)]
        batch = {name: sample[name][None].to(device) for name in ("lq", "gt")} | {"k": torch.zeros(1)}
        try:
            with torch.no_grad(), explained(f"one sample of stage {number + 1}"):
                model.training_step(network, batch)
        except StepError:
            raise
        except Exception as error:
            words = str(error).partition("\n")[0]
            found = f"{stage.gt_size}, with which network_g fails ({type(error).__name__}: {words})"
            expected = "a patch that network_g takes, and restores to this size"
            multiple = requirement_of(network).multiple_of * (
                sample["gt"].shape[-1] // sample["lq"].shape[-1]
            )
            fix = f"its windows need multiples of {multiple}" if stage.gt_size % multiple else ""
            problems.append(Problem(f"datasets.train.stages.{number}.gt_size", found, expected, fix))
    network.train(was_training)
    if problems:
        raise OptionError(problems, options.source)
