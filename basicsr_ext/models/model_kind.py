"""The interface between a kind of training and the engine, which knows kinds by nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from ..config import DatasetOptions, OptionError, Options, Problem
from ..data import build_eval_dataset, build_train_dataset
from ..data.sampling import Share, Stage
from ..metrics import build_metric

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from ..data.samples import EvalSet, TrainSet
    from ..inference.reading import PictureReader

OptionsT = TypeVar("OptionsT", bound=Options)
Networks = Mapping[str, Callable[..., Any]]
"""Networks by name (``net_g``) as a phase calls them."""


@dataclass(frozen=True)
class Phase:
    """One of the steps an iteration consists of, in order: a loss, and the networks it updates.

    All phases of an iteration see the weights that it began with; the optimizers step together at its end,
    so that one non-finite gradient can undo the whole iteration.

    Attributes:
        name: marks its losses' gradient norm in logs.
        networks: names of the networks it updates. In its losses these are called wrapped (averaging
            gradients over ranks, compiled); all others are frozen and bare.
        optimizer: option of its optimizer, below ``train``; each phase has its own.
        every: it is due in iterations that this divides (BasicSR's ``net_d_iters``).
        after: and that lie beyond this one (``net_d_init_iters``).
    """

    name: str
    networks: tuple[str, ...]
    optimizer: str = "optim_g"
    every: int = 1
    after: int = 0

    def due(self, iteration: int) -> bool:
        """Say whether this phase takes part in ``iteration`` (counted from 1)."""
        return iteration > self.after and iteration % self.every == 0


@dataclass(frozen=True)
class Judgement:
    """What evaluating one sample gives.

    Attributes:
        statistics: by metric, see :meth:`basicsr_ext.metrics.Metric.statistic`; only those that can be had.
        baselines: the same of results to compare with, by their name (``bicubic``).
        pictures: for logs, uint8 (H, W, 3) by name; asked for of the first samples only.
        results: what ``val.save_img`` saves, images by file name without suffix, in sub-folders by ``/``.
        panels: what stands in each picture from left to right, each as wide as the next.
    """

    statistics: Mapping[str, Any] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    pictures: Mapping[str, np.ndarray] = field(default_factory=dict)
    results: Mapping[str, np.ndarray] = field(default_factory=dict)
    panels: Sequence[str] = ()


class ModelKind(ABC, Generic[OptionsT]):
    """Networks trained together, and what is computed with them.

    The engine owns devices, precision, optimizers, averaging over ranks and over time, checkpoints and
    logs; a kind owns what is computed. The engine looks up nothing in a batch, and a kind knows no rank. A
    subclass is registered in :data:`MODELS` under the names that ``model_type`` may have; it declares its
    :attr:`Options`, whose fields ``network_g``, ``network_d``, … are its networks ``net_g``, ``net_d``, ….

    Args:
        options: of this kind.
        networks: by name, bare, on ``device``.
        device: where everything is computed.

    Attributes:
        Options: the option file as this kind wants it: a class derived from
            :class:`basicsr_ext.config.Options`, with ``train`` and ``val`` narrowed and sections added.
        averaged: names of the networks that ``train.ema_decay`` keeps an average of.
        memory_advice: what to change where memory runs out in an evaluation.
    """

    Options: ClassVar[type[Options]]
    averaged: ClassVar[tuple[str, ...]] = ("net_g",)
    memory_advice: ClassVar[str] = "out of memory"

    def __init__(self, options: OptionsT, networks: Mapping[str, nn.Module], device: torch.device) -> None:
        self.options, self.networks, self.device = options, networks, device
        self._metrics = {name: build_metric(spec) for name, spec in options.val.metrics.items()}

    @classmethod
    def open_train_set(cls, options: OptionsT) -> Mapping[str, TrainSet]:
        """Return the training set by source; the one of a single source has an empty name.

        Raises:
            ValueError: a folder, file or pair is missing, or options contradict each other.
        """
        assert options.datasets.train is not None, "the loader requires a training set"
        return {"": build_train_dataset(options.datasets.train, options.scale, options.manual_seed)}

    @classmethod
    def open_eval_sets(cls, options: OptionsT, name: str, option: DatasetOptions) -> Mapping[str, EvalSet]:
        """Return what one ``datasets.val*`` or ``datasets.test*`` gives to evaluate, by display name.

        Args:
            options: of the run.
            name: of the set; all names begin with it.
            option: its section.

        Raises:
            ValueError: a folder, file or pair is missing, or options contradict each other.
        """
        return {name: build_eval_dataset(option, options.scale)}

    @classmethod
    def for_task(cls, options: OptionsT, name: str) -> OptionsT:
        """Return options that evaluate one of several tasks alone.

        Raises:
            OptionError: there is no such task.
        """
        found, expected = f"{name!r} for a {options.model_type}", "no task: the file has none to choose from"
        raise OptionError([Problem("--task", found, expected)], options.source)

    def deciding(self, sets: Sequence[str]) -> Sequence[str]:
        """Return the evaluation sets that decide which weights are best, by their first metric's mean.

        Args:
            sets: display names of all that are evaluated, in order; those of one ``datasets.val*`` as
                :meth:`open_eval_sets` gives them.
        """
        return sets[:1]

    def phases(self) -> tuple[Phase, ...]:
        """Return the phases of an iteration, in order."""
        return (Phase("g", ("net_g",)),)

    def start_training(self) -> None:
        """Build what only training needs, such as losses."""

    def shares(self, stage: Stage) -> Sequence[Share]:
        """Return what a micro-batch of ``stage`` consists of: samples of which source, how many, how large.

        One share without a name gives its samples' batch; several give a mapping of batches by source.
        """
        return (Share("", stage.batch_size, stage.gt_size),)

    @abstractmethod
    def losses(
        self, phase: str, networks: Networks, batch: Mapping[str, Any], earlier: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Return one micro-batch's losses by the name they get in logs, scalars; their sum is minimised.

        Args:
            phase: name of the phase.
            networks: all of this kind's by name; what the phase does not update is frozen.
            batch: as the training set makes it, on the device.
            earlier: what earlier phases have kept of this micro-batch; this one may add to it.
        """

    def patch_advice(self, gt_size: int) -> str:
        """Return what helps where a patch of ``gt_size`` cannot be trained on, if anything is known."""
        return ""

    @abstractmethod
    def evaluate(
        self, networks: Mapping[str, nn.Module], item: Mapping[str, Any], dataset: str, index: int, draw: bool
    ) -> Judgement:
        """Evaluate one sample.

        Args:
            networks: averaged ones where there are any, in eval mode.
            item: as the evaluation set makes it, on the device; tensors have a batch axis of one.
            dataset: display name of the set.
            index: of the sample in the set.
            draw: whether pictures for logs are wanted.
        """

    @classmethod
    def reading_notes(cls, options: OptionsT, train_set: TrainSet | None = None) -> Mapping[str, Any]:
        """Return what :meth:`reader` has to know besides network and weights, such as the names of classes.

        It is written into checkpoints: texts, numbers, lists and mappings of these.

        Args:
            options: of the run.
            train_set: of the run, where it is open.
        """
        return {}

    @classmethod
    def reader(cls, network: nn.Module, notes: Mapping[str, Any]) -> PictureReader | None:
        """Return what ``infer.py`` does with pictures, for kinds whose options do not restore images.

        Args:
            network: ``net_g``, in eval mode, on its device.
            notes: see :meth:`reading_notes`.

        Raises:
            KeyError, TypeError, ValueError: the notes do not tell enough.
        """
        return None

    def statistics(self, prediction: Any, target: Any) -> dict[str, Any]:
        """Return what each metric of ``val.metrics`` needs to know of one sample."""
        return {name: metric.statistic(prediction, target) for name, metric in self._metrics.items()}

    def name_of(self, item: Mapping[str, Any]) -> str:
        """Return what messages call a sample of an evaluation set."""
        return str(item.get("name", item.get("index", "a sample")))
