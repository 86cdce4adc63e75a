"""Augmentations that mix the images of a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def mixup(
    gt: Tensor, lq: Tensor, beta: float, use_identity: bool, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Blend every pair of a batch with another pair of it (Zhang et al., arXiv:1710.09412; as in Restormer).

    One weight, drawn from Beta(beta, beta), serves the whole batch.

    Args:
        gt: (B, C, H, W).
        lq: (B, C', H', W'), blended like ``gt``.
        beta: both parameters of the Beta distribution.
        use_identity: leave the batch as it is half of the time.
        rng: decides everything; make it from the number of the batch's first sample.

    Returns:
        ``gt`` and ``lq``, new tensors unless left as they are.
    """
    if use_identity and rng.integers(2):
        return gt, lq
    weight = float(rng.beta(beta, beta))
    partner = torch.from_numpy(rng.permutation(gt.shape[0])).to(gt.device, non_blocking=True)
    return torch.lerp(gt[partner], gt, weight), torch.lerp(lq[partner], lq, weight)
