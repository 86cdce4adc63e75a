"""``Dataset_DefocusDeblur_DualPixel_16bit`` (Restormer): left and right views of a dual-pixel sensor."""

from __future__ import annotations

from ..config.schema import DualPixelKeys
from . import DATASETS
from .paired_dataset import conversion, open_ground_truth, open_low_quality
from .pairs import ImagePairs, StoredLQ


@DATASETS.register("Dataset_DefocusDeblur_DualPixel_16bit")
def dual_pixel(option: DualPixelKeys, scale: int) -> ImagePairs:
    """Pair sharp images with two defocused views, joined to six channels: left RGB, right RGB.

    Raises:
        ValueError: images without partner, or a colour conversion, which two views do not take.
    """
    if option.color not in (None, "rgb"):
        raise ValueError(f"color: found {option.color!r}, expected 'rgb' for two views of six channels")
    gt = open_ground_truth(option, option.dataroot_gt)
    views = [
        open_low_quality(option, gt, root, key)
        for root, key in ((option.dataroot_lqL, "dataroot_lqL"), (option.dataroot_lqR, "dataroot_lqR"))
    ]
    return ImagePairs(gt, StoredLQ(views, scale), gt.names, scale, conversion(option))
