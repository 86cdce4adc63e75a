"""``SingleImageDataset``: low-quality images without ground truth."""

from __future__ import annotations

from ..config.schema import SingleKeys
from . import DATASETS
from .paired_dataset import conversion, open_ground_truth
from .pairs import ImagePairs, StoredLQ


@DATASETS.register("SingleImageDataset")
def single_images(option: SingleKeys, scale: int) -> ImagePairs:
    """Open the images to restore."""
    lq = open_ground_truth(option, option.dataroot_lq, "dataroot_lq")
    return ImagePairs(None, StoredLQ([lq], scale), lq.names, scale, conversion(option))
