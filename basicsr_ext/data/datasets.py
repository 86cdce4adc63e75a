"""Training and evaluation data sets, put together from an image source and a way to its low-quality side.

A data set type is a function from its options to :class:`ImagePairs`; the files ``*_dataset.py`` hold
them. What all types share (crops, orientation, tensors, errors) is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from typing_extensions import override

from ..config.errors import Problem
from .images import ImageError
from .resize import cut_to_multiple, downscale, lq_crop
from .sampling import SampleRequest, sample_rng
from .sources import ImageSource, LazyImage, first_few
from .transforms import Orientation, ToTensor, random_corner, random_orientation


class SampleError(RuntimeError):
    """A sample or item that cannot be made; the message, one line, names its number and its file."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()))


class LowQuality(ABC):
    """The low-quality side of a set of pairs: stored, or made from the ground truth."""

    @abstractmethod
    def crop(
        self, index: int, gt: LazyImage, top: int, left: int, size: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Return the ``size`` x ``size`` low-quality crop at (top, left), in low-quality pixels.

        ``gt`` is the ground truth, cut to a multiple of the scale; slices of it are read when taken.
        """

    @abstractmethod
    def whole(self, index: int, gt: np.ndarray | None) -> np.ndarray:
        """Return the whole low-quality image, always the same one."""

    def laid_crop(
        self,
        index: int,
        gt: LazyImage,
        top: int,
        left: int,
        size: int,
        orientation: Orientation,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Return the crop at (top, left) of the upright image, laid like the ground truth's.

        Overridden where the low quality has a direction of its own: rain falls downwards, whichever
        way the photograph lies.
        """
        return orientation.apply(self.crop(index, gt, top, left, size, rng))

    def path(self, index: int) -> str | None:
        """Return what messages call the stored image, if there is one."""
        return None

    def sizes(self, index: int) -> Sequence[tuple[str, int, int]]:
        """Return (path, height, width) of every stored image that belongs to ``index``."""
        return ()


@dataclass(frozen=True)
class StoredLQ(LowQuality):
    """Low-quality images that are stored; several views of an image are joined along the channels."""

    views: Sequence[ImageSource]
    scale: int

    @override
    def crop(
        self, index: int, gt: LazyImage, top: int, left: int, size: int, rng: np.random.Generator
    ) -> np.ndarray:
        expected = gt.shape[0] // self.scale, gt.shape[1] // self.scale
        crops = []
        for view in self.views:
            image = LazyImage(view, index)
            if image.shape != expected:
                raise ValueError(
                    f"{view.path(index)} has {_pixels(*image.shape)}, expected {_pixels(*expected)}:"
                    f" the ground truth's divided by {self.scale}"
                )
            crops.append(image[top : top + size, left : left + size])
        return _joined(crops)

    @override
    def whole(self, index: int, gt: np.ndarray | None) -> np.ndarray:
        return _joined([view.read(index) for view in self.views])

    @override
    def path(self, index: int) -> str:
        return self.views[0].path(index)

    @override
    def sizes(self, index: int) -> Sequence[tuple[str, int, int]]:
        return [(view.path(index), *view.size(index)) for view in self.views]


@dataclass(frozen=True)
class BicubicLQ(LowQuality):
    """Ground truth shrunk by MATLAB's antialiased bicubic, on the fly."""

    scale: int

    @override
    def crop(
        self, index: int, gt: LazyImage, top: int, left: int, size: int, rng: np.random.Generator
    ) -> np.ndarray:
        return lq_crop(gt, top, left, size, self.scale)

    @override
    def whole(self, index: int, gt: np.ndarray | None) -> np.ndarray:
        assert gt is not None
        return downscale(gt, self.scale)


@dataclass(frozen=True)
class ImagePairs:
    """Ground truth and its low-quality side.

    Args:
        gt: ground truth; without it only whole low-quality images can be had.
        lq: the low-quality side.
        names: of the images, for files of results.
        scale: side of ground truth over side of low quality.
        to_tensor: colour and normalisation of both sides.
    """

    gt: ImageSource | None
    lq: LowQuality
    names: Sequence[str]
    scale: int
    to_tensor: ToTensor


class TrainPairs(Dataset[dict[str, Any]]):
    """Crops of pairs by :class:`SampleRequest`.

    A sample has ``gt`` (C, s, s) and ``lq`` (C', s / scale, s / scale), float32 in 0..1 before
    normalisation; ``gt_path``, ``lq_path``; and ``k``, its number.

    Args:
        pairs: with ground truth.
        seed: of the run.
        hflip: allow horizontal flips.
        rotate: allow vertical flips and transposition.
    """

    def __init__(self, pairs: ImagePairs, seed: int, *, hflip: bool = True, rotate: bool = True) -> None:
        if pairs.gt is None:
            raise ValueError("training needs ground truth")
        self.pairs, self.seed = pairs, seed
        self._gt, self._hflip, self._rotate = pairs.gt, hflip, rotate

    def __len__(self) -> int:
        return len(self._gt)

    def __getitem__(self, request: SampleRequest) -> dict[str, Any]:
        path = self._gt.path(request.index)
        try:
            gt, lq = self._crops(request)
            return {
                "gt": self.pairs.to_tensor(gt),
                "lq": self.pairs.to_tensor(lq),
                "gt_path": path,
                "lq_path": self.pairs.lq.path(request.index) or path,
                "k": request.k,
            }
        except Exception as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise SampleError(f"sample {request.k}, {path}: {reason}") from error

    def place(self, request: SampleRequest) -> tuple[int, int, Orientation]:
        """Return (top, left) of a sample's crop in the ground truth, in its pixels, and how it is laid."""
        size = request.gt_size // self.pairs.scale
        rng = sample_rng(self.seed, request.k)
        top, left, orientation = self._draw_place(rng, size, self._gt.size(request.index))
        return top * self.pairs.scale, left * self.pairs.scale, orientation

    def _draw_place(
        self, rng: np.random.Generator, size: int, extent: tuple[int, ...]
    ) -> tuple[int, int, Orientation]:
        """Draw (top, left) of a crop in low-quality pixels, and its orientation."""
        height, width = extent
        scale = self.pairs.scale
        top, left = random_corner(rng, height // scale, width // scale, size)
        return top, left, random_orientation(rng, hflip=self._hflip, rotate=self._rotate)

    def _crops(self, request: SampleRequest) -> tuple[np.ndarray, np.ndarray]:
        scale = self.pairs.scale
        size, rest = divmod(request.gt_size, scale)
        if rest:
            raise ValueError(f"a patch of {request.gt_size} pixels is not divisible by scale {scale}")
        gt = LazyImage(self._gt, request.index, scale)
        if min(gt.shape) < request.gt_size:
            raise ValueError(f"the image has {_pixels(*gt.shape)}, less than a patch of {request.gt_size}")
        rng = sample_rng(self.seed, request.k)
        top, left, orientation = self._draw_place(rng, size, gt.shape[:2])
        lq = self.pairs.lq.laid_crop(request.index, gt, top, left, size, orientation, rng)
        window = np.s_[top * scale : (top + size) * scale, left * scale : (left + size) * scale]
        return orientation.apply(gt[window]), lq


class EvalPairs(Dataset[dict[str, Any]]):
    """Whole images by number.

    An item has ``lq`` (C', h, w), ``gt`` (C, h * scale, w * scale) where there is ground truth,
    ``lq_path``, ``gt_path``, ``index`` and ``name``.
    """

    def __init__(self, pairs: ImagePairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pairs = self.pairs
        path = pairs.lq.path(index) if pairs.gt is None else pairs.gt.path(index)
        try:
            images = self._images(index)
        except Exception as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise SampleError(f"image {index}, {path}: {reason}") from error
        item: dict[str, Any] = {side: pairs.to_tensor(image) for side, image in images.items()}
        if pairs.gt is not None:
            item["gt_path"] = path
        return {
            **item,
            "lq_path": pairs.lq.path(index) or path,
            "index": index,
            "name": pairs.names[index],
        }

    def _images(self, index: int) -> dict[str, np.ndarray]:
        pairs = self.pairs
        if pairs.gt is None:
            return {"lq": pairs.lq.whole(index, None)}
        gt = cut_to_multiple(pairs.gt.read(index), pairs.scale)
        lq = pairs.lq.whole(index, gt)
        height, width = lq.shape[0] * pairs.scale, lq.shape[1] * pairs.scale
        if gt.shape[0] < height or gt.shape[1] < width:
            raise ValueError(
                f"the image has {_pixels(*gt.shape[:2])}, less than {pairs.scale} times the"
                f" {_pixels(*lq.shape[:2])} of {pairs.lq.path(index)}"
            )
        return {"lq": lq, "gt": gt[:height, :width]}


def check_sizes(
    dataset: Dataset[Any], largest_gt_size: int = 1, key: str = "datasets.train"
) -> list[Problem]:
    """Find images that a run would stumble over, from their headers alone.

    Unreadable ones; ones smaller than the largest patch or than one low-quality pixel; and
    low-quality images whose size does not fit the ground truth's: for training it must be that divided
    by the scale, for evaluation ground truth may exceed it. A data set that is not ours cannot be
    looked into.

    Args:
        dataset: from ``build_train_dataset`` or ``build_eval_dataset``.
        largest_gt_size: side of the largest stage's crop, in ground-truth pixels.
        key: of the data set in the option file.
    """
    if not isinstance(dataset, TrainPairs | EvalPairs):
        return []
    pairs, scale, training = dataset.pairs, dataset.pairs.scale, isinstance(dataset, TrainPairs)
    broken, small, odd = [], [], []
    for index in range(len(dataset)):
        try:
            stored = pairs.lq.sizes(index)
            if pairs.gt is None:
                continue
            path, (height, width) = pairs.gt.path(index), pairs.gt.size(index)
        except ImageError as error:
            broken.append(str(error))
            continue
        rows, columns = height // scale, width // scale
        if min(rows, columns) * scale < largest_gt_size:
            small.append(f"{Path(path).name} ({height}x{width})")
        for lq_path, *size in stored:
            fits = tuple(size) == (rows, columns) or not (training or size[0] > rows or size[1] > columns)
            if not fits:
                odd.append(f"{Path(lq_path).name} ({_pixels(*size)}, ground truth {_pixels(height, width)})")
    side = max(largest_gt_size, scale)
    least = _pixels(side, side)
    findings = (
        (broken, "that cannot be read", "complete image files", "replace or remove them"),
        (
            small,
            "smaller than the largest patch" if training else "smaller than the scale",
            f"at least {least}",
            "use smaller patches or remove these images" if training else "remove these images",
        ),
        (
            odd,
            "whose low-quality side has another size",
            f"the ground truth's size divided by scale {scale}",
            "check scale and dataroot_lq",
        ),
    )
    return [
        Problem(
            key, f"{len(images)} image{'s'[: len(images) > 1]} {what}: {first_few(images)}", expected, fix
        )
        for images, what, expected, fix in findings
        if images
    ]


def _joined(views: Sequence[np.ndarray]) -> np.ndarray:
    return views[0] if len(views) == 1 else np.concatenate(views, axis=2)


def _pixels(height: int, width: int) -> str:
    return f"{height}x{width} pixels"
