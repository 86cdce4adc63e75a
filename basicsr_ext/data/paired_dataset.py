"""``PairedImageDataset`` and Restormer's ``Dataset_PairedImage``: stored pairs, or ground truth alone."""

from __future__ import annotations

from ..config.schema import ImageSource as ImageSourceKeys
from ..config.schema import PairedKeys
from . import DATASETS
from .cache import cached
from .databases import LmdbSource
from .degradations import degraded_pairs
from .opening import match, open_source, select
from .pairs import ImagePairs, StoredLQ
from .sources import StoredSource
from .transforms import Conversion


def open_ground_truth(option: ImageSourceKeys, root: str, key: str = "dataroot_gt") -> StoredSource:
    """Open a folder, LMDB or store, reduced to what the option's meta-info file lists, and cached.

    Raises:
        ValueError: nothing there, ``io_backend`` says LMDB and it is none, or no place for the cache.
    """
    source = open_source(root, key)
    if option.io_backend.type == "lmdb" and not isinstance(source, LmdbSource):
        raise ValueError(f"{key}: io_backend is lmdb, but {root} does not end in .lmdb")
    listed = option.meta_info_file or option.meta_info
    return cached(select(source, listed, "meta_info_file") if listed else source, option.cache)


def open_low_quality(option: ImageSourceKeys, gt: StoredSource, root: str, key: str) -> StoredSource:
    """Open the partners of ``gt``, in its order, and cached.

    Raises:
        ValueError: nothing there, images without partner, or no place for the cache.
    """
    # A meta-info file chooses from the ground truth; what it leaves out has partners all the same.
    chosen = bool(option.meta_info_file or option.meta_info)
    return cached(
        match(gt, open_source(root, key), option.filename_tmpl, key, allow_extra=chosen), option.cache
    )


def conversion(option: ImageSourceKeys) -> Conversion:
    """Return the conversion that the option's colour and normalisation keys describe."""
    return Conversion(option.color, option.mean, option.std)


@DATASETS.register("PairedImageDataset", "Dataset_PairedImage")
def paired_images(option: PairedKeys, scale: int) -> ImagePairs:
    """Pair stored images by name; without a low-quality folder make low quality of the ground truth.

    Raises:
        ValueError: images without partner, or degradation steps beside a folder.
    """
    gt = open_ground_truth(option, option.dataroot_gt)
    if option.dataroot_lq is None:
        return degraded_pairs(gt, option.degradation, scale, conversion(option))
    if option.degradation:
        raise ValueError("degradation: low quality is either made or read from dataroot_lq, not both")
    lq = StoredLQ([open_low_quality(option, gt, option.dataroot_lq, "dataroot_lq")], scale)
    return ImagePairs(gt, lq, gt.names, scale, conversion(option))
