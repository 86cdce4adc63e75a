"""``Dataset_DefocusDeblur_DualPixel_16bit`` (Restormer): left and right views of a dual-pixel sensor."""

from __future__ import annotations

from pydantic import Field
from typing_extensions import override

from ..config.paths import ImageRoot
from . import DATASETS
from .pairs import ImagePairs, StoredLQ
from .sections import ImageSection


@DATASETS.register("Dataset_DefocusDeblur_DualPixel_16bit")
class DualPixelImages(ImageSection):
    """Restormer's dual-pixel defocus set: left and right 16-bit views, joined to six channels."""

    dataroot_gt: ImageRoot = Field(description="Folder, .lmdb or .store of sharp images.")
    dataroot_lqL: ImageRoot = Field(description="The left views.")  # noqa: N815 (Restormer's key)
    dataroot_lqR: ImageRoot = Field(description="The right views.")  # noqa: N815

    @override
    def pairs(self, scale: int) -> ImagePairs:
        """Pair sharp images with two defocused views, joined to six channels: left RGB, right RGB.

        Raises:
            ValueError: images without partner, or a colour conversion, which two views do not take.
        """
        if self.color not in (None, "rgb"):
            raise ValueError(f"color: found {self.color!r}, expected 'rgb' for two views of six channels")
        gt = self.open_ground_truth(self.dataroot_gt)
        views = [
            self.open_low_quality(gt, root, key)
            for root, key in ((self.dataroot_lqL, "dataroot_lqL"), (self.dataroot_lqR, "dataroot_lqR"))
        ]
        return ImagePairs(gt, StoredLQ(views, scale), gt.names, scale, self.conversion)
