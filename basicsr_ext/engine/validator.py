"""Evaluate networks on whole data sets: every sample once, shared out over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn

from ..config import Val
from ..data.images import write_image
from ..data.loader import build_eval_loader, to_device
from ..data.samples import EvalSet
from ..metrics import Metric, build_metric
from ..models import Judgement, ModelKind
from .compiling import not_compiled
from .distributed import World
from .failures import explained
from .progress import tracked

Scores = dict[str, float]
Measures = dict[str, Metric]
_DRAWN = 4
"""Samples of each set whose pictures go to the logs."""
_LISTED = 1000
"""Most samples of a set whose scores are listed one by one."""


class BrokenOffError(Exception):
    """An evaluation was told to stop, on one rank at least; nothing of it counts."""


@dataclass(frozen=True)
class Evaluation:
    """Scores over a data set.

    ``baselines`` are those of other results for the same samples, such as the bicubically enlarged input's.
    ``pictures`` are (H, W, 3) uint8 by name, of the first samples; ``panels`` name what stands in them from
    left to right, each as wide as the next, where that is so. ``samples`` are the scores of every sample
    by its name, of measures that are means over samples and sets that are not too large.
    """

    scores: Scores
    baselines: dict[str, Scores] = field(default_factory=dict)
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    panels: tuple[str, ...] = ()
    samples: dict[str, Scores] = field(default_factory=dict)

    def flat(self) -> Scores:
        """Return all scores by one name each, ``psnr`` and ``bicubic_psnr``."""
        beside = {
            f"{name}_{m}": value for name, scores in self.baselines.items() for m, value in scores.items()
        }
        return {**self.scores, **beside}


class Validator:
    """Runs a model kind's networks over evaluation sets.

    Args:
        val: the option file's ``val`` section.
        kind: decides what is computed for a sample.
        datasets: evaluation sets by display name.
        world: this process among the ranks.
        picture_folder: where images are saved when ``val.save_img`` is on, results in a folder a set and
            pictures that compare them in ``comparison/``.
    """

    def __init__(
        self,
        val: Val,
        kind: ModelKind[Any],
        datasets: Mapping[str, EvalSet],
        world: World,
        picture_folder: Path,
    ) -> None:
        self._val, self._kind, self._world, self._folder = val, kind, world, picture_folder
        self._datasets = dict(datasets)

    def metrics(self) -> Measures:
        """Return the measures of ``val.metrics`` by name, which have seen nothing yet."""
        return {name: build_metric(spec) for name, spec in self._val.metrics.items()}

    @torch.no_grad()
    def run(
        self,
        networks: Mapping[str, nn.Module],
        label: str,
        stop: Callable[[], bool] = lambda: False,
        seen: Callable[[str, str, Judgement], None] = lambda dataset, sample, judged: None,
    ) -> dict[str, Evaluation]:
        """Evaluate on every set.

        Args:
            networks: unwrapped, by name; their training mode is restored afterwards.
            label: marks saved pictures, usually the iteration.
            stop: asked before every sample whether to break off; ranks may get different answers.
            seen: told after every sample of this rank: the set, the sample's name, what was found.

        Raises:
            BrokenOffError: on all ranks, if ``stop`` said so on any.
        """
        training = {name: network.training for name, network in networks.items()}
        for network in networks.values():
            network.eval()
        try:
            with not_compiled():
                return {name: self._evaluate(networks, name, label, stop, seen) for name in self._datasets}
        finally:
            for name, network in networks.items():
                network.train(training[name])

    def _evaluate(
        self,
        networks: Mapping[str, nn.Module],
        name: str,
        label: str,
        stop: Callable[[], bool],
        seen: Callable[[str, str, Judgement], None],
    ) -> Evaluation:
        measures, baselines, stopped = self.metrics(), {}, False
        pictures: dict[str, np.ndarray] = {}
        panels: tuple[str, ...] = ()
        samples: dict[int, tuple[str, Scores]] = {}
        few = len(self._datasets[name]) <= _LISTED
        with self._items(name) as items:
            for index, item in items:
                stopped = stop()
                if stopped:
                    break
                item = to_device(item, self._world.device)
                with explained(f"{name}, {self._kind.name_of(item)}", self._kind.memory_advice):
                    judged = self._kind.evaluate(networks, item, name, index, draw=index < _DRAWN)
                seen(name, self._kind.name_of(item), judged)
                _update(measures, index, judged.statistics)
                for baseline, statistics in judged.baselines.items():
                    _update(baselines.setdefault(baseline, self.metrics()), index, statistics)
                pictures.update(judged.pictures)
                panels = panels or tuple(judged.panels)
                if few:
                    # A mean's statistic is the sample's own score; other measures have none.
                    scores = {m: value for m, value in judged.statistics.items() if isinstance(value, float)}
                    samples[index] = self._kind.name_of(item), scores
                if self._val.save_img:
                    self._save(name, judged, label)
        if any(self._world.gather(stopped)):
            raise BrokenOffError
        ranks = self._world.gather((measures, baselines, pictures, panels, samples))
        names = dict.fromkeys(baseline for rank in ranks for baseline in rank[1])
        return Evaluation(
            _results(self.metrics(), [rank[0] for rank in ranks]),
            {b: _results(self.metrics(), [rank[1].get(b, {}) for rank in ranks]) for b in names},
            {stem: picture for rank in ranks for stem, picture in rank[2].items()},
            next((rank[3] for rank in ranks if rank[3]), ()),
            dict(scored for _, scored in sorted(pair for rank in ranks for pair in rank[4].items())),
        )

    @contextmanager
    def _items(self, name: str) -> Iterator[Iterator[tuple[int, Any]]]:
        """Give this rank's items of a set with their numbers; its loader ends with the block."""
        rank, ranks, dataset = self._world.rank, self._world.size, self._datasets[name]
        indices = range(rank, len(dataset), ranks)
        with closing(iter(build_eval_loader(dataset, rank, ranks))) as items:
            shown = self._val.pbar and self._world.is_main
            yield tracked(zip(indices, items, strict=True), name, len(indices), shown)

    def _save(self, name: str, judged: Judgement, label: str) -> None:
        ending = f"_{self._val.suffix or label}.png"
        for folder, images in ((name, judged.results), (f"comparison/{name}", judged.pictures)):
            for stem, image in images.items():
                write_image(self._folder / folder / f"{stem}{ending}", image)


def mean_of(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the mean of each score, and of each of a baseline's, over those that have it."""

    def mean(scores: Sequence[Scores]) -> Scores:
        names = dict.fromkeys(name for one in scores for name in one)
        return {name: fmean(one[name] for one in scores if name in one) for name in names}

    baselines = set.intersection(*(set(one.baselines) for one in evaluations))
    return Evaluation(
        mean([one.scores for one in evaluations]),
        {baseline: mean([one.baselines[baseline] for one in evaluations]) for baseline in sorted(baselines)},
    )


def _update(measures: Measures, index: int, statistics: Mapping[str, Any]) -> None:
    for metric, statistic in statistics.items():
        measures[metric].update(index, statistic)


def _results(merged: Measures, ranks: list[Measures]) -> Scores:
    """Return what all ranks together have measured; nothing where no sample had a statistic."""
    for measures in ranks:
        for name, measure in measures.items():
            merged[name].merge(measure)
    return {name: measure.result() for name, measure in merged.items() if measure.seen}
