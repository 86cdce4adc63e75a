"""Supervised restoration: a low-quality image in, its ground truth as target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..archs import pixel_range
from ..config.schema import Spec, Train
from ..data.mixing import mixup
from ..data.sampling import Purpose, sample_rng
from ..losses import LOSSES
from . import MODELS
from .base_model import BaseModel, Forward


@MODELS.register(
    "RestorationModel",
    "SRModel",
    "SwinIRModel",
    "HATModel",
    "ImageCleanModel",
    "IRModel",
    "ImageRestorationModel",
)
class RestorationModel(BaseModel):
    """Pixel and perceptual losses between the restored image and the ground truth, as BasicSR's SRModel."""

    def __init__(self, network: nn.Module, train: Train, seed: int) -> None:
        super().__init__(network, train, seed)
        device = next(network.parameters()).device
        self._pixel_loss = _build_loss(train.pixel_opt, device)
        self._perceptual_loss = _build_loss(train.perceptual_opt, device)
        self._range = pixel_range(network)

    def training_step(self, forward: Forward, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return ``l_pix``, ``l_percep`` and ``l_style``, as far as they are configured.

        Raises:
            ValueError: the network's output has another shape than the ground truth.
        """
        lq, gt = batch["lq"], batch["gt"]
        mixing = self.train_options.mixing_augs
        if mixing.mixup:
            rng = sample_rng(self.seed, int(batch["k"][0]), Purpose.MIXING)
            gt, lq = mixup(gt, lq, mixing.mixup_beta, mixing.use_identity, rng)
        restored = forward(lq * self._range) / self._range if self._range != 1 else forward(lq)
        if restored.shape != gt.shape:  # some losses would broadcast one to the other
            raise ValueError(f"network_g gives {tuple(restored.shape)}, ground truth is {tuple(gt.shape)}")
        losses: dict[str, Tensor] = {}
        if self._pixel_loss is not None:
            losses["l_pix"] = self._pixel_loss(restored, gt)
        if self._perceptual_loss is not None:
            perceptual, style = self._perceptual_loss(restored, gt)
            losses |= {k: v for k, v in (("l_percep", perceptual), ("l_style", style)) if v is not None}
        return losses


def _build_loss(spec: Spec | None, device: torch.device) -> nn.Module | None:
    return None if spec is None else LOSSES.find(spec.type)(**spec.kwargs).to(device)
