"""``FewShotVolumes`` and ``PhantomVolumes``: episodes for few-shot segmentation, from files or made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ..config import LoaderKeys
from ..config.paths import VolumeRoot
from ..config.values import Expect, NonNegativeFloat, PositiveFloat, PositiveInt
from ..files import user_path
from . import DATASETS
from .mapped_volumes import MappedVolumes
from .phantoms import ORGANS, PhantomSource
from .sections import CacheMode, DatasetSection
from .volumes import Kind, NiftiVolumes, VolumeSource, fold_of

if TYPE_CHECKING:
    from .episodes import Distortion
    from .samples import EvalSet, TrainSet

Index = Annotated[int, Field(ge=0), Expect("a whole number from 0 up", "whole numbers from 0 up")]
Range = Annotated[
    list[PositiveFloat], Field(min_length=2, max_length=2), Expect("two positive numbers", "pairs of numbers")
]
Shape = Annotated[
    list[Annotated[int, Field(ge=2), Expect("2 or more", "numbers from 2 up")]],
    Field(min_length=3, max_length=3),
    Expect("slices, rows and columns, each 2 or more", "triples of numbers"),
]


class EpisodeKeys(LoaderKeys):
    """What training sets of episodes take besides; defaults are CAT-Net's release's."""

    shots: PositiveInt = Field(
        default=1, description="Support slices of an episode, neighbours of each other and of the query."
    )
    min_size: PositiveInt = Field(
        default=200, description="Pixels that a supervoxel covers in one of an episode's slices at least."
    )
    gamma: Range = Field(default=[0.5, 1.5], description="Exponent on the brightness of support or query.")
    rotate: NonNegativeFloat = Field(default=5.0, description="Degrees that one slice turns by at most.")
    shift: NonNegativeFloat = Field(default=5.0, description="Pixels that it moves by at most.")
    shear: NonNegativeFloat = Field(default=5.0, description="Degrees that it is sheared by at most.")
    zoom: Range = Field(default=[0.9, 1.2], description="Factor that it is enlarged by.")
    elastic_alpha: NonNegativeFloat = Field(
        default=10.0, description="Strength of its elastic change, in pixels; 0: none."
    )
    elastic_sigma: PositiveFloat = Field(default=5.0, description="Smoothness of that, in pixels.")
    exclude: list[str] = Field(
        default_factory=list, description="Classes that training must not see: slices are left out."
    )
    exclude_rule: Literal["all", "any"] = Field(
        default="all", description="Leave out slices that show 'all' of them at once, or 'any'."
    )

    @property
    def distortion(self) -> Distortion:
        """How slices are changed."""
        from .episodes import Distortion

        return Distortion(
            (self.gamma[0], self.gamma[1]),
            self.rotate,
            self.shift,
            self.shear,
            (self.zoom[0], self.zoom[1]),
            self.elastic_alpha,
            self.elastic_sigma,
        )


class FewShotSection(DatasetSection):
    """Keys that every data set of volumes takes."""

    training_keys: ClassVar[Any] = EpisodeKeys

    organs: list[str] | None = Field(default=None, description="Evaluation: classes; default: all.")
    support: Index | Annotated[list[Index], Field(min_length=1)] = Field(
        default=0, description="Evaluation: which volume of the set is the support; several: a shot of each."
    )
    parts: PositiveInt = Field(
        default=3, description="Evaluation: support slices, each for a part of a query."
    )
    query_range: Literal["label", "volume"] = Field(
        default="label",
        description="Evaluation: segment what shows the class by the query's 'label', as published, "
        "or, knowing nothing, the whole 'volume' by the support's middle slice.",
    )
    side: PositiveInt | None = Field(default=None, description="Evaluation: slices are resized to this side.")

    def class_names(self) -> list[str]:
        """Return what the label values 1, 2, … mean."""
        raise NotImplementedError

    def volumes(self, training: bool, whatever: bool = False) -> tuple[VolumeSource, list[int]]:
        """Return the volumes, and the numbers of those that count.

        Args:
            training: those to train on.
            whatever: of files, too, that are missing or do not fit together; as they are, without a cache.

        Raises:
            ValueError: files are missing or do not fit together.
        """
        raise NotImplementedError

    @override
    def train_set(self, scale: int, seed: int) -> TrainSet:
        from .episodes import EpisodeSet, Exclusion

        assert isinstance(self, EpisodeKeys), "a training set has its keys"
        exclusion = Exclusion(tuple(self._values("exclude", self.exclude).values()), self.exclude_rule)
        volumes = self.volumes(training=True)
        return EpisodeSet(*volumes, self.distortion, self.min_size, exclusion, seed, self.shots)  # pyright: ignore[reportReturnType]

    @override
    def eval_set(self, scale: int) -> EvalSet:
        from .episodes import QuerySet

        organs = self._values("organs", self.class_names() if self.organs is None else self.organs)
        supports = self.support if isinstance(self.support, list) else [self.support]
        whole = self.query_range == "volume"
        return QuerySet(*self.volumes(training=False), supports, organs, self.side, self.parts, whole)  # pyright: ignore[reportReturnType]

    def _values(self, key: str, names: list[str]) -> dict[str, int]:
        known = self.class_names()
        for name in names:
            if name not in known:
                raise ValueError(f"{key}: found {name!r}, expected one of {', '.join(known)}")
        return {name: known.index(name) + 1 for name in names}


@DATASETS.register("FewShotVolumes")
class FewShotVolumes(FewShotSection):
    """A folder of ``image_<id>.nii.gz`` with ``label_<id>.nii.gz``, and with supervoxels to train on."""

    dataroot: VolumeRoot = Field(description="Folder with the images and labels.")
    supervoxels: str = Field(
        default="supervoxels_5000", description="Training: its sub-folder with super*_<id>.nii.gz."
    )
    classes: list[str] = Field(min_length=1, description="What the label values 1, 2, … are called.")
    fold: Index | None = Field(
        default=None,
        description="Fold of the cross-validation: evaluated are its volumes, trained on are all others. "
        "Default: all volumes for both.",
    )
    cache: CacheMode = Field(
        default="none",
        description="Keep voxels in files beside the volumes, made on first use, of which processes read "
        "slices and share the memory.",
    )
    folds: Annotated[int, Field(ge=2), Expect("2 or more", "numbers from 2 up")] = Field(
        default=5, description="Number of folds; neighbours share a volume."
    )

    @override
    def class_names(self) -> list[str]:
        return self.classes

    @override
    def volumes(self, training: bool, whatever: bool = False) -> tuple[VolumeSource, list[int]]:
        labels = not training or (isinstance(self, EpisodeKeys) and bool(self.exclude))
        kinds: list[Kind] = ["image"]
        if labels:
            kinds.append("label")
        if training:
            kinds.append("supervoxels")
        source: VolumeSource = NiftiVolumes(self.dataroot, kinds, self.supervoxels, whatever)
        if self.cache == "disk" and not whatever:
            source = MappedVolumes(source, user_path(self.dataroot))
        everything = list(range(len(source.names)))
        if self.fold is None:
            return source, everything
        tested = fold_of(len(everything), self.fold, self.folds)
        numbers = [number for number in everything if (number in tested) != training]
        if not numbers:
            raise ValueError(
                f"fold: {self.fold} of {self.folds} holds all {len(everything)} volumes, as neighbours "
                "share one; none is left to train on"
            )
        return source, numbers


@DATASETS.register("PhantomVolumes")
class PhantomVolumes(FewShotSection):
    """Made abdomens with liver, kidneys and spleen: nothing to download."""

    split: Literal["train", "val"] = Field(default="train", description="Other patients for each.")
    patients: PositiveInt = Field(default=8, description="How many.")
    shape: Shape = Field(default=[24, 96, 96], description="Slices, rows and columns.")
    phantom_seed: Index = Field(default=0, description="Decides all patients.")
    supervoxel_size: PositiveInt = Field(default=1000, description="Voxels of a supervoxel, at least.")

    @override
    def class_names(self) -> list[str]:
        return list(ORGANS)

    @override
    def volumes(self, training: bool, whatever: bool = False) -> tuple[VolumeSource, list[int]]:
        # Even numbers train, odd ones validate.
        numbers = [2 * patient + (self.split == "val") for patient in range(self.patients)]
        source = PhantomSource(self.phantom_seed, numbers, self.shape, self.supervoxel_size)
        return source, list(range(self.patients))
