"""``PairedImageDataset`` and Restormer's ``Dataset_PairedImage``: stored pairs, or ground truth alone."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field
from typing_extensions import override

from ..config import Problem
from ..config.facts import Facts
from ..config.paths import ImageRoot
from . import DATASETS
from .degradations import Degradable, degraded_pairs
from .pairs import ImagePairs, StoredLQ
from .sections import ImageSection


@DATASETS.register("PairedImageDataset", "Dataset_PairedImage")
class PairedImages(ImageSection, Degradable):
    """Ground truth with, or without, its low-quality images."""

    dataroot_gt: ImageRoot = Field(description="Folder, .lmdb or .store of ground-truth images.")
    dataroot_lq: ImageRoot | None = Field(
        default=None,
        description="Folder, .lmdb or .store of low-quality images; without it LQ is made of GT.",
    )

    @classmethod
    @override
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        yield from super().relations(facts, key)
        scale = facts.get(f"{key}.scale", facts.get("scale", 1))
        makers = (f"{key}.dataroot_lq", f"{key}.degradation", "tasks")
        if scale == 1 and not any(facts.written(maker) for maker in makers):
            yield Problem(
                f"{key}.dataroot_lq",
                "nothing",
                "a folder of low-quality images, which can be left out only where scale is above 1",
                "or name the steps under degradation",
            )

    @override
    def pairs(self, scale: int) -> ImagePairs:
        """Pair stored images by name; without a low-quality folder make low quality of the ground truth.

        Raises:
            ValueError: images without partner, or degradation steps beside a folder.
        """
        gt = self.open_ground_truth(self.dataroot_gt)
        if self.dataroot_lq is None:
            return degraded_pairs(gt, self.degradation, scale, self.conversion)
        if self.degradation:
            raise ValueError("degradation: low quality is either made or read from dataroot_lq, not both")
        lq = StoredLQ([self.open_low_quality(gt, self.dataroot_lq, "dataroot_lq")], scale)
        return ImagePairs(gt, lq, gt.names, scale, self.conversion)
