"""Few-shot segmentation: a support image with its mask and a query image in, the query's mask out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from typing_extensions import override

from ..config import Options, Problem, Train
from ..config.facts import Facts
from ..config.values import NonNegativeFloat, PositiveFloat, show
from . import MODELS
from .model_kind import Judgement, ModelKind, Networks

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

_AT_ONCE = 8
"""Query slices that are segmented together in an evaluation."""
_PANELS = ("support", "query and truth", "prediction on top")


class FewShotTrain(Train):
    """``train`` of few-shot segmentation; defaults are those of CAT-Net's release."""

    background_weight: PositiveFloat = Field(
        default=0.1, description="Weight of the query's background pixels in the loss."
    )
    foreground_weight: PositiveFloat = Field(default=1.0, description="Weight of its foreground pixels.")
    align_weight: NonNegativeFloat = Field(
        default=1.0, description="Weight of the loss of segmenting the support by the query's prediction."
    )


class FewShotOptions(Options):
    """A run of few-shot segmentation."""

    restores_images: ClassVar[bool] = False

    train: FewShotTrain | None = None  # pyright: ignore[reportIncompatibleVariableOverride]

    @classmethod
    @override
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        yield from super().relations(facts, key)
        if facts.get("scale", 1) != 1:
            yield Problem("scale", show(facts.get("scale")), "1, as masks have the image's size", "delete it")


@MODELS.register("FewShotModel")
class FewShotModel(ModelKind[FewShotOptions]):
    """Networks that answer as :class:`basicsr_ext.archs.catnet_arch.CATNetOutput` says.

    Training batches hold ``support_images`` (B, S, 3, H, W), ``support_masks`` (B, S, H, W), ``query_images``
    (B, 3, H, W) and ``query_masks`` (B, H, W). Evaluation items are those of
    :class:`basicsr_ext.data.episodes.QuerySet`. The baseline ``support_mask`` copies the support's mask.
    """

    Options = FewShotOptions
    memory_advice = "out of memory; lower the data set's side"

    @override
    def losses(
        self, phase: str, networks: Networks, batch: Mapping[str, Any], earlier: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Return ``l_query``, the mean over all of a network's predictions, and ``l_align``."""
        train = self.options.train
        assert train is not None, "training needs a train section"
        support_masks = batch["support_masks"]
        output = networks["net_g"](batch["support_images"], support_masks, batch["query_images"])
        weights = train.background_weight, train.foreground_weight
        query = pixel_loss(output.query_logits, batch["query_masks"][:, None], *weights)
        found = {"l_query": query.mean()}
        if train.align_weight:
            aligned = pixel_loss(output.support_logits, support_masks).mean(1) * output.alignable
            found["l_align"] = train.align_weight * aligned.mean()
        return found

    @override
    def evaluate(
        self, networks: Mapping[str, nn.Module], item: Mapping[str, Any], dataset: str, index: int, draw: bool
    ) -> Judgement:
        label, organ = item["label"][0], item["organ"]
        found = self._segmented(networks["net_g"], item, (label.shape[1], label.shape[2]))
        target = (organ, label)
        baselines = {"support_mask": self.statistics(item["copy"][0], target)}
        masks = {
            f"{self.name_of(item)}/{number:03}": mask
            for number, mask in zip(
                item["slices"][0].tolist(), found.byte().mul(255).cpu().numpy(), strict=True
            )
        }
        pictures = {self.name_of(item): _drawn(item, found)} if draw else {}
        return Judgement(self.statistics(found, target), baselines, pictures, masks, _PANELS)

    def _segmented(self, network: nn.Module, item: Mapping[str, Any], size: tuple[int, int]) -> torch.Tensor:
        """Return where the network sees the organ in each query slice, (n, *size) bool."""
        import torch
        from torch.nn.functional import interpolate

        queries, part = item["query_images"][0], item["part"][0]
        images, masks = item["support_images"][0], item["support_masks"][0]
        found = []
        for chosen, support in zip(queries.split(_AT_ONCE), part.split(_AT_ONCE), strict=True):
            logits = network(images[support], masks[support], chosen).query_logits[:, -1].float()
            if logits.shape[2:] != size:
                logits = interpolate(logits, size, mode="bilinear")
            found.append(logits[:, 1] > logits[:, 0])  # ties are background
        return torch.cat(found)


def _drawn(item: Mapping[str, Any], found: Tensor) -> np.ndarray:
    """Return the middle slice of each part, its first support slice on the left, with contours."""
    import torch
    from torch.nn.functional import interpolate

    from ..inference import comparison
    from ..inference.contours import PREDICTION, TRUTH, with_contours

    part, size = item["part"][0].cpu(), (found.shape[1], found.shape[2])
    middle = torch.stack([(part == p).nonzero().median() for p in part.unique()])
    support, support_masks = (item[key][0][part[middle], 0] for key in ("support_images", "support_masks"))
    query, truth = item["query_images"][0][middle], item["label"][0][middle]

    def slices(images: Tensor) -> np.ndarray:
        return interpolate(images[:, :1], size, mode="bilinear")[:, 0].cpu().numpy()

    on_support = interpolate(support_masks[:, None], size)[:, 0].cpu().numpy(), TRUTH
    on_query = (truth.cpu().numpy(), TRUTH), (found[middle].cpu().numpy(), PREDICTION)
    panels = (
        with_contours(slices(support), on_support),
        with_contours(slices(query), *on_query[:1]),
        with_contours(slices(query), *on_query),
    )
    return comparison(dict(zip(_PANELS, panels, strict=True)), side=max(panels[0].shape))


def pixel_loss(logits: Tensor, masks: Tensor, background: float = 1.0, foreground: float = 1.0) -> Tensor:
    """Return the weighted mean over pixels of the negative log likelihood, (…).

    The same to the bit each time, unlike torch's cross entropy of images on a GPU.

    Args:
        logits: (…, 2, H, W).
        masks: (…, H, W), 1 is foreground; broadcast against ``logits``.
        background: weight of background pixels.
        foreground: weight of the others.
    """
    import torch

    log_likelihood = logits.float().log_softmax(-3)
    there = masks == 1
    likelihood = torch.where(there, log_likelihood[..., 1, :, :], log_likelihood[..., 0, :, :])
    weights = torch.where(there, foreground, background).to(likelihood.dtype)
    return -(weights * likelihood).sum((-2, -1)) / weights.sum((-2, -1))
