"""Losses of edges."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import LOSSES


@LOSSES.register()
class EdgeLoss(nn.Module):
    """Charbonnier distance of two images' Laplacians (MPRNet, arXiv:2102.02808).

    The Laplacian is what a level of a Gaussian pyramid loses: the image minus its blurred, halved,
    enlarged and again blurred version.

    Args:
        loss_weight: factor.
        eps: the Charbonnier distance's constant, in values of images in 0..1.
    """

    _kernel: Tensor

    def __init__(self, loss_weight: float = 1.0, eps: float = 1e-3) -> None:
        super().__init__()
        self.loss_weight, self.eps = loss_weight, eps
        line = torch.tensor([0.05, 0.25, 0.4, 0.25, 0.05])
        self.register_buffer("_kernel", torch.outer(line, line)[None, None], persistent=False)

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar, of two batches (N, C, H, W)."""
        # The Laplacian is linear: that of the difference is the difference of both.
        difference = self._laplacian(pred - target)
        return self.loss_weight * torch.sqrt(difference**2 + self.eps**2).mean()

    def _laplacian(self, image: Tensor) -> Tensor:
        every_other = torch.zeros_like(image)
        every_other[..., ::2, ::2] = 4 * self._blurred(image)[..., ::2, ::2]
        return image - self._blurred(every_other)

    def _blurred(self, image: Tensor) -> Tensor:
        channels = image.shape[1]
        kernel = self._kernel.to(image.dtype).expand(channels, 1, 5, 5)
        return F.conv2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), kernel, groups=channels)
