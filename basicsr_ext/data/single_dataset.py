"""``SingleImageDataset``: low-quality images without ground truth."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from typing_extensions import override

from ..config.paths import ImageRoot
from . import DATASETS
from .pairs import ImagePairs, StoredLQ
from .sections import ImageSection


@DATASETS.register("SingleImageDataset")
class SingleImages(ImageSection):
    """Low-quality images without ground truth, for testing."""

    training_keys: ClassVar[Any] = None
    dataroot_lq: ImageRoot = Field(description="Folder, .lmdb or .store of images to restore.")

    @override
    def pairs(self, scale: int) -> ImagePairs:
        lq = self.open_ground_truth(self.dataroot_lq, "dataroot_lq")
        return ImagePairs(None, StoredLQ([lq], scale), lq.names, scale, self.conversion)
