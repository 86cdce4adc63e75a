"""``SampleTextures``: which of scikit-image's photographs is a small grey crop from? Nothing to download.

Each photograph is a class. Training crops come from its left two thirds, evaluation takes a grid of tiles of
the right third, so that no pixel is in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from ..config.values import PositiveInt
from . import DATASETS
from .image_folder_dataset import ClassSection
from .images import grey
from .sample_dataset import SPLITS, sample_files
from .sources import ImageSource

if TYPE_CHECKING:
    from .samples import EvalSet, TrainSet

_NAMES = (*SPLITS["train"], *SPLITS["val"])
CLASSES = tuple(name.rpartition(".")[0] for name in _NAMES if name != "motorcycle_right.png")
"""The two motorcycles are one scene."""


@dataclass(frozen=True)
class ArraySource(ImageSource):
    """Images in memory."""

    labels: tuple[str, ...]
    images: tuple[np.ndarray, ...]

    @property
    @override
    def names(self) -> Sequence[str]:
        return self.labels

    @property
    @override
    def reads_crops(self) -> bool:
        return True

    @override
    def read(self, index: int) -> np.ndarray:
        return self.images[index]

    @override
    def size(self, index: int) -> tuple[int, int]:
        height, width = self.images[index].shape[:2]
        return height, width

    @override
    def path(self, index: int) -> str:
        return f"scikit-image's {self.labels[index]}"


@DATASETS.register("SampleTextures")
class SampleTextures(ClassSection):
    """Crops of scikit-image's bundled photographs, in grey; the photograph is the class."""

    grey: ClassVar[bool] = True

    split: Literal["train", "val"] = Field(default="train", description="Left two thirds, or the rest.")
    tile: PositiveInt = Field(default=64, description="Evaluation: side of the tiles in photographs.")

    @override
    def train_set(self, scale: int, seed: int) -> TrainSet:
        from .classes import ClassTrainSet

        source = ArraySource(CLASSES, self._parts(self.split))
        return ClassTrainSet(source, range(len(CLASSES)), CLASSES, self.augmentation, seed)  # pyright: ignore[reportReturnType]

    @override
    def eval_set(self, scale: int) -> EvalSet:
        from .classes import ClassEvalSet

        names, tiles, labels = self._tiles(self.split)
        source = ArraySource(tuple(names), tuple(tiles))
        options: Any = (self.augmentation, self.resize, self.size, self.batch_size, self.num_worker_per_gpu)
        return ClassEvalSet(source, labels, CLASSES, *options, guess=self._nearest_mean(tiles))  # pyright: ignore[reportReturnType]

    def _parts(self, split: Literal["train", "val"]) -> tuple[np.ndarray, ...]:
        """Return the side of every photograph that belongs to a split, (H, W, 1)."""
        files = sample_files(_NAMES)
        images = {name: grey(files.read(index)) for index, name in enumerate(files.names)}
        sides = []
        for name in CLASSES:
            border = images[name].shape[1] * 2 // 3
            sides.append(images[name][:, :border] if split == "train" else images[name][:, border:])
        return tuple(np.ascontiguousarray(side) for side in sides)

    def _tiles(self, split: Literal["train", "val"]) -> tuple[list[str], list[np.ndarray], list[int]]:
        names, tiles, labels = [], [], []
        for label, (name, part) in enumerate(zip(CLASSES, self._parts(split), strict=True)):
            for top in range(0, part.shape[0] - self.tile + 1, self.tile):
                for left in range(0, part.shape[1] - self.tile + 1, self.tile):
                    names.append(f"{name}/{top}_{left}")
                    tiles.append(part[top : top + self.tile, left : left + self.tile])
                    labels.append(label)
        return names, tiles, labels

    def _nearest_mean(self, tiles: Sequence[np.ndarray]) -> np.ndarray:
        """Return scores (tiles, classes): how near the mean of a class's training tiles is, by pixel."""
        _, training, labels = self._tiles("train")
        pixels = np.stack(training).astype(np.float32)
        means = [pixels[np.asarray(labels) == label].mean(0) for label in range(len(CLASSES))]
        distances = [[np.mean((tile - mean) ** 2) for mean in means] for tile in tiles]
        return -np.asarray(distances, np.float32)
