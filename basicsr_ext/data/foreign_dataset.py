"""Data sets of basicsr's and of plug-ins that register with basicsr: all names without a section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict
from typing_extensions import override

from . import DATASETS
from .sections import DatasetSection, PatchKeys

if TYPE_CHECKING:
    from .samples import EvalSet, TrainSet


@DATASETS.register("*")
class ForeignImages(DatasetSection):
    """A data set of basicsr's or of a plug-in's; it receives all its keys as BasicSR would pass them."""

    model_config = ConfigDict(extra="allow")
    training_keys: ClassVar[Any] = PatchKeys

    @property
    def kwargs(self) -> dict[str, Any]:
        """The whole mapping that a BasicSR data set takes as ``opt``."""
        return {**self.model_dump(exclude_none=True), **(self.model_extra or {})}

    @override
    def train_set(self, scale: int, seed: int) -> TrainSet:
        from .adapter import IterationPure, foreign_options

        return IterationPure(DATASETS.find(self.type)(foreign_options(self.kwargs, scale, "train")), seed)

    @override
    def eval_set(self, scale: int) -> EvalSet:
        from .adapter import ForeignEval, foreign_options

        return ForeignEval(DATASETS.find(self.type)(foreign_options(self.kwargs, scale, "val")))
