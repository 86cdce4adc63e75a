"""Data sets of basicsr's and of plug-ins', made functions of the sample's number.

They take BasicSR's ``opt`` and draw from Python's, NumPy's and torch's global generators. Around each
item those are seeded from the sample's number and put back afterwards, so that such a data set obeys
the same rules as ours: the stream of batches does not depend on workers, ranks or interruptions.
Generators that a data set keeps for itself are beyond reach.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from .samples import EvalItem, SampleError, TrainSample
from .sampling import Purpose, SampleRequest, global_generators, sample_rng


def foreign_options(keys: Mapping[str, Any], scale: int, phase: str) -> dict[str, Any]:
    """Return the ``opt`` mapping of a BasicSR data set, with the keys that BasicSR itself adds."""
    opt = deepcopy(dict(keys))
    opt.update(phase=phase, scale=scale)
    for key, value in opt.items():
        if key.startswith(("dataroot_", "meta_info")) and isinstance(value, str):
            opt[key] = os.path.expanduser(value)
    opt.setdefault("io_backend", {"type": "disk"})
    return opt


class IterationPure:
    """A foreign training data set, indexed with :class:`SampleRequest`.

    The patch size goes to ``opt["gt_size"]`` and, where there is one, to the attribute ``gt_size``.
    Samples carry their number ``k`` in addition.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, request: SampleRequest) -> TrainSample:
        opt = getattr(self.dataset, "opt", None)
        if isinstance(opt, dict):
            opt["gt_size"] = request.gt_size
        if isinstance(getattr(self.dataset, "gt_size", None), int):
            self.dataset.gt_size = request.gt_size
        try:
            with global_generators(sample_rng(self.seed, request.k, Purpose.FOREIGN)):
                sample: TrainSample = self.dataset[request.index]
                return {**sample, "k": request.k}
        except Exception as error:
            name = type(self.dataset).__name__
            raise SampleError(
                f"sample {request.k}, image {request.index} of {name}: {type(error).__name__}: {error}"
            ) from error


class ForeignEval:
    """A foreign evaluation data set; an item is the same however often and wherever it is read."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> EvalItem:
        try:
            with global_generators(sample_rng(0, index, Purpose.FOREIGN)):
                item: EvalItem = self.dataset[index]
        except Exception as error:
            name = type(self.dataset).__name__
            raise SampleError(f"image {index} of {name}: {type(error).__name__}: {error}") from error
        name = Path(str(item.get("lq_path", f"{index:06d}"))).stem
        return {"name": name, **item, "index": index}
