"""Classification: images in, one of several classes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import override

from ..config import Options, Problem, Train
from ..config.facts import Facts
from ..config.values import Expect, NonNegativeFloat, Probability, show
from ..data.image_folder_dataset import ClassSection
from ..data.images import grey
from . import MODELS
from .model_kind import Judgement, ModelKind, Networks

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..data.samples import TrainSet
    from ..inference.pictures import Picture
    from ..inference.reading import PictureReader, Reading

_LIKELIEST = 5
"""Classes that are named for a picture."""

Smoothing = Annotated[
    float, Field(ge=0, lt=1), Expect("a number from 0 to less than 1", "numbers from 0 to less than 1")
]


class ClassificationTrain(Train):
    """``train`` of classification; names as in timm's and Swin's configurations."""

    label_smoothing: Smoothing = Field(
        default=0.0, description="Probability that is shared by all classes, whatever the label."
    )
    mixup: NonNegativeFloat = Field(default=0.0, description="MixUp: parameter of its Beta; 0: none.")
    cutmix: NonNegativeFloat = Field(default=0.0, description="CutMix: parameter of its Beta; 0: none.")
    mixup_switch_prob: Probability = Field(
        default=0.5, description="Probability of CutMix for a batch where there are both."
    )


class ClassificationOptions(Options):
    """A run of classification."""

    restores_images: ClassVar[bool] = False

    train: ClassificationTrain | None = None  # pyright: ignore[reportIncompatibleVariableOverride]

    @classmethod
    @override
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        yield from super().relations(facts, key)
        if facts.get("scale", 1) != 1:
            yield Problem("scale", show(facts.get("scale")), "1, as classes have no size", "delete the key")


@MODELS.register("ClassificationModel")
class ClassificationModel(ModelKind[ClassificationOptions]):
    """Cross entropy between the network's logits (N, classes) and labels.

    Training batches hold ``image`` (N, 3, H, W), normalised, ``label`` (N, classes), probabilities, and
    ``k``, the samples' numbers. Evaluation items hold several images, (1, n, 3, H, W), and their classes,
    (1, n); also ``guess`` (1, n, classes), if there is a simple method to compare with.
    """

    Options = ClassificationOptions
    memory_advice = "out of memory; lower the data set's batch_size"

    @override
    def start_training(self) -> None:
        from ..data.classes import batch_mixer

        train = self.options.train
        assert train is not None, "training needs a train section"
        self._smoothing = train.label_smoothing
        mixes = train.mixup or train.cutmix
        self._mix = batch_mixer(train.mixup, train.cutmix, train.mixup_switch_prob) if mixes else None

    @override
    def losses(
        self, phase: str, networks: Networks, batch: Mapping[str, Any], earlier: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Return ``l_cls``.

        Raises:
            ValueError: the network has another number of classes than the data set.
        """
        from torch.nn.functional import cross_entropy

        image, label = batch["image"], batch["label"]
        if self._mix is not None:
            image, label = self._mix(image, label, self.options.manual_seed, int(batch["k"][0]))
        logits = networks["net_g"](image)
        if logits.shape != label.shape:
            raise ValueError(
                f"network_g gives {logits.shape[-1]} classes, the data set has {label.shape[-1]}: "
                "set network_g.num_classes"
            )
        return {"l_cls": cross_entropy(logits.float(), label, label_smoothing=self._smoothing)}

    @override
    def evaluate(
        self, networks: Mapping[str, nn.Module], item: Mapping[str, Any], dataset: str, index: int, draw: bool
    ) -> Judgement:
        image, label = item["image"][0], item["label"][0]
        scores = networks["net_g"](image)
        if int(label.max()) >= scores.shape[1]:
            raise ValueError(f"network_g gives {scores.shape[1]} classes, {dataset} has more")
        baselines = {"nearest_mean": self.statistics(item["guess"][0], label)} if "guess" in item else {}
        return Judgement(self.statistics(scores, label), baselines)

    @override
    @classmethod
    def reading_notes(
        cls, options: ClassificationOptions, train_set: TrainSet | None = None
    ) -> Mapping[str, Any]:
        """Return the :class:`Seeing` of the first evaluation set, with the names of the classes."""
        data = options.datasets
        sets = [*data.evaluation("val").values(), *data.evaluation("test").values(), data.train]
        sections = [section for section in sets if isinstance(section, ClassSection)]
        if not sections:
            return {}
        shown = sections[0]
        return asdict(
            Seeing(
                resize=shown.resize,
                size=shown.size,
                interpolation=shown.interpolation,
                mean=shown.mean,
                std=shown.std,
                grey=shown.grey,
                classes=_class_names(sections[-1], train_set),
            )
        )

    @override
    @classmethod
    def reader(cls, network: nn.Module, notes: Mapping[str, Any]) -> PictureReader:
        if not notes:
            raise ValueError("nothing says how its images were prepared")
        return ClassReader(network, Seeing(**notes))


def _class_names(section: ClassSection, train_set: TrainSet | None) -> list[str]:
    """Return the names of the classes that a network is trained on; none if its images are not there."""
    try:
        opened: Any = section.eval_set(1) if train_set is None else train_set
    except (OSError, ValueError):
        return []
    # A set that replaces bad samples holds the one with the names.
    return list(getattr(getattr(opened, "dataset", opened), "classes", ()))


@dataclass(frozen=True)
class Seeing:
    """How a picture is given to a network, as the keys of a data set say, and what its classes are called.

    Attributes:
        grey: reduce colour to grey first.
        classes: names in order; empty: not known.
    """

    resize: int
    size: int
    interpolation: str
    mean: Sequence[float]
    std: Sequence[float]
    grey: bool = False
    classes: Sequence[str] = ()


class ClassReader:
    """Names the likeliest classes of pictures, with their probabilities.

    A row has ``label_0`` and ``probability_0`` of the likeliest class, and so on. Classes without names are
    numbers, counted from 0.
    """

    def __init__(self, network: nn.Module, seeing: Seeing) -> None:
        from ..data.classes import Augmentation

        self._network, self._seeing = network, seeing
        self._how = Augmentation(
            interpolation=seeing.interpolation, mean=tuple(seeing.mean), std=tuple(seeing.std)
        )

    def prepare(self, picture: Picture) -> np.ndarray:
        """Return the centre crop (3, size, size) as float32, normalised; transparency is not seen."""
        from ..data.classes import centre_crop, normalised

        pixels = grey(picture.pixels) if self._seeing.grey and not picture.is_grey else picture.pixels
        crop = centre_crop(pixels, self._seeing.resize, self._seeing.size, self._how)
        return normalised(crop, self._how).numpy()

    def read(self, batch: Tensor) -> list[Reading]:
        """Return the likeliest classes of images (N, 3, size, size)."""
        shares = self._network(batch).double().softmax(1)
        probabilities, numbers = shares.topk(min(_LIKELIEST, shares.shape[1]), dim=1)
        names = self._seeing.classes
        if len(names) != shares.shape[1]:
            names = [str(number) for number in range(shares.shape[1])]
        return [
            _reading([(names[int(number)], probability) for number, probability in zip(*row, strict=True)])
            for row in zip(numbers.tolist(), probabilities.tolist(), strict=True)
        ]


def _reading(likeliest: Sequence[tuple[str, float]]) -> Reading:
    from ..inference.reading import Reading

    row: dict[str, str | float] = {}
    for place, (name, probability) in enumerate(likeliest):
        row |= {f"label_{place}": name, f"probability_{place}": round(probability, 6)}
    return Reading(", ".join(f"{name} {probability:.1%}" for name, probability in likeliest), row)
