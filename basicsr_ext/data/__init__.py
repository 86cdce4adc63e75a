"""Images into batches: sources, degradations, data sets, the progressive sampler, the loader.

Knows nothing of networks. May import ``config``, ``files`` and ``registry``.

A data set type is registered in :data:`DATASETS` as a function ``(option, scale) -> ImagePairs``; the
two builders below turn its pairs, or a data set of basicsr's or a plug-in's, into what training and
evaluation read. Up to the pairs everything is arrays, and imports no torch; tensors begin in ``datasets``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config.schema import EvalDataset, ForeignDataset, TrainDataset
from ..registry import Registry

if TYPE_CHECKING:
    from .samples import EvalSet, TrainSet

DATASETS = Registry("data set", __name__, "_dataset", "DATASET_REGISTRY")


def build_train_dataset(option: TrainDataset, scale: int, seed: int) -> TrainSet:
    """Build ``datasets.train``; it is indexed with :class:`~.sampling.SampleRequest`.

    Args:
        option: the section of the option file.
        scale: of the option file; the section's own takes precedence.
        seed: of the run.

    Raises:
        ValueError: a folder, file or pair is missing, or options contradict each other.
        UnknownTypeError: nobody knows the type.
    """
    from .datasets import TrainPairs

    scale = option.scale or scale
    build = DATASETS.find(option.type)
    if isinstance(option, ForeignDataset):
        from .adapter import IterationPure, foreign_options

        return IterationPure(build(foreign_options(option, scale, "train")), seed)
    both = option.geometric_augs
    return TrainPairs(
        build(option, scale),
        seed,
        hflip=option.use_hflip if both is None else both,
        rotate=option.use_rot if both is None else both,
    )


def build_eval_dataset(option: EvalDataset, scale: int) -> EvalSet:
    """Build one ``datasets.val*`` or ``datasets.test*``; it is indexed with the number of the image.

    Raises:
        ValueError: a folder, file or pair is missing, or options contradict each other.
        UnknownTypeError: nobody knows the type.
    """
    from .datasets import EvalPairs

    scale = option.scale or scale
    build = DATASETS.find(option.type)
    if isinstance(option, ForeignDataset):
        from .adapter import ForeignEval, foreign_options

        return ForeignEval(build(foreign_options(option, scale, "val")))
    return EvalPairs(build(option, scale))
