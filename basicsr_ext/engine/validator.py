"""Evaluate a network on whole images: every image once, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..archs.padding import requirement_of
from ..config.schema import Spec, Val
from ..data.images import write_image
from ..data.loader import build_eval_loader
from ..data.resize import upscale
from ..data.samples import EvalSet
from ..inference import comparison, restore_tensor
from ..metrics import METRICS
from .distributed import World
from .failures import explained

Scores = dict[str, float]
_KEPT_FOR_LOGGING = 4


@dataclass(frozen=True)
class Evaluation:
    """Mean scores over a data set.

    ``bicubic`` are those of the enlarged input (super-resolution only). ``images`` holds side-by-side
    pictures (H, W, 3) uint8 by name, of the first images.
    """

    scores: Scores
    bicubic: Scores = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """A measure with its arguments and its direction."""

    compute: Callable[[np.ndarray, np.ndarray], float]
    better: Literal["higher", "lower"]

    @classmethod
    def build(cls, spec: Spec) -> Metric:
        """Look ``spec`` up; ``better`` is ours, everything else goes to the measure."""
        kwargs = spec.kwargs
        better = kwargs.pop("better", "lower" if spec.type == "calculate_niqe" else "higher")
        function = METRICS.find(spec.type)
        return cls(lambda image, reference: float(function(image, reference, **kwargs)), better)

    def improves(self, value: float, best: float | None) -> bool:
        """Say whether ``value`` beats ``best``."""
        return best is None or (value > best if self.better == "higher" else value < best)


class Validator:
    """Runs a network over evaluation sets.

    Args:
        val: the option file's ``val`` section.
        datasets: evaluation sets by display name.
        scale: output side over input side.
        world: this process among the ranks.
        picture_folder: where images are saved when ``val.save_img`` is on.
    """

    def __init__(
        self, val: Val, datasets: Mapping[str, EvalSet], scale: int, world: World, picture_folder: Path
    ) -> None:
        self.metrics = {name: Metric.build(spec) for name, spec in val.metrics.items()}
        self._val = val
        self._scale = scale
        self._world = world
        self._folder = picture_folder
        self._loaders: dict[str, DataLoader[Any]] = {
            name: build_eval_loader(dataset, world.rank, world.size) for name, dataset in datasets.items()
        }
        self._bicubic: dict[str, dict[int, Scores]] = {name: {} for name in datasets}

    @torch.no_grad()
    def run(
        self, network: nn.Module, label: str, *, save_images: bool | None = None
    ) -> dict[str, Evaluation]:
        """Evaluate ``network`` on every set.

        Args:
            network: an unwrapped network; its training mode is restored afterwards.
            label: marks saved pictures, usually the iteration.
            save_images: overrides ``val.save_img``.
        """
        save = self._val.save_img if save_images is None else save_images
        was_training = network.training
        network.eval()
        try:
            return {name: self._evaluate(network, name, label, save) for name in self._loaders}
        finally:
            network.train(was_training)

    def _evaluate(self, network: nn.Module, name: str, label: str, save: bool) -> Evaluation:
        scores: dict[int, Scores] = {}
        pictures: dict[str, np.ndarray] = {}
        requirement = requirement_of(network, self._val.window_size)
        for index, sample in self._samples(name):
            lq = sample["lq"].to(self._world.device, non_blocking=True)
            with explained(f"{name}, {_stem(sample)}", "out of memory; set val.tile, such as 256"):
                restored = restore_tensor(
                    network, lq, self._scale, requirement, self._val.tile, self._val.tile_overlap
                )
            image = _to_image(restored)
            if save:
                self._save(image, name, _stem(sample), label)
            if "gt" not in sample:
                continue
            gt = _to_image(sample["gt"])
            scores[index] = self._score(image if self._val.use_image else _to_values(restored), gt)
            versions = {"LQ": _to_image(lq)}
            if self._scale > 1:
                versions["bicubic"] = upscale(versions["LQ"], self._scale)
                if index not in self._bicubic[name]:
                    self._bicubic[name][index] = self._score(versions["bicubic"], gt)
            if index < _KEPT_FOR_LOGGING:
                picture = comparison({**versions, "restored": image, "GT": gt})
                pictures[_stem(sample)] = picture
                if save:
                    self._save(picture, name, f"{_stem(sample)}_comparison", label)
        ranks = self._world.gather((scores, self._bicubic[name], pictures))
        return Evaluation(
            _mean([rank[0] for rank in ranks]),
            _mean([rank[1] for rank in ranks]),
            {stem: picture for rank in ranks for stem, picture in rank[2].items()},
        )

    def _samples(self, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for sample in self._loaders[name]:
            yield int(sample["index"]), sample

    def _score(self, image: np.ndarray, reference: np.ndarray) -> Scores:
        if self._val.rgb2bgr:
            image, reference = image[..., ::-1], reference[..., ::-1]
        return {name: metric.compute(image, reference) for name, metric in self.metrics.items()}

    def _save(self, image: np.ndarray, name: str, stem: str, label: str) -> None:
        suffix = self._val.suffix or label
        write_image(self._folder / name / f"{stem}_{suffix}.png", image)


def _mean(ranks: list[dict[int, Scores]]) -> Scores:
    """Return the mean over all images, summed in image order so that it does not depend on the ranks."""
    images = [scores for _, scores in sorted((i, s) for rank in ranks for i, s in rank.items())]
    if not images:
        return {}
    return {name: sum(scores[name] for scores in images) / len(images) for name in images[0]}


def _to_values(tensor: Tensor) -> np.ndarray:
    """Return (1, C, H, W) in 0..1 as (H, W, C) float64 in 0..255, clamped but not rounded."""
    return tensor[0].float().clamp(0, 1).permute(1, 2, 0).cpu().numpy().astype(np.float64) * 255


def _to_image(tensor: Tensor) -> np.ndarray:
    """Return (1, C, H, W) in 0..1 as an 8-bit image (H, W, C)."""
    return _to_values(tensor).round().astype(np.uint8)


def _stem(sample: Mapping[str, Any]) -> str:
    return Path(str(sample.get("lq_path") or sample["gt_path"])).stem
