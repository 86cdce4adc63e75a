"""Pairs of images as training and evaluation data sets of tensors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from ..config import Problem
from .images import ImageError
from .loader import to_device
from .pairs import CropPlace, ImagePairs, in_pixels
from .pixels import Pixels
from .resize import cut_to_multiple
from .samples import EvalItem, EvalSet, SampleError, SmallImageError, TrainSample, TrainSet
from .sampling import SampleRequest, sample_rng
from .sources import LazyImage, first_few
from .transforms import random_corner, random_orientation

LOG = logging.getLogger("basicsr_ext")


class TrainPairs:
    """Crops of pairs by :class:`SampleRequest`.

    Args:
        pairs: with ground truth.
        seed: of the run.
        hflip: allow horizontal flips.
        rotate: allow vertical flips and transposition.
        pad: mirror images smaller than a patch at bottom and right up to its side, as Restormer's release
            does; otherwise they raise :class:`SmallImageError`.
    """

    def __init__(
        self,
        pairs: ImagePairs,
        seed: int,
        *,
        hflip: bool = True,
        rotate: bool = True,
        pad: bool = False,
    ) -> None:
        if pairs.gt is None:
            raise ValueError("training needs ground truth")
        self.pairs, self.seed, self._pad = pairs, seed, pad
        self._gt, self._hflip, self._rotate = pairs.gt, hflip, rotate

    def __len__(self) -> int:
        return len(self._gt)

    def __getitem__(self, request: SampleRequest) -> TrainSample:
        return to_device(self.compact(request), torch.device("cpu"))

    def compact(self, request: SampleRequest) -> Mapping[str, Any]:
        """Return the sample as it is sent to the device: images of integers as :class:`Pixels`."""
        path = self._gt.path(request.index)
        try:
            gt, lq = self._crops(request)
            return {
                "gt": _to_send(self.pairs.convert.compact(gt)),
                "lq": _to_send(self.pairs.convert.compact(lq)),
                "gt_path": path,
                "lq_path": self.pairs.lq.path(request.index) or path,
                "k": request.k,
            }
        except Exception as error:
            kind = SmallImageError if isinstance(error, SmallImageError) else SampleError
            raise kind(f"sample {request.k}, {path}: {_reason(error, path)}") from error

    def place(self, request: SampleRequest) -> CropPlace:
        """Return where a sample's crop lies in the ground truth."""
        size = request.gt_size // self.pairs.scale
        rng = sample_rng(self.seed, request.k)
        height, width = self._gt.size(request.index)
        extent = max(height, self._least(request)), max(width, self._least(request))
        return self._draw_place(rng, size, extent).scaled(self.pairs.scale)

    def _least(self, request: SampleRequest) -> int:
        return request.gt_size if self._pad else 1

    def _draw_place(self, rng: np.random.Generator, size: int, extent: tuple[int, int]) -> CropPlace:
        """Draw the place of a crop in the low-quality image; ``extent`` is the ground truth's."""
        scale, (height, width) = self.pairs.scale, extent
        top, left = random_corner(rng, height // scale, width // scale, size)
        return CropPlace(top, left, size, random_orientation(rng, hflip=self._hflip, rotate=self._rotate))

    def _crops(self, request: SampleRequest) -> tuple[np.ndarray, np.ndarray]:
        scale = self.pairs.scale
        size, rest = divmod(request.gt_size, scale)
        if rest:
            raise ValueError(f"a patch of {request.gt_size} pixels is not divisible by scale {scale}")
        gt = LazyImage(self._gt, request.index, scale, self._least(request))
        if min(gt.shape) < request.gt_size:
            raise SmallImageError(
                f"the image has {in_pixels(*gt.shape)}, less than a patch of {request.gt_size}"
            )
        rng = sample_rng(self.seed, request.k)
        place = self._draw_place(rng, size, gt.shape)
        lq = self.pairs.lq.oriented_crop(request.index, gt, place, rng)
        return place.orientation.apply(gt[place.scaled(scale).window]), lq


class EvalPairs:
    """Whole images by number."""

    def __init__(self, pairs: ImagePairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs.names)

    def __getitem__(self, index: int) -> EvalItem:
        pairs = self.pairs
        path = (pairs.lq.path(index) or pairs.names[index]) if pairs.gt is None else pairs.gt.path(index)
        try:
            gt, lq = self._images(index)
        except Exception as error:
            raise SampleError(f"image {index}, {path}: {_reason(error, path)}") from error
        item: EvalItem = {
            "lq": torch.from_numpy(pairs.convert(lq)),
            "lq_path": pairs.lq.path(index) or path,
            "index": index,
            "name": pairs.names[index],
        }
        if gt is not None:
            item["gt"], item["gt_path"] = torch.from_numpy(pairs.convert(gt)), path
        return item

    def _images(self, index: int) -> tuple[np.ndarray | None, np.ndarray]:
        pairs = self.pairs
        if pairs.gt is None:
            return None, pairs.lq.whole(index, None)
        gt = cut_to_multiple(pairs.gt.read(index), pairs.scale)
        lq = pairs.lq.whole(index, gt)
        height, width = lq.shape[0] * pairs.scale, lq.shape[1] * pairs.scale
        if gt.shape[0] < height or gt.shape[1] < width:
            raise ValueError(
                f"the image has {in_pixels(*gt.shape[:2])}, less than {pairs.scale} times the"
                f" {in_pixels(*lq.shape[:2])} of {pairs.lq.path(index)}"
            )
        return gt[:height, :width], lq


class TaskPairs(EvalPairs):
    """Whole images by number, with the name of the ``task`` that a network is to do."""

    def __init__(self, pairs: ImagePairs, task: str) -> None:
        super().__init__(pairs)
        self._task = task

    @override
    def __getitem__(self, index: int) -> EvalItem:
        return {**super().__getitem__(index), "task": self._task}


def check_sizes(
    dataset: TrainSet | EvalSet,
    largest_gt_size: int = 1,
    key: str = "datasets.train",
    on_small: Literal["pad", "stop", "skip"] = "stop",
) -> list[Problem]:
    """Find images that would fail in a run, from their sizes alone; only doubtful files are opened.

    Unreadable ones; ones smaller than the largest patch or than one low-quality pixel; and
    low-quality images whose size does not fit the ground truth's: for training it must be that divided
    by the scale, for evaluation ground truth may exceed it. A data set that is not ours cannot be
    looked into.

    Args:
        dataset: from ``build_train_dataset`` or ``build_eval_dataset``.
        largest_gt_size: side of the largest stage's crop, in ground-truth pixels.
        key: of the data set in the option file.
        on_small: of the training set; images smaller than the largest patch are logged where they do not
            stop a run.
    """
    if not isinstance(dataset, TrainPairs | EvalPairs):
        return []
    pairs, scale, training = dataset.pairs, dataset.pairs.scale, isinstance(dataset, TrainPairs)
    broken, small, odd = [], [], []
    doubtful, mirrored = _sift(pairs, largest_gt_size, training, on_small)
    usable = [f"{Path(pairs.gt.path(i)).name} ({h}x{w})" for i, h, w in mirrored] if pairs.gt else []
    for index in doubtful:
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
            stops = on_small == "stop" or not min(rows, columns)
            (small if stops else usable).append(f"{Path(path).name} ({height}x{width})")
        for lq_path, *size in stored:
            fits = tuple(size) == (rows, columns) or not (training or size[0] > rows or size[1] > columns)
            if not fits:
                odd.append(
                    f"{Path(lq_path).name} ({in_pixels(*size)}, ground truth {in_pixels(height, width)})"
                )
    if usable:
        LOG.info(
            "%s: %s smaller than the largest patch, %d pixels, %s (on_small_image): %s",
            key,
            _count(usable),
            largest_gt_size,
            "mirrored at bottom and right" if on_small == "pad" else "replaced by others where too small",
            first_few(usable),
        )
    side = max(largest_gt_size, scale)
    least = in_pixels(side, side)
    findings = (
        (broken, "that cannot be read", "complete image files", "replace or remove them"),
        (
            small,
            "smaller than the largest patch" if training else "smaller than the scale",
            f"at least {least}",
            "use smaller patches, on_small_image: pad or skip, min_size, or remove these images"
            if training
            else "remove these images",
        ),
        (
            odd,
            "whose low-quality side has another size",
            f"the ground truth's size divided by scale {scale}",
            "check scale and dataroot_lq",
        ),
    )
    return [
        Problem(key, f"{_count(images)} {what}: {first_few(images)}", expected, fix)
        for images, what, expected, fix in findings
        if images
    ]


def _sift(
    pairs: ImagePairs, largest_gt_size: int, training: bool, on_small: str
) -> tuple[list[int], list[list[int]]]:
    """Return what has to be looked into, and (index, height, width) of small images that stop nothing."""
    sides = pairs.lq.recorded_sizes()
    unknown = np.zeros(len(pairs.names), bool)
    for sizes in sides if pairs.gt is None else [pairs.gt.recorded_sizes(), *sides]:
        unknown |= (sizes < 1).any(axis=1)
    if pairs.gt is None:
        return np.flatnonzero(unknown).tolist(), []
    whole = pairs.gt.recorded_sizes()
    least = whole // pairs.scale
    small = least.min(axis=1) * pairs.scale < largest_gt_size
    doubtful = unknown | (small if on_small == "stop" else least.min(axis=1) < 1)
    for sizes in sides:
        doubtful |= ~((sizes == least) if training else (sizes <= least)).all(axis=1)
    usable = np.flatnonzero(small & ~doubtful)
    return np.flatnonzero(doubtful).tolist(), np.column_stack([usable, whole[usable]]).tolist()


def _count(images: list[str]) -> str:
    return f"{len(images)} image{'s'[: len(images) > 1]}"


def _to_send(image: np.ndarray) -> Tensor | Pixels:
    tensor = torch.from_numpy(image)
    return tensor if tensor.is_floating_point() else Pixels(tensor)


def _reason(error: Exception, path: str) -> str:
    """Return what an error says, without the file's name that the sample's error begins with."""
    return str(error).removeprefix(f"{path}: ")
