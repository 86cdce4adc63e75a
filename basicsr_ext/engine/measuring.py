"""Evaluate a network and keep what each image gave and took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..archs.padding import requirement_of
from ..inference.memory import PeakMemory
from ..inference.restore import channel_guesses, try_network
from ..models.model_kind import Judgement
from ..models.restoration_model import RestorationOptions
from .build import build_kind, build_parts
from .distributed import World
from .experiment import result_folder
from .validator import Evaluation, Validator


@dataclass(frozen=True)
class ImageResult:
    """One image of an evaluation set.

    Attributes:
        dataset: display name of its set.
        name: of the image.
        scores: by metric.
        baselines: scores of other results for it, such as ``bicubic``.
        height: of the result, in pixels.
        width: of the result, in pixels.
        seconds: that the network took.
        memory: bytes at their most while it ran: on a GPU all that was allocated, on a CPU what its operators
            made.
    """

    dataset: str
    name: str
    scores: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]
    height: int
    width: int
    seconds: float
    memory: int


@dataclass(frozen=True)
class Measured:
    """Scores over whole sets, every image, and the network that was evaluated."""

    sets: dict[str, Evaluation]
    images: list[ImageResult]
    network: nn.Module


def measure(options: RestorationOptions, device: torch.device) -> Measured:
    """Evaluate ``path.pretrain_network_g`` on the ``test`` sets as ``test.py`` does, in this process alone.

    The network is tried on a small image first, so that the first image's time is not that of warming up.

    Raises:
        OptionError: something does not fit.
        ValueError: the network does not take images, or has another scale than the options.
        StepError: memory has run out.
    """
    parts = build_parts(options, 1, training=False)
    kind = build_kind(options, parts.networks, device)
    network = kind.networks["net_g"].eval()
    requirement = requirement_of(network, options.val.window_size)
    trial = try_network(network, requirement, channel_guesses(network))
    if trial.scale != options.scale:
        raise ValueError(f"the network enlarges {trial.scale} times, not {options.scale}")
    validator = Validator(options.val, kind, parts.eval_sets, World(device=device), result_folder(options))
    images: list[ImageResult] = []
    with _metered(network, device) as meter:

        def seen(dataset: str, name: str, judged: Judgement) -> None:
            height, width = next(iter(judged.results.values())).shape[:2]
            took = meter.seconds, meter.memory
            images.append(
                ImageResult(dataset, name, judged.statistics, judged.baselines, height, width, *took)
            )
            meter.restart()

        sets = validator.run(kind.networks, options.name, seen=seen)
    return Measured(sets, images, network)


class _Meter:
    """Time and memory of a network's calls since the last restart."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self._network, self._device = network, device
        self.restart()

    def restart(self) -> None:
        self.seconds, self.memory = 0.0, 0

    def begin(self, *_: Any) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            torch.cuda.synchronize(self._device)
        else:
            self._following = PeakMemory(self._network)
            self._following.__enter__()
        self._started = time.perf_counter()

    def end(self, *_: Any) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            peak = torch.cuda.max_memory_allocated(self._device)
        else:
            self._following.__exit__(None, None, None)
            peak = self._following.peak
        self.seconds += time.perf_counter() - self._started
        self.memory = max(self.memory, peak)


@contextmanager
def _metered(network: nn.Module, device: torch.device) -> Iterator[_Meter]:
    meter = _Meter(network, device)
    before = network.register_forward_pre_hook(meter.begin)
    after = network.register_forward_hook(meter.end, always_call=True)
    try:
        yield meter
    finally:
        before.remove()
        after.remove()
