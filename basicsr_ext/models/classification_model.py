"""Classification: images in, one of several classes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field
from typing_extensions import override

from ..config import Options, Problem, Train
from ..config.facts import Facts
from ..config.values import Expect, NonNegativeFloat, Probability, show
from . import MODELS
from .model_kind import Judgement, ModelKind, Networks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

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
        baselines = {"nearest_mean": self._statistics(item["guess"][0], label)} if "guess" in item else {}
        return Judgement(self._statistics(scores, label), baselines)

    def _statistics(self, scores: torch.Tensor, label: torch.Tensor) -> dict[str, Any]:
        return {name: metric.statistic(scores, label) for name, metric in self._metrics.items()}
