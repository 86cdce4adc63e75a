"""Images into batches: sources, degradations, data sets, the progressive sampler, the loader.

Knows nothing of networks. May import ``config``, ``files`` and ``registry``.

A data set type is a file ``*_dataset.py`` with a section that builds it (:mod:`.sections`); a step that makes
low quality is a section in ``degradations/``. Up to the pairs of images everything is arrays and imports no
torch, so that option files can be checked without it; tensors begin in :mod:`.datasets`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import DatasetOptions
from ..registry import DATASETS as DATASETS

if TYPE_CHECKING:
    from .samples import EvalSet, TrainSet


def build_train_dataset(option: DatasetOptions, scale: int, seed: int) -> TrainSet:
    """Build ``datasets.train``; it is indexed with :class:`~.sampling.SampleRequest`.

    Args:
        option: the section of the option file.
        scale: of the option file; the section's own takes precedence.
        seed: of the run.

    Raises:
        ValueError: a folder, file or pair is missing, or options contradict each other.
        UnknownTypeError: nobody knows the type.
    """
    from .sections import DatasetSection

    assert isinstance(option, DatasetSection), "registered sections are"
    return option.train_set(option.scale or scale, seed)


def build_eval_dataset(option: DatasetOptions, scale: int) -> EvalSet:
    """Build one ``datasets.val*`` or ``datasets.test*``; it is indexed with the number of the image.

    Raises:
        ValueError: a folder, file or pair is missing, or options contradict each other.
        UnknownTypeError: nobody knows the type.
    """
    from .sections import DatasetSection

    assert isinstance(option, DatasetSection), "registered sections are"
    return option.eval_set(option.scale or scale)
