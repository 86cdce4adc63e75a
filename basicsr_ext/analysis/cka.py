"""Linear centred kernel alignment (CKA): how alike what two layers make of the same examples is.

CKA (Kornblith et al., arXiv:1905.00414) is ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` of the Gram
matrices ``K = X X^T`` and ``L = Y Y^T``. HSIC is the unbiased estimator HSIC_1 (Song et al., JMLR 13, 2012,
eq. 5), which can be averaged over batches (Nguyen et al., arXiv:2010.15327).

HSIC_1 does not change when a constant is added to all features. Of features whose mean over the batch is zero
it is, with ``a_i = |x_i|^2`` and ``b_i = |y_i|^2``::

    [ |X^T Y|_F^2 + sum(a) sum(b) / ((n - 1)(n - 2)) - n / (n - 2) sum(a b) ] / (n (n - 3))

as the row sums of K without its diagonal are then ``-a``. That is what is computed: large means cancel before
they are squared.

Shapes: n examples, p features of one, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEAST = 4
"""Examples that the estimator needs."""


def cka(x: Any, y: Any) -> float:
    """Return the unbiased linear CKA of what two layers make of the same examples.

    1 where one is the other, rotated, mirrored, enlarged or moved; about 0, of either sign, where they are
    independent.

    Args:
        x: (n, ...) array or tensor; what follows the first dimension is one example's features.
        y: likewise, of the same n examples.

    Raises:
        ValueError: they are not of the same four or more examples, hold infinities or NaN, or one of them
            does not vary.
    """
    first, second = (_centred(_checked(part, name)) for part, name in ((x, "x"), (y, "y")))
    if len(first) != len(second):
        raise ValueError(f"x has {len(first)} examples and y has {len(second)}: expected the same ones")
    joint, *own = (_hsic(a, b) for a, b in ((first, second), (first, first), (second, second)))
    if min(own) <= 0:
        raise ValueError("CKA is not defined for features that do not vary over the examples")
    return float(joint / (own[0] * own[1]).sqrt())


class MinibatchCKA:
    """CKA between all layers of two lists, from batches of examples.

    The estimates of HSIC are averaged over the batches, then divided; of one batch this is :func:`cka`. No
    example is needed again: memory depends on neither their number nor that of batches.
    """

    def __init__(self) -> None:
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None

    def update(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        """Take in one batch.

        Args:
            first: features (n, ...) of each layer; batches are equally large.
            second: likewise, to compare them with; of the same examples.

        Raises:
            ValueError: there are fewer than four examples.
        """
        grams, others = _grams(first), _grams(second)
        own = [torch.stack([_estimate(g[None], g[None])[0, 0] for g in part]) for part in (grams, others)]
        joint, first_own, second_own = self._sums or (0, 0, 0)
        self._sums = (joint + _estimate(grams, others), first_own + own[0], second_own + own[1])

    def value(self) -> np.ndarray:
        """Return CKA between each of the first layers and each of the second; NaN for what does not vary.

        Raises:
            ValueError: there was no batch.
        """
        if self._sums is None:
            raise ValueError("CKA needs a batch of examples")
        joint, first, second = self._sums
        # A layer that does not vary has an estimate of 0, up to rounding of either sign.
        return (joint / first.clamp_min(0).sqrt()[:, None] / second.clamp_min(0).sqrt()).cpu().numpy()


def _checked(x: Any, name: str) -> Tensor:
    features = torch.as_tensor(x).detach()
    if features.ndim < 2 or len(features) < LEAST:
        shape = tuple(features.shape)
        raise ValueError(f"{name}: found shape {shape}, expected ({LEAST} or more examples, features)")
    if not features.isfinite().all():
        raise ValueError(f"{name}: holds infinities or NaN")
    return features


def _centred(features: Tensor) -> Tensor:
    """Return (n, ...) less the mean over the examples: (n, p), float64."""
    flat = features.flatten(1).double()
    deviation = flat - flat.mean(0)
    # The mean of equal values may differ from them in its last bit.
    return deviation * (deviation.abs().amax() > 1e-14 * flat.abs().amax())


def _grams(layers: Sequence[Tensor]) -> Tensor:
    return torch.stack([x @ x.t() for x in map(_centred, layers)])


def _hsic(x: Tensor, y: Tensor) -> Tensor:
    """Return HSIC_1 of centred features (n, p) and (n, q)."""
    a, b = (part.square().sum(1) for part in (x, y))
    n = len(x)
    joint = (x.t() @ y).square().sum() if x.shape[1] * y.shape[1] < n * n else (x @ x.t() * (y @ y.t())).sum()
    return _combined(joint, a.sum() * b.sum(), a @ b, n)


def _estimate(K: Tensor, L: Tensor) -> Tensor:
    """Return HSIC_1 (L, L') of all pairs of centred features' Gram matrices (L, n, n) and (L', n, n)."""
    if K.shape[-1] < LEAST:
        raise ValueError(f"found a batch of {K.shape[-1]} examples, expected {LEAST} or more")
    a, b = K.diagonal(dim1=1, dim2=2), L.diagonal(dim1=1, dim2=2)
    return _combined(K.flatten(1) @ L.flatten(1).t(), a.sum(1)[:, None] * b.sum(1), a @ b.t(), K.shape[-1])


def _combined(joint: Tensor, sums: Tensor, squares: Tensor, n: int) -> Tensor:
    """Return the formula above of its three terms."""
    return (joint + sums / ((n - 1) * (n - 2)) - n / (n - 2) * squares) / (n * (n - 3))
