"""``datasets``: what the sections of all data sets share; each data set registers one of its own."""

from __future__ import annotations

import re
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, create_model
from typing_extensions import override

from ..registry import DATASETS
from .sections import ByType, OptionMapping, Section
from .stages import StageOptions
from .values import FolderName, NonNegativeInt, PositiveInt


class LoaderKeys(Section):
    """Keys that only the training set takes."""

    gt_size: PositiveInt | None = Field(
        default=None,
        description="Side of the square ground-truth crop in pixels; with gt_sizes, the largest.",
    )
    use_shuffle: bool = Field(default=True, description="Visit the images in a new random order each pass.")
    num_worker_per_gpu: NonNegativeInt = Field(default=4, description="Loader processes per rank; 0: none.")
    batch_size_per_gpu: PositiveInt | None = Field(
        default=None, description="Samples per rank and micro-batch."
    )
    batch_size_total: PositiveInt | None = Field(
        default=None,
        description="Samples per iteration over all ranks and micro-batches; instead of batch_size_per_gpu.",
    )
    dataset_enlarge_ratio: PositiveInt = Field(default=1, description="Repeats of the data set in one pass.")
    persistent_workers: bool = Field(
        default=True, description="Accepted; workers live as long as the loader."
    )
    prefetch_mode: Literal["cpu", "cuda"] | None = Field(
        default=None, description="Accepted; the loader always prefetches."
    )
    num_prefetch_queue: PositiveInt = Field(default=2, description="Batches each worker prepares ahead.")
    pin_memory: bool = Field(default=True, description="Page-locked batches for faster copies to a GPU.")
    on_bad_sample: Literal["stop", "skip"] = Field(
        default="stop",
        description="An image that cannot be used ends the run, or another one takes its place.",
    )
    stages: list[StageOptions] | None = Field(
        default=None, min_length=1, description="Progressive learning, stage by stage."
    )
    mini_batch_sizes: list[PositiveInt] | None = Field(
        default=None, min_length=1, description="Restormer: batch per GPU of each stage."
    )
    iters: list[PositiveInt] | None = Field(
        default=None, min_length=1, description="Restormer: iterations of each stage."
    )
    gt_sizes: list[PositiveInt] | None = Field(
        default=None, min_length=1, description="Restormer: patch size of each stage."
    )


class DatasetOptions(OptionMapping):
    """A data set: what every registered section of one has.

    As ``datasets.train`` it takes the keys of :attr:`training_keys` besides; it is then an instance of
    those, too.
    """

    training_keys: ClassVar[Any] = LoaderKeys
    """The section of what it takes for training, a kind of LoaderKeys; None: it cannot be trained with."""

    type: str = Field(description="Registered name: ours first, then basicsr's and the plug-ins'.")
    name: FolderName = Field(
        default="", description="Shown in logs and used as folder name for validation images."
    )
    phase: Literal["train", "val", "test"] | None = Field(
        default=None, description="Set by BasicSR; accepted, unused."
    )
    scale: PositiveInt | None = Field(
        default=None, description="Overrides the file's scale for this data set."
    )


@cache
def for_training(section: type[OptionMapping]) -> Any:
    """Return a data set's section with its keys for training, or None if it cannot be trained with."""
    keys = getattr(section, "training_keys", None)
    if keys is None:
        return None
    return create_model(f"{section.__name__}ForTraining", __base__=(keys, section), __doc__=section.__doc__)


_WANTED = "the name of a data set"
_MISFIT = "a data set to train with, which this is not"
TRAINING_SET = ByType(DATASETS, _WANTED, for_training, _MISFIT)
EVALUATION_SET = ByType(DATASETS, _WANTED)
TrainingSet = Annotated[DatasetOptions, TRAINING_SET]
EvaluationSet = Annotated[DatasetOptions, EVALUATION_SET]


class Datasets(OptionMapping):
    """``train`` and any number of ``val``, ``val_N``, ``test``, ``test_N`` sets."""

    model_config = ConfigDict(extra="allow")
    evaluation_keys: ClassVar[re.Pattern[str]] = re.compile(r"(val|test)(_.*)?\Z")
    __pydantic_extra__: dict[str, EvaluationSet]  # pyright: ignore[reportIncompatibleVariableOverride]
    train: TrainingSet | None = None

    @classmethod
    @override
    def knows(cls, key: str) -> bool:
        return super().knows(key) or cls.evaluation_keys.match(key) is not None

    @property
    def loader(self) -> LoaderKeys | None:
        """The training set's keys for stages, batches and loader processes."""
        return self.train if isinstance(self.train, LoaderKeys) else None

    def evaluation(self, phase: Literal["val", "test"]) -> dict[str, DatasetOptions]:
        """Return the sets of one phase by their key, in file order."""
        return {
            key: value for key, value in (self.__pydantic_extra__ or {}).items() if key.split("_")[0] == phase
        }
