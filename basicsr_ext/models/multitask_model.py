"""Several restoration tasks at once: one body, and an entrance and an exit for each, as EDT is pre-trained.

EDT (arXiv:2112.10175) trains all tasks of a network in every iteration; its training code was never released.

A network can be trained so if it has an attribute ``tasks``, their names, and takes either a list with one
batch of images a task, in this order, and returns such a list, or one batch and the task's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from typing_extensions import override

from ..config import DatasetOptions, OptionError, Problem
from ..config.facts import Facts
from ..config.values import PositiveFloat, PositiveInt
from ..data.degradations import Degradable, DegradationStep, degraded_pairs
from ..data.pairs import ImagePairs
from ..data.sampling import Share, Stage
from ..data.sections import ImageSection
from ..registry import DEGRADATIONS
from . import MODELS
from .model_kind import Networks
from .restoration_model import RestorationModel, RestorationOptions, RestorationVal

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.samples import EvalSet, TrainSet

SHRINKING = 4
"""Patches of tasks that keep an image's size are so many times as large as low-quality ones of others."""
_MEAN = "mean"
_NAMED = re.compile(r"(sr_x)(\d+)|(dn_g)(\d+)|(dr_)([LH])")


class Task(Degradable):
    """One of the tasks that are trained together."""

    name: str = Field(description="The network's name for it; EDT's are sr_x4, dn_g25, dr_L, ….")
    weight: PositiveFloat = Field(default=1.0, description="Factor on its losses.")
    batch_size_per_gpu: PositiveInt | None = Field(
        default=None,
        description="Its samples of a micro-batch of a rank; default: the stage's.",
    )
    scale: PositiveInt | None = Field(
        default=None, description="Enlargement; default: what a name such as sr_x4 says, or 1."
    )

    @property
    def factor(self) -> int:
        """The enlargement."""
        named = _NAMED.fullmatch(self.name)
        return self.scale or (int(named[2]) if named and named[1] else 1)

    def steps(self) -> Sequence[DegradationStep] | None:
        """Return what makes low quality of ground truth; None is the bicubic reduction."""
        named = _NAMED.fullmatch(self.name)
        if self.degradation is not None or named is None or named[1]:
            return self.degradation
        kind, values = (
            ("gaussian_noise", {"sigma": float(named[4])})
            if named[3]
            else ("rain", {"kind": "light" if named[6] == "L" else "heavy"})
        )
        return [DEGRADATIONS.section(kind).model_validate({"type": kind, **values})]

    @classmethod
    @override
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        name = facts.get(f"{key}.name")
        if not facts.written(f"{key}.scale") and (named := _NAMED.fullmatch(str(name))) and named[1]:
            return  # its steps are checked against the scale of the name once they are put together
        yield from super().relations(facts, key)
        told = facts.get(f"{key}.scale", 1) != 1 or facts.written(f"{key}.degradation")
        if name is not None and not told and not _NAMED.fullmatch(str(name)):
            expected = "sr_x<scale>, dn_g<sigma>, dr_L, dr_H, or a scale or degradation beside it"
            yield Problem(f"{key}.name", repr(name), expected)


class MultiTaskVal(RestorationVal):
    """``val`` of several restoration tasks."""

    best_task: str | None = Field(
        default=None,
        description="The task whose first metric on the first set decides which weights are best, or 'mean' "
        "over all tasks; default: the first task.",
    )


class MultiTaskOptions(RestorationOptions):
    """A run of several restoration tasks at once."""

    val: MultiTaskVal = MultiTaskVal()  # pyright: ignore[reportIncompatibleVariableOverride]
    tasks: Annotated[list[Task], Field(min_length=1)] = Field(
        description="What is trained together, on the images of datasets.train."
    )

    @classmethod
    @override
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        yield from super().relations(facts, key)
        names = [facts.get(f"{task}.name") for task in facts.keys("tasks")] if facts.valid("tasks") else []
        for number, name in enumerate(names):
            if name in names[:number]:
                yield Problem(f"tasks.{number}.name", repr(name), "a name no other task has")
            elif name == _MEAN:
                yield Problem(f"tasks.{number}.name", repr(name), "another name", "val.best_task uses it")
        chosen = facts.get("val.best_task")
        if chosen is not None and None not in names and names and chosen not in (*names, _MEAN):
            expected = f"one of the tasks, {', '.join(names)}, or mean"
            yield Problem("val.best_task", repr(chosen), expected)


@MODELS.register()
class MultiTaskModel(RestorationModel):
    """Losses of all tasks in every iteration; ground truth is one source for all of them.

    Of a stage's patch, ``gt_size``, tasks that keep the size see all, and super-resolution sees a quarter as
    low quality: EDT's 192 is 48 pixels for it. Losses are logged as ``l_<task>``, weights included. Every set
    is evaluated for every task under its name and the task's, ``Set5_sr_x4``; ``val.best_task`` says which of
    the first set's decides what is best.
    """

    Options = MultiTaskOptions
    options: MultiTaskOptions

    @classmethod
    @override
    def open_train_set(cls, options: MultiTaskOptions) -> Mapping[str, TrainSet]:  # pyright: ignore[reportIncompatibleMethodOverride]
        section = options.datasets.train
        assert isinstance(section, ImageSection), "the loader requires images"
        return {
            task: section.train_set_of(pairs, options.manual_seed)
            for task, pairs in _pairs_by_task(section, options.tasks).items()
        }

    @classmethod
    @override
    def open_eval_sets(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, options: MultiTaskOptions, name: str, option: DatasetOptions
    ) -> Mapping[str, EvalSet]:
        from ..data.datasets import TaskPairs

        assert isinstance(option, ImageSection), "the loader requires images"
        return {
            f"{name}_{task}": TaskPairs(pairs, task)
            for task, pairs in _pairs_by_task(option, options.tasks).items()
        }

    @classmethod
    @override
    def for_task(cls, options: MultiTaskOptions, name: str) -> MultiTaskOptions:  # pyright: ignore[reportIncompatibleMethodOverride]
        tasks = [task for task in options.tasks if task.name == name]
        if not tasks:
            expected = f"one of the tasks, {', '.join(task.name for task in options.tasks)}"
            raise OptionError([Problem("--task", repr(name), expected)], options.source)
        return options.model_copy(update={"tasks": tasks})

    @override
    def deciding(self, sets: Sequence[str]) -> Sequence[str]:
        of_first = dict(zip([task.name for task in self.options.tasks], sets, strict=False))
        chosen = self.options.val.best_task
        if chosen == _MEAN:
            return list(of_first.values())
        return [of_first[chosen]] if chosen in of_first else sets[:1]

    @override
    def start_training(self) -> None:
        super().start_training()
        own = getattr(self.networks["net_g"], "tasks", None)
        wanted = [task.name for task in self.options.tasks]
        if own is None or sorted(own) != sorted(wanted):
            found = "one without tasks" if own is None else f"one with the tasks {', '.join(own)}"
            problem = Problem("network_g", found, f"the tasks of the option file, {', '.join(wanted)}")
            raise OptionError([problem], self.options.source)

    @override
    def shares(self, stage: Stage) -> Sequence[Share]:
        lq = stage.gt_size // SHRINKING
        return [
            Share(
                task.name,
                task.batch_size_per_gpu or stage.batch_size,
                lq * (task.factor if task.factor > 1 else SHRINKING),
            )
            for task in self.options.tasks
        ]

    @override
    def losses(
        self, phase: str, networks: Networks, batch: Mapping[str, Any], earlier: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Return ``l_<task>`` of every task.

        Args:
            phase: the only one.
            networks: ``net_g``.
            batch: a mapping with ``lq`` and ``gt`` for each task.
            earlier: nothing.

        Raises:
            ValueError: the network's output has another shape than the ground truth.
            RuntimeError: a loss does not take the two.
        """
        names: Sequence[str] = self.networks["net_g"].tasks  # pyright: ignore[reportAssignmentType]
        outputs = networks["net_g"]([batch[name]["lq"] * self._range for name in names])
        restored = {name: y / self._range for name, y in zip(names, outputs, strict=True)}
        losses: dict[str, Tensor] = {}
        for task in self.options.tasks:
            y, gt = restored[task.name], batch[task.name]["gt"]
            if y.shape != gt.shape:
                raise ValueError(
                    f"network_g gives {tuple(y.shape)} for {task.name}, ground truth is {tuple(gt.shape)}"
                )
            parts = self.reconstruction_losses(y, gt).values()
            losses[f"l_{task.name}"] = task.weight * sum(parts, start=y.new_zeros(()))
        return losses

    @override
    def scale_of(self, item: Mapping[str, Any]) -> int:
        return next(task.factor for task in self.options.tasks if task.name == item["task"])

    @override
    def patch_advice(self, gt_size: int) -> str:
        return ""


def _pairs_by_task(section: ImageSection, tasks: Sequence[Task]) -> dict[str, ImagePairs]:
    """Return the images of a data set, and what each task makes of them.

    Raises:
        ValueError: the data set has no ground truth, or a task's steps do not make up its scale.
    """
    gt = section.pairs(1).gt
    if gt is None:
        raise ValueError("a data set without ground truth has nothing to make tasks of")
    return {task.name: degraded_pairs(gt, task.steps(), task.factor, section.conversion) for task in tasks}
