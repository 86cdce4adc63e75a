"""What data sets give, and what they are to a loader.

Image tensors are float32 in 0..1 before normalisation, ``lq`` (C', h, w) and ``gt`` (C, h * scale,
w * scale). A data set of basicsr's or of a plug-in's may lack what is not required here, and add to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from typing_extensions import NotRequired

from .sampling import SampleRequest

if TYPE_CHECKING:
    from torch import Tensor


class SampleError(RuntimeError):
    """A sample or item that cannot be made; the message, one line, names its number and its file."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


class SmallImageError(SampleError):
    """An image smaller than the patch that is wanted of it."""


class TrainSample(TypedDict):
    """A pair of crops; ``k`` is the sample's number in the run.

    ``replaced`` says what was wrong with the image that this one stands for, and is empty for all others.
    """

    lq: Tensor
    gt: Tensor
    k: int
    lq_path: NotRequired[str]
    gt_path: NotRequired[str]
    replaced: NotRequired[str]


class EvalItem(TypedDict):
    """A whole image and its number; in a loader's batch of one, tensors are (1, C, H, W)."""

    lq: Tensor
    gt: NotRequired[Tensor]
    lq_path: NotRequired[str]
    gt_path: NotRequired[str]
    index: int
    name: str
    task: NotRequired[str]


class TrainSet(Protocol):
    """A data set to train on; a sample depends on its request alone.

    It may have a method ``compact`` beside: takes a request, returns the same sample with images as
    :class:`~.pixels.Pixels`. The loader then sends these to the device, which makes floats of them.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, request: SampleRequest, /) -> TrainSample: ...


class EvalSet(Protocol):
    """A data set to evaluate on, by the number of the item.

    It may have an attribute ``num_workers`` beside: how many processes of a loader are to make its items, a
    few of which are then in memory at a time. Without it they are made one by one, where they are wanted:
    whole images can be large.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> EvalItem: ...


def source_sizes(dataset: TrainSet) -> dict[str, int]:
    """Return how many images each source of a training set has; one without a name is the whole set.

    A set with several sources, such as tasks, has them in its attribute ``sizes``.
    """
    return getattr(dataset, "sizes", None) or {"": len(dataset)}


def sample_maker(dataset: TrainSet) -> Callable[[SampleRequest], Mapping[str, Any]]:
    """Return what makes the samples of a training set as loaders send them: ``compact``, if it has it."""
    return getattr(dataset, "compact", dataset.__getitem__)


def in_words(sizes: Mapping[str, int]) -> str:
    """Return what :func:`source_sizes` gave, for messages."""
    return ", ".join(f"{size} images {source and f'of {source}'}".strip() for source, size in sizes.items())
