"""``ImageFolder``: images with classes, a folder each, as torchvision's data set of that name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ..config import LoaderKeys, Problem, Section
from ..config.paths import ImageRoot
from ..config.values import (
    Expect,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Probability,
)
from . import DATASETS
from .opening import open_source
from .sections import DatasetSection

if TYPE_CHECKING:
    from .classes import Augmentation
    from .samples import EvalSet, TrainSet

Channels = Annotated[list[FiniteFloat], Field(min_length=3, max_length=3), Expect("three numbers", "triples")]
Range = Annotated[
    list[PositiveFloat], Field(min_length=2, max_length=2), Expect("two positive numbers", "pairs of numbers")
]


class RandAugmentKeys(Section):
    """RandAugment (arXiv:1909.13719), as torchvision has it."""

    num_ops: PositiveInt = Field(default=2, description="Operations an image.")
    magnitude: Annotated[int, Field(ge=0, le=30), Expect("0 to 30", "magnitudes")] = Field(
        default=9, description="Strength of all operations, 0 to 30."
    )


class AugmentationKeys(LoaderKeys):
    """What training sets of images with classes take besides."""

    crop_scale: Range = Field(default=[0.08, 1.0], description="Area of the random crop over the image's.")
    crop_ratio: Range = Field(default=[0.75, 4 / 3], description="Width over height of the random crop.")
    hflip: Probability = Field(default=0.5, description="Probability of a horizontal flip.")
    rand_augment: RandAugmentKeys | None = Field(default=None, description="Random operations on the crop.")
    color_jitter: NonNegativeFloat = Field(default=0.0, description="Of brightness, contrast, saturation.")
    random_erasing: Probability = Field(
        default=0.0, description="Probability that a part is replaced by noise (arXiv:1708.04896)."
    )


class ClassSection(DatasetSection):
    """Keys that every data set of images with classes takes."""

    training_keys: ClassVar[Any] = AugmentationKeys
    grey: ClassVar[bool] = False
    """Whether its images are grey, so that colour has to be taken from others before a network sees them."""

    interpolation: Literal["bicubic", "bilinear"] = Field(
        default="bicubic", description="Of resizing, with antialiasing."
    )
    mean: Channels = Field(
        default=[0.485, 0.456, 0.406], description="Subtracted per channel from values in 0..1."
    )
    std: Channels = Field(default=[0.229, 0.224, 0.225], description="Divides per channel after that.")
    resize: PositiveInt = Field(default=256, description="Evaluation: shorter side before the centre crop.")
    size: PositiveInt = Field(default=224, description="Evaluation: side of the centre crop.")
    batch_size: PositiveInt = Field(default=32, description="Evaluation: images that are run together.")
    num_worker_per_gpu: NonNegativeInt = Field(default=4, description="Loader processes per rank; 0: none.")

    @property
    def augmentation(self) -> Augmentation:
        """How images become tensors; of training images all of it counts."""
        from .classes import Augmentation

        everywhere: dict[str, Any] = {
            "interpolation": self.interpolation,
            "mean": tuple(self.mean),
            "std": tuple(self.std),
        }
        if not isinstance(self, AugmentationKeys):
            return Augmentation(**everywhere)
        random = self.rand_augment
        return Augmentation(
            crop_scale=(self.crop_scale[0], self.crop_scale[1]),
            crop_ratio=(self.crop_ratio[0], self.crop_ratio[1]),
            hflip=self.hflip,
            rand_augment=None if random is None else (random.num_ops, random.magnitude),
            color_jitter=self.color_jitter,
            erasing=self.random_erasing,
            **everywhere,
        )


@DATASETS.register("ImageFolder")
class ImageFolder(ClassSection):
    """Images with classes: a folder of images for each class, or a store made of such folders."""

    dataroot: ImageRoot = Field(description="Folder with a folder a class, or a .store or .lmdb made of one.")
    classes: list[str] | None = Field(
        default=None,
        description="Names of the classes in their order; default: all, sorted.",
    )

    def _open(self) -> tuple[Any, list[int], list[str]]:
        """Return the images, the class of each and the names of the classes.

        Raises:
            ValueError: an image lies outside of the classes' folders.
        """
        source = open_source(self.dataroot, "dataroot")
        folders = [name.partition("/")[0] if "/" in name else "" for name in source.names]
        classes = self.classes or sorted(set(folders))
        strangers = sorted(set(folders) - set(classes))
        if "" in folders:
            found = f"{self.dataroot} holds {source.names[folders.index('')]!r} itself"
            raise ValueError(f"dataroot: {found}; a folder for each class was expected")
        if strangers:
            raise ValueError(f"dataroot: {self.dataroot} holds {strangers[0]!r}, which classes does not name")
        position = {name: number for number, name in enumerate(classes)}
        return source, [position[folder] for folder in folders], classes

    @override
    def train_set(self, scale: int, seed: int) -> TrainSet:
        from .classes import ClassTrainSet

        return ClassTrainSet(*self._open(), self.augmentation, seed)  # pyright: ignore[reportReturnType]

    @override
    def eval_set(self, scale: int) -> EvalSet:
        from .classes import ClassEvalSet

        options = self.augmentation, self.resize, self.size, self.batch_size, self.num_worker_per_gpu
        return ClassEvalSet(*self._open(), *options)  # pyright: ignore[reportReturnType]

    @override
    def problems(self, dataset: Any, key: str, largest_gt_size: int = 1) -> list[Problem]:
        if len(dataset.classes) < 2:
            found = f"{self.dataroot!r} with the one class {dataset.classes[0]!r}"
            return [Problem(f"{key}.dataroot", found, "a folder for each of several classes")]
        return []
