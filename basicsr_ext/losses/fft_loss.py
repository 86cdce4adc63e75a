"""Losses of spectra."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import LOSSES


@LOSSES.register()
class FFTLoss(nn.Module):
    """L1 distance of two images' Fourier transforms, real and imaginary parts apart.

    The multi-scale frequency reconstruction loss of MIMO-UNet (arXiv:2108.05054) at one scale, as forks of
    BasicSR have it. The transform is not normalised: it grows with the patch.

    Args:
        loss_weight: factor.
        reduction: ``mean`` or ``sum`` over all values.
    """

    def __init__(self, loss_weight: float = 1.0, reduction: Literal["mean", "sum"] = "mean") -> None:
        super().__init__()
        self.loss_weight, self.reduction = loss_weight, reduction

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar, of two batches (N, C, H, W)."""
        # Half precision has no transform of every size.
        ours, theirs = (torch.view_as_real(torch.fft.rfft2(image.float())) for image in (pred, target))
        return self.loss_weight * F.l1_loss(ours, theirs, reduction=self.reduction)
