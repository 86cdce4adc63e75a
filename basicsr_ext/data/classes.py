"""Images with classes as training and evaluation data sets of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from .samples import SampleError
from .sampling import Purpose, SampleRequest, global_generators, sample_rng
from .sources import ImageSource, LazyImage

_STRIP = 16
"""Longest side over shortest of images that are enlarged whole: a row of 10,000 pixels would fill memory."""
_TRIES = 10
"""How often a crop of drawn area and shape may not fit into the image, as in torchvision."""


@dataclass(frozen=True)
class Augmentation:
    """How training images differ from the stored ones; as torchvision, timm and Swin name it.

    Attributes:
        crop_scale: least and largest area of the random crop, as a share of the image's.
        crop_ratio: least and largest width over height of it.
        hflip: probability of a flip.
        rand_augment: number of operations and their magnitude (0 to 30) of RandAugment (arXiv:1909.13719).
        color_jitter: of brightness, contrast and saturation.
        erasing: probability of Random Erasing (arXiv:1708.04896), which fills with noise.
        interpolation: ``bicubic`` or ``bilinear``, with antialiasing.
        mean: subtracted per channel from values in 0..1.
        std: divides per channel after that.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    rand_augment: tuple[int, int] | None = None
    color_jitter: float = 0.0
    erasing: float = 0.0
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


class ClassTrainSet:
    """Random crops of images, with their classes as probabilities.

    A sample is a function of (seed, request) alone: ``image`` float32 (3, side, side), normalised, ``label``
    float32 (classes), one for the image's class and zero for others, its ``path``, and its number ``k``.

    Args:
        source: of images.
        labels: class of each image.
        classes: their names.
        augmentation: of the crops.
        seed: of the run.
    """

    def __init__(
        self,
        source: ImageSource,
        labels: Sequence[int],
        classes: Sequence[str],
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self.source, self.labels, self.classes = source, np.asarray(labels), tuple(classes)
        self.augmentation, self._seed = augmentation, seed
        count, strength = augmentation.rand_augment or (0, 0)
        jitter = augmentation.color_jitter
        changes: list[Any] = []
        if count:
            # Its rotations and shears of tensors know no bicubic interpolation.
            bilinear = functional.InterpolationMode.BILINEAR
            changes.append(v2.RandAugment(count, strength, interpolation=bilinear))
        if jitter:
            changes.append(v2.ColorJitter(jitter, jitter, jitter))
        self._change = v2.Compose([*changes, v2.Identity()])
        self._erase = v2.RandomErasing(p=augmentation.erasing, value="random")  # pyright: ignore[reportArgumentType]

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, request: SampleRequest) -> dict[str, Any]:
        path = self.source.path(request.index)
        try:
            image = self._augmented(request)
        except Exception as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise SampleError(f"sample {request.k}, {path}: {reason}") from error
        label = F.one_hot(torch.tensor(self.labels[request.index]), len(self.classes)).float()
        return {"image": image, "label": label, "path": path, "k": request.k}

    def _augmented(self, request: SampleRequest) -> Tensor:
        how, side = self.augmentation, request.gt_size
        rng = sample_rng(self._seed, request.k)
        stored = LazyImage(self.source, request.index)
        top, left, height, width = draw_crop(rng, stored.shape, how.crop_scale, how.crop_ratio)
        crop = stored[top : top + height, left : left + width]
        image = resized(crop, (side, side), how.interpolation)
        if rng.random() < how.hflip:
            image = image.flip(-1)
        with global_generators(rng):
            return self._erase(normalised(self._change(image), how))


class ClassEvalSet:
    """Centre crops of images with their classes, several an item.

    An item holds ``image`` float32 (n, 3, size, size), normalised, ``label`` int64 (n), the paths as
    ``names``, and its ``index``; where a guess was given, ``guess`` float32 (n, classes) besides.

    Args:
        source: of images.
        labels: class of each image.
        classes: their names.
        augmentation: says how to interpolate and normalise.
        resize: the shorter side before the crop.
        size: of the crop.
        batch: images an item.
        num_workers: processes of a loader that make items.
        guess: scores of a method to compare with, (images, classes).
    """

    def __init__(
        self,
        source: ImageSource,
        labels: Sequence[int],
        classes: Sequence[str],
        augmentation: Augmentation,
        resize: int,
        size: int,
        batch: int,
        num_workers: int = 0,
        guess: np.ndarray | None = None,
    ) -> None:
        self.source, self.labels, self.classes = source, np.asarray(labels), tuple(classes)
        self._augmentation, self._resize, self._size, self._batch = augmentation, resize, size, batch
        self.num_workers, self._guess = num_workers, guess

    def __len__(self) -> int:
        return math.ceil(len(self.source) / self._batch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        chosen = range(index * self._batch, min((index + 1) * self._batch, len(self.source)))
        item = {
            "image": torch.stack([self._image(number) for number in chosen]),
            "label": torch.from_numpy(self.labels[chosen.start : chosen.stop]),
            "names": [self.source.names[number] for number in chosen],
            "name": f"{self.source.names[chosen.start]} and {len(chosen) - 1} more",
            "index": index,
        }
        if self._guess is not None:
            item["guess"] = torch.from_numpy(self._guess[chosen.start : chosen.stop])
        return item

    def _image(self, number: int) -> Tensor:
        path = self.source.path(number)
        try:
            image = self.source.read(number)
        except Exception as error:
            raise SampleError(f"image {number}, {path}: {str(error).removeprefix(f'{path}: ')}") from error
        crop = centre_crop(image, self._resize, self._size, self._augmentation)
        return normalised(crop, self._augmentation)


def centre_crop(image: np.ndarray, resize: int, size: int, how: Augmentation) -> Tensor:
    """Return the middle (3, size, size) of an image whose shorter side is made ``resize``, uint8."""
    # Of a long strip only the middle is enlarged: the crop, and what interpolation takes of its surroundings.
    longest = math.ceil(_STRIP * max(1, size / resize)) * min(image.shape[:2])
    top, left = (max(0, length - longest) // 2 for length in image.shape[:2])
    image = image[top : top + longest, left : left + longest]
    height, width = image.shape[:2]
    factor = resize / min(height, width)
    extent = max(round(height * factor), resize), max(round(width * factor), resize)
    return functional.center_crop(resized(image, extent, how.interpolation), [size, size])


def draw_crop(
    rng: np.random.Generator,
    extent: Sequence[int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a crop of random area and shape within (height, width).

    As torchvision's ``RandomResizedCrop``: the largest crop in the middle where ten draws do not fit.
    """
    height, width = extent
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
    h = min(height, round(width / ratio[0]))
    w = min(width, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def resized(image: np.ndarray, extent: tuple[int, int], interpolation: str) -> Tensor:
    """Return an image (H, W, C) as a uint8 tensor (3, *extent)."""
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    tensor = tensor.expand(3, -1, -1)  # grey or RGB
    return functional.resize(
        tensor, list(extent), functional.InterpolationMode(interpolation), antialias=True
    )


def normalised(image: Tensor, how: Augmentation) -> Tensor:
    """Return a uint8 image as normalised floats."""
    return functional.normalize(image.float() / 255, list(how.mean), list(how.std))


def batch_mixer(mixup: float, cutmix: float, switch: float) -> Any:
    """Return what blends a batch of images and labels by MixUp or CutMix, drawing from a generator.

    Args:
        mixup: parameter of MixUp's Beta distribution (arXiv:1710.09412); 0: none.
        cutmix: of CutMix's (arXiv:1905.04899); 0: none.
        switch: probability of CutMix where there are both.
    """
    kinds = [v2.MixUp(alpha=mixup)] if mixup else []
    kinds += [v2.CutMix(alpha=cutmix)] if cutmix else []

    def mix(images: Tensor, labels: Tensor, seed: int, k: int) -> tuple[Tensor, Tensor]:
        rng = sample_rng(seed, k, Purpose.MIXING)
        kind = kinds[int(rng.random() < switch) if len(kinds) > 1 else 0]
        with global_generators(rng):
            return kind(images, labels)

    return mix
