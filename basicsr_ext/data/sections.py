"""Option sections of data sets: the keys that those of images share, and how they become data sets.

A data set type is one file: a section registered in :data:`~basicsr_ext.registry.DATASETS` that derives from
:class:`DatasetSection`, or for pairs of images from :class:`ImageSection`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field
from typing_extensions import override

from ..config import DatasetOptions, LoaderKeys, Problem, Section
from ..config.paths import ImageFolder, MetaInfoFile
from ..config.sections import metadata_of
from ..config.values import Expect, FiniteFloat, NonNegativeInt, PositiveInt
from .cache import cached
from .databases import LmdbSource
from .folder_index import measured
from .opening import match, open_source, select
from .pairs import ImagePairs
from .sampling import Purpose, sample_rng
from .sources import StoredSource
from .transforms import Color, Conversion

if TYPE_CHECKING:
    from .samples import EvalSet, TrainSet

LOG = logging.getLogger("basicsr_ext")

FileNameTemplate = Annotated[
    str, Field(pattern=r"\{\}"), Expect("a file name with {} in it", "file names with {} in them")
]
CacheMode = Annotated[
    Literal["none", "disk"],
    Expect("'none' or 'disk', which stays in memory once read (scripts/make_store.py packs ahead)", "modes"),
]

OnSmallImage = Literal["pad", "stop", "skip"]


class DatasetSection(DatasetOptions):
    """A registered data set's section; ``datasets.train`` has the keys of :attr:`training_keys` besides."""

    def train_set(self, scale: int, seed: int) -> TrainSet:
        """Build the training set; called only where the section has its keys for training.

        Args:
            scale: side of ground truth over side of low quality.
            seed: of the run.

        Raises:
            ValueError: a folder, file or pair is missing, or options contradict each other.
        """
        raise NotImplementedError(f"{self.type} cannot be trained with")

    def eval_set(self, scale: int) -> EvalSet:
        """Build an evaluation set.

        Raises:
            ValueError: a folder, file or pair is missing, or options contradict each other.
        """
        raise NotImplementedError(f"{self.type} cannot be evaluated with")

    def problems(self, dataset: Any, key: str, largest_gt_size: int = 1) -> list[Problem]:
        """Return what a run would stumble over later, as far as it can be found without decoding images.

        Args:
            dataset: made by this section.
            key: of the section in the option file.
            largest_gt_size: side of the largest stage's crop, in ground-truth pixels.
        """
        return []


class PatchKeys(LoaderKeys):
    """What training sets of image patches take besides."""

    use_hflip: bool = Field(default=True, description="Random horizontal flips.")
    use_rot: bool = Field(default=True, description="Random vertical flips and 90-degree rotations.")
    geometric_augs: bool | None = Field(
        default=None, description="Restormer's switch for flips and rotations together."
    )
    on_small_image: OnSmallImage | None = Field(
        default=None,
        description="An image smaller than the patch: 'pad' mirrors it at bottom and right, 'stop' takes it "
        "for a bad sample, 'skip' lets another one take its place. Default: as in the code that the type is "
        "from, 'pad' for Restormer's (Dataset_…), 'stop' for BasicSR's and ours.",
    )


class Subset(Section):
    """Some of a data set's images, drawn once and for all."""

    count: PositiveInt = Field(description="How many.")
    seed: NonNegativeInt = Field(
        default=0, description="Decides which; smaller subsets are part of larger ones."
    )


class IOBackend(Section):
    """Where image bytes come from."""

    type: Literal["disk", "lmdb"] = Field(default="disk", description="Files in folders, or BasicSR's LMDB.")


class ImageSection(DatasetSection):
    """Keys that every data set of image pairs takes."""

    training_keys: ClassVar[Any] = PatchKeys

    io_backend: IOBackend = IOBackend()
    cache: CacheMode = Field(
        default="none",
        description="Folders and LMDBs: keep decoded pixels in a store beside the images, made on first use.",
    )
    gt_size: int | None = Field(default=None, description="Accepted where no patches are cut.")
    filename_tmpl: FileNameTemplate = Field(
        default="{}", description="LQ file name for a GT base name, e.g. '{}x4'."
    )
    meta_info_file: MetaInfoFile | None = Field(
        default=None, description="Text file: one GT name (and shape) a line."
    )
    meta_info: MetaInfoFile | None = Field(default=None, description="Same as meta_info_file.")
    min_size: PositiveInt | None = Field(
        default=None,
        description="Leave out GT images with a side shorter than this, before range and subset choose.",
    )
    range: Annotated[list[NonNegativeInt], Expect("two whole numbers, [first, end]", "pairs")] | None = Field(
        default=None,
        min_length=2,
        max_length=2,
        description="Images from the first number to before the second, in order of their names.",
    )
    subset: Subset | None = Field(default=None, description="Some of the images, at random.")
    color: Color | None = Field(
        default=None,
        description="One channel: 'gray' (OpenCV's), 'matlab_gray' (MATLAB's Y, rounded; for colour files) "
        "before LQ is made, 'y' (MATLAB's Y, unrounded) after.",
    )
    mean: list[FiniteFloat] | None = Field(
        default=None, description="Subtracted per channel after scaling to 0..1."
    )
    std: list[FiniteFloat] | None = Field(
        default=None, description="Divides per channel after the mean is subtracted."
    )

    def pairs(self, scale: int) -> ImagePairs:
        """Open the images.

        Raises:
            ValueError: a folder, file or pair is missing, or options contradict each other.
        """
        raise NotImplementedError

    @override
    def train_set(self, scale: int, seed: int) -> TrainSet:

        return self.train_set_of(self.pairs(scale), seed)

    def train_set_of(self, pairs: ImagePairs, seed: int) -> TrainSet:
        """Build the training set of pairs, perhaps other ones than the section's own."""
        from .datasets import TrainPairs

        assert isinstance(self, PatchKeys), "a training set has its keys"
        both = self.geometric_augs
        return TrainPairs(
            pairs,
            seed,
            hflip=self.use_hflip if both is None else both,
            rotate=self.use_rot if both is None else both,
            pad=self.small_images == "pad",
        )

    @override
    def eval_set(self, scale: int) -> EvalSet:
        from .datasets import EvalPairs

        return EvalPairs(self.pairs(scale))

    @override
    def problems(self, dataset: Any, key: str, largest_gt_size: int = 1) -> list[Problem]:
        from .datasets import check_sizes

        return check_sizes(dataset, largest_gt_size, key, self.small_images)

    @property
    def small_images(self) -> OnSmallImage:
        """What becomes of images that are smaller than a patch."""
        given = self.on_small_image if isinstance(self, PatchKeys) else None
        return given or ("pad" if self.type.startswith("Dataset_") else "stop")

    def roots(self) -> dict[str, str]:
        """Return the folders that are given, by key; ground truth comes first."""
        keys = [
            key
            for key, field in type(self).model_fields.items()
            if any(isinstance(item, ImageFolder) for item in metadata_of(field.rebuild_annotation()))
        ]
        return {key: root for key in keys if (root := getattr(self, key)) is not None}

    @property
    def conversion(self) -> Conversion:
        """From images to arrays, as the colour and normalisation keys say."""
        return Conversion(self.color, self.mean, self.std)

    def open_ground_truth(self, root: str, key: str = "dataroot_gt") -> StoredSource:
        """Open a folder, LMDB or store, reduced to what the meta-info file lists, and cached.

        Raises:
            ValueError: nothing there, ``io_backend`` says LMDB and it is none, or no place for the cache.
        """
        source = open_source(root, key)
        if self.io_backend.type == "lmdb" and not isinstance(source, LmdbSource):
            raise ValueError(f"{key}: io_backend is lmdb, but {root} does not end in .lmdb")
        listed = self.meta_info_file or self.meta_info
        if listed:
            source = select(source, listed, "meta_info_file")
        return measured(cached(self.chosen(source), self.cache))

    def chosen(self, source: StoredSource) -> StoredSource:
        """Return the images that ``min_size``, ``range`` and ``subset`` leave.

        Raises:
            ValueError: there are fewer than they ask for.
        """
        if self.min_size is not None:
            source = measured(source)
            shorter = source.recorded_sizes().min(axis=1)
            # What cannot be read is not small: whoever checks the set says so.
            large = np.flatnonzero((shorter >= self.min_size) | (shorter < 1))
            LOG.info(
                "%d of %d images of %s are left out by min_size: %d",
                len(source) - len(large),
                len(source),
                source.folder,
                self.min_size,
            )
            if not len(large):
                raise ValueError(
                    f"min_size: all {len(source)} images are smaller than {self.min_size} pixels"
                )
            source = source.take(large.tolist())
        if self.range is not None:
            first, end = self.range
            if not first < end <= len(source):
                raise ValueError(f"range: {self.range} does not lie within the {len(source)} images")
            source = source.take(range(first, end))
        if self.subset is not None:
            if self.subset.count > len(source):
                raise ValueError(f"subset: {self.subset.count} of {len(source)} images cannot be drawn")
            order = sample_rng(self.subset.seed, 0, Purpose.ORDER).permutation(len(source))
            source = source.take(sorted(order[: self.subset.count].tolist()))
        return source

    def open_low_quality(self, gt: StoredSource, root: str, key: str) -> StoredSource:
        """Open the partners of ``gt``, in its order, and cached.

        Raises:
            ValueError: nothing there, images without partner, or no place for the cache.
        """
        # A meta-info file chooses from the ground truth; what it leaves out has partners all the same.
        chosen = bool(self.meta_info_file or self.meta_info or self.min_size or self.range or self.subset)
        lq = match(gt, open_source(root, key), self.filename_tmpl, key, allow_extra=chosen)
        return measured(cached(lq, self.cache))
