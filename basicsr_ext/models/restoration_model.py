"""Supervised restoration: a low-quality image in, its ground truth as target.

What computes is imported where it is used: option files are checked against the sections below before torch
is imported.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field
from typing_extensions import override

from ..archs import pixel_range
from ..config import Options, Problem, Section, Spec, Train, Val
from ..config.facts import Facts
from ..config.protocols import PROTOCOLS, check_protocol
from ..config.sections import ConstructedBy, Named
from ..config.values import NonNegativeInt, PositiveFloat, PositiveInt, show
from ..data.resize import upscale
from ..data.sampling import Purpose, sample_rng
from ..registry import LOSSES
from . import MODELS
from .model_kind import Judgement, ModelKind, Networks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

LOG = logging.getLogger("basicsr_ext")

LossSpec = Annotated[Spec, ConstructedBy(LOSSES, tried=True)]


class MixingAugs(Section):
    """Restormer's batch mixing."""

    mixup: bool = Field(default=False, description="Blend every pair of a batch with another one of it.")
    mixup_beta: PositiveFloat = Field(
        default=1.2, description="Both parameters of the Beta distribution of lambda."
    )
    use_identity: bool = Field(default=True, description="Leave half of the batches unmixed.")


class RestorationTrain(Train):
    """``train`` of supervised restoration."""

    losses: Annotated[dict[str, LossSpec], Named()] = Field(
        default_factory=dict,
        description="Losses between the restored image and the ground truth, by name; logged as l_<name>.",
    )
    pixel_opt: LossSpec | None = Field(default=None, description="BasicSR: the pixel loss, l_pix.")
    perceptual_opt: LossSpec | None = Field(
        default=None, description="BasicSR: the perceptual (and style) loss, l_percep (and l_style)."
    )
    fft_opt: LossSpec | None = Field(default=None, description="Forks of BasicSR: a loss of spectra, l_fft.")
    edge_opt: LossSpec | None = Field(default=None, description="Forks of BasicSR: a loss of edges, l_edge.")
    mixing_augs: MixingAugs = MixingAugs()

    def losses_by_name(self) -> dict[str, tuple[str, Spec]]:
        """Return dotted key and specification of every loss, by its name in logs without ``l_``."""
        spelled = {"pix": "pixel_opt", "percep": "perceptual_opt", "fft": "fft_opt", "edge": "edge_opt"}
        of_forks = {name: (f"train.{key}", getattr(self, key)) for name, key in spelled.items()}
        listed = {name: (f"train.losses.{name}", spec) for name, spec in self.losses.items()}
        return {name: loss for name, loss in {**of_forks, **listed}.items() if loss[1] is not None}

    @classmethod
    @override
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        yield from super().relations(facts, key)
        named = [
            name
            for name in ("pixel_opt", "perceptual_opt", "fft_opt", "edge_opt")
            if facts.written(f"{key}.{name}")
        ]
        if not named and not list(facts.keys(f"{key}.losses")) and facts.valid(f"{key}.losses"):
            yield Problem(
                key,
                "no loss",
                "pixel_opt, or losses by name",
                "add pixel_opt: {type: L1Loss, loss_weight: 1.0}",
            )
        for name in facts.get(f"{key}.losses", {}) or {}:
            if name in ("pix", "percep", "style", "fft", "edge"):
                yield Problem(
                    f"{key}.losses.{name}",
                    f"the name {name!r}",
                    "a name of your own",
                    "BasicSR's keys log under it",
                )


class RestorationVal(Val):
    """``val`` of supervised restoration."""

    window_size: NonNegativeInt | None = Field(
        default=None,
        description="Pad images to a multiple of this, for networks that do not pad themselves; 0: never.",
    )
    max_minibatch: PositiveInt | None = Field(
        default=None, description="Restormer's key; accepted, one image at a time is run."
    )
    rgb2bgr: bool = Field(
        default=True, description="Metrics see BGR images (what basicsr's Y conversion expects)."
    )
    use_image: bool = Field(
        default=True, description="Metrics see 8-bit images; false: both sides unrounded."
    )
    protocol: str | None = Field(
        default=None,
        description="A published test protocol, such as sr_x4: metrics, and what makes LQ of GT in every val "
        "and test set; docs/benchmarking.md lists them.",
        json_schema_extra={"enum": [*PROTOCOLS, None]},
    )
    self_ensemble: bool = Field(
        default=False,
        description="Average over the eight orientations of an image, at eight times the cost.",
    )
    tile: PositiveInt | None = Field(
        default=None, description="Run images in tiles of this side (LQ pixels)."
    )
    tile_overlap: NonNegativeInt = Field(default=32, description="Overlap of neighbouring tiles (LQ pixels).")

    @classmethod
    @override
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        yield from check_protocol("val.protocol", facts.get("val.protocol"))
        tile, overlap = facts.get("val.tile"), facts.get("val.tile_overlap", 32)
        if tile is not None and overlap is not None and overlap >= tile:
            yield Problem("val.tile_overlap", show(overlap), f"less than val.tile, which is {tile}")


class HATTiles(Section):
    """HAT's section for running images in tiles."""

    tile_size: PositiveInt = Field(description="Side of the part of the image that a tile is run for.")
    tile_pad: NonNegativeInt = Field(default=32, description="What a tile sees around it on each side.")


class RestorationOptions(Options):
    """A run of supervised restoration."""

    train: RestorationTrain | None = None  # pyright: ignore[reportIncompatibleVariableOverride]
    val: RestorationVal = RestorationVal()  # pyright: ignore[reportIncompatibleVariableOverride]
    tile: HATTiles | None = Field(
        default=None,
        description="HAT's spelling: val.tile is tile_size + 2 tile_pad, val.tile_overlap 2 tile_pad.",
    )

    @property
    def tiling(self) -> tuple[int | None, int]:
        """Side of tiles, None for whole images, and their overlap, in LQ pixels."""
        if self.tile is not None:
            return self.tile.tile_size + 2 * self.tile.tile_pad, 2 * self.tile.tile_pad
        return self.val.tile, self.val.tile_overlap

    @classmethod
    @override
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        yield from super().relations(facts, key)
        if facts.written("tile") and facts.written("val.tile"):
            yield Problem("tile", "it beside val.tile", "one of the two", "delete it")
        # 'upscale' is what BasicSR's own networks call the factor.
        upscale_factor, scale = facts.get("network_g.upscale"), facts.get("scale", 1)
        if isinstance(upscale_factor, int) and scale is not None and upscale_factor != scale:
            yield Problem("network_g.upscale", show(upscale_factor), f"the file's scale, which is {scale}")


@MODELS.register(
    "RestorationModel",
    "SRModel",
    "SwinIRModel",
    "HATModel",
    "ImageCleanModel",
    "IRModel",
    "ImageRestorationModel",
)
class RestorationModel(ModelKind[RestorationOptions]):
    """Losses between the restored image and the ground truth, as BasicSR's SRModel.

    Training batches and evaluation items hold ``lq`` (N, C, H, W) and ``gt`` (N, C, H * scale, W * scale) in
    0..1; a batch also ``k``, its samples' numbers, an item ``name``.
    """

    Options = RestorationOptions
    memory_advice = "out of memory; set val.tile, such as 256"

    def __init__(
        self, options: RestorationOptions, networks: Mapping[str, nn.Module], device: torch.device
    ) -> None:
        super().__init__(options, networks, device)
        self._bicubic: dict[tuple[str, int], dict[str, Any]] = {}
        self._without_truth: set[str] = set()

    @override
    def start_training(self) -> None:
        train = self.options.train
        assert train is not None, "training needs a train section"
        self._losses = {
            name: (key, LOSSES.find(spec.type)(**spec.kwargs).to(self.device))
            for name, (key, spec) in train.losses_by_name().items()
        }
        self._mixing = train.mixing_augs
        self._range = pixel_range(self.networks["net_g"])

    @override
    def losses(
        self, phase: str, networks: Networks, batch: Mapping[str, Any], earlier: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Return ``l_<name>`` of every loss; a perceptual loss may give ``l_style`` besides.

        Raises:
            ValueError: the network's output has another shape than the ground truth.
            RuntimeError: a loss does not take the two.
        """
        lq, gt = batch["lq"], batch["gt"]
        if self._mixing.mixup:
            from ..data.mixing import mixup

            rng = sample_rng(self.options.manual_seed, int(batch["k"][0]), Purpose.MIXING)
            gt, lq = mixup(gt, lq, self._mixing.mixup_beta, self._mixing.use_identity, rng)
        forward = networks["net_g"]
        restored = forward(lq * self._range) / self._range if self._range != 1 else forward(lq)
        if restored.shape != gt.shape:  # some losses would broadcast one to the other
            raise ValueError(f"network_g gives {tuple(restored.shape)}, ground truth is {tuple(gt.shape)}")
        return self.reconstruction_losses(restored, gt)

    def reconstruction_losses(self, restored: Tensor, gt: Tensor) -> dict[str, Tensor]:
        """Return every configured loss between two batches of images of one shape."""
        losses: dict[str, Tensor] = {}
        for name, (key, loss) in self._losses.items():
            value = _compute(loss, restored, gt, key)
            # Perceptual losses give the style loss besides; either may be None.
            style = value[1] if isinstance(value, tuple) else None
            value = value[0] if isinstance(value, tuple) else value
            losses |= {f"l_{n}": v for n, v in ((name, value), ("style", style)) if v is not None}
        return losses

    @override
    def patch_advice(self, gt_size: int) -> str:
        from ..archs.padding import requirement_of

        multiple = requirement_of(self.networks["net_g"]).multiple_of * self.options.scale
        return f"its windows need multiples of {multiple}" if gt_size % multiple else ""

    # --- evaluation ---------------------------------------------------------------------------------

    @override
    def evaluate(
        self, networks: Mapping[str, nn.Module], item: Mapping[str, Any], dataset: str, index: int, draw: bool
    ) -> Judgement:
        from ..archs.padding import requirement_of
        from ..inference import comparison, restore_tensor

        network, val, scale, task = networks["net_g"], self.options.val, self.scale_of(item), item.get("task")
        requirement = requirement_of(network, val.window_size, task)
        restored = restore_tensor(
            network,
            item["lq"],
            scale,
            requirement,
            *self.options.tiling,
            task=task,
            self_ensemble=val.self_ensemble,
        )
        image, stem, lq, gt = _to_image(restored), self.name_of(item), _to_image(item["lq"]), item.get("gt")
        in_metrics = _to_image if val.use_image else _to_values
        reference = None if gt is None else in_metrics(gt)
        if reference is None:
            self._say_what_is_left_out(dataset)
        statistics = self._statistics(in_metrics(restored), reference, stem)
        versions, baselines = {"LQ": lq}, {}
        if scale > 1 and (draw or statistics):
            if draw or (dataset, index) not in self._bicubic:
                versions["bicubic"] = upscale(lq, scale)
            if (dataset, index) not in self._bicubic:
                self._bicubic[dataset, index] = self._statistics(versions["bicubic"], reference, stem)
            baselines["bicubic"] = self._bicubic[dataset, index]
        if not draw:
            return Judgement(statistics, baselines, results={stem: image})
        ground_truth = {} if gt is None else {"GT": _to_image(gt)}
        versions = {**versions, "restored": image, **ground_truth}
        return Judgement(statistics, baselines, {stem: comparison(versions)}, {stem: image}, list(versions))

    def scale_of(self, item: Mapping[str, Any]) -> int:
        """Return the side of an item's ground truth over that of its low-quality image."""
        return self.options.scale

    @override
    def name_of(self, item: Mapping[str, Any]) -> str:
        # As BasicSR names results, by the low-quality file, but in the set's sub-folders.
        file = Path(str(item.get("lq_path") or item["gt_path"]))
        return (Path(str(item.get("name", ""))).parent / file.stem).as_posix()

    def _say_what_is_left_out(self, dataset: str) -> None:
        if dataset not in self._without_truth:
            self._without_truth.add(dataset)
            lacking = [name for name, metric in self._metrics.items() if metric.needs_target]
            if lacking:
                LOG.warning("%s has no ground truth: no %s", dataset, ", ".join(lacking))

    def _statistics(self, image: np.ndarray, reference: np.ndarray | None, stem: str) -> dict[str, Any]:
        """Return the statistic of every metric; NaN where it cannot be computed of this image."""
        if self.options.val.rgb2bgr:
            image, reference = image[..., ::-1], None if reference is None else reference[..., ::-1]
        statistics: dict[str, Any] = {}
        for name, metric in self._metrics.items():
            if reference is None and metric.needs_target:
                continue
            try:
                statistics[name] = metric.statistic(image, reference)
            except (np.linalg.LinAlgError, RuntimeError) as error:
                if type(error) not in (np.linalg.LinAlgError, RuntimeError):
                    raise  # such as lack of memory
                LOG.warning("%s cannot be computed of %s: %s", name, stem, error)
                statistics[name] = math.nan
        return statistics


def _compute(loss: nn.Module, restored: Tensor, gt: Tensor, key: str) -> Any:
    import torch

    try:
        return loss(restored, gt)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise RuntimeError(f"{key} cannot be computed of two images: {error}") from error


def _to_values(tensor: Tensor) -> np.ndarray:
    """Return (1, C, H, W) in 0..1 as (H, W, C) float64 in 0..255, clamped but not rounded."""
    return tensor[0].float().clamp(0, 1).permute(1, 2, 0).cpu().numpy().astype(np.float64) * 255


def _to_image(tensor: Tensor) -> np.ndarray:
    """Return (1, C, H, W) in 0..1 as an 8-bit image (H, W, C)."""
    return _to_values(tensor).round().astype(np.uint8)
