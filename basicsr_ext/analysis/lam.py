"""Local attribution maps (LAM, arXiv:2011.11731): which input pixels a patch of the restored image used.

A detector D sums the gradients' magnitudes within the patch. Its response is attributed to pixels by a path
integral (integrated gradients) from the blurred image to the image, along ever less Gaussian blur::

    LAM_i = sum over steps s of  dD(F(x_s)) / dx_s,i  *  (x_s+1,i - x_s,i)

All of them together make up D(F(image)) - D(F(blurred image)), up to the size of the steps. How evenly they
are spread says the diffusion index, ``100 * (1 - Gini coefficient)``.

The path, the detector and the index are the paper's. The values of :class:`Path` are those its authors' code
is known for; it was not at hand to compare with. Ours are: the detector's derivative is 0 where the output
has no gradient at all, the blur mirrors the image at its border, contributions of channels are added before
their magnitude is taken, and the drawing.

Shapes: C channels, H x W pixels of the input, s its scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Path:
    """From the blurred image to the image.

    Attributes:
        sigma: standard deviation of the first blur in pixels; it falls linearly to 0.
        steps: in so many steps.
        side: of the blur's kernel, odd.
    """

    sigma: float = 1.2
    steps: int = 50
    side: int = 9

    def images(self, image: Tensor) -> Tensor:
        """Return the images on the way, (steps + 1, C, H, W), of one (C, H, W)."""
        sigmas = torch.linspace(self.sigma, 0, self.steps + 1, dtype=torch.float64, device=image.device)
        reach = self.side // 2
        offsets = torch.arange(-reach, reach + 1, dtype=torch.float64, device=image.device)
        kernels = torch.exp(-0.5 * (offsets / sigmas.clamp_min(1e-9)[:, None]) ** 2)  # at sigma 0: 1 at 0
        kernels = (kernels / kernels.sum(1, keepdim=True)).to(image.dtype)[
            :, None, None
        ]  # (steps + 1, 1, 1, side)
        planes = image[:, None]
        for turned in (kernels, kernels.transpose(2, 3)):
            size = (0, 0, reach, reach) if turned.shape[2] > 1 else (reach, reach, 0, 0)
            padded = F.pad(planes, size, mode="reflect")
            # Every plane with every kernel first, then each of the results with its own.
            groups = 1 if planes.shape[1] == 1 else len(sigmas)
            planes = F.conv2d(padded, turned, groups=groups)
        return planes.transpose(0, 1)


@dataclass(frozen=True)
class Patch:
    """A square of the output, in its pixels."""

    top: int
    left: int
    side: int = 16

    def response(self, y: Tensor) -> Tensor:
        """Return the detector's responses (B,) to outputs (B, C, H * s, W * s).

        Each pixel's gradient is the difference to the next one below and to the right.

        Raises:
            ValueError: the patch and these neighbours do not lie in the output.
        """
        rows, columns = (slice(start, start + self.side) for start in (self.top, self.left))
        below, right = (slice(part.start + 1, part.stop + 1) for part in (rows, columns))
        if min(self.top, self.left) < 0 or below.stop > y.shape[2] or right.stop > y.shape[3]:
            raise ValueError(
                f"a patch of {self.side}x{self.side} pixels at ({self.top}, {self.left}), and the pixels "
                f"below and right of it, do not lie in an output of {y.shape[2]}x{y.shape[3]}"
            )
        here = y[:, :, rows, columns]
        differences = torch.stack([y[:, :, below, columns] - here, y[:, :, rows, right] - here])
        return torch.linalg.vector_norm(differences, dim=0).sum((1, 2, 3))


@dataclass(frozen=True)
class Attribution:
    """What a patch of the output used.

    Attributes:
        signed: (H, W) contributions of input pixels to the detector's response, summed over channels.
        patch: of the output.
        scale: output side over input side.
    """

    signed: np.ndarray
    patch: Patch
    scale: int

    @property
    def magnitude(self) -> np.ndarray:
        """Contributions (H, W) without their signs, over the largest: 0..1."""
        magnitude = np.abs(self.signed)
        return magnitude / (magnitude.max() or 1.0)

    @property
    def diffusion_index(self) -> float:
        """0 where one pixel contributes all, up to 100 where all contribute the same."""
        return 100 * (1 - gini(self.magnitude))

    def share_by_pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return shares of the pixels, those that contribute most first, and of all contributions."""
        ordered = np.sort(self.magnitude, axis=None)[::-1].cumsum()
        total = ordered[-1] or 1.0
        return np.arange(1, len(ordered) + 1) / len(ordered), ordered / total

    def share_by_distance(self) -> tuple[np.ndarray, np.ndarray]:
        """Return distances 0, 1, … in input pixels, and the share of contributions from no further away.

        The distance of a pixel is that from the part of the input that lies under the patch, along the axis
        on which it is larger.
        """
        axes = []
        for start, length in zip((self.patch.top, self.patch.left), self.signed.shape, strict=True):
            first, last = start // self.scale, (start + self.patch.side - 1) // self.scale
            place = np.arange(length)
            axes.append(np.maximum(0, np.maximum(first - place, place - last)))
        distance = np.maximum(axes[0][:, None], axes[1])
        by_distance = np.bincount(distance.ravel(), weights=self.magnitude.ravel())
        return np.arange(len(by_distance)), by_distance.cumsum() / (by_distance.sum() or 1.0)


def gini(values: np.ndarray) -> float:
    """Return the Gini coefficient of values from 0 on: 0 where all are equal, towards 1 where one has all."""
    ordered = np.sort(values, axis=None).astype(np.float64)
    n, total = len(ordered), ordered.sum()
    if not total:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def attribute(
    restore: Callable[[Tensor], Tensor],
    image: Tensor,
    patch: Patch,
    path: Path | None = None,
    batch: int = 5,
) -> Attribution:
    """Return which pixels of an image a patch of what is made of it used.

    Args:
        restore: maps images (B, C, H, W) in 0..1 to (B, C', H * s, W * s), differentiably, each for itself.
        image: (C, H, W) in 0..1, on the device of the network.
        patch: of the output.
        path: of images; default: sigma 1.2, 50 steps.
        batch: images of the path to run at once.

    Raises:
        ValueError: the patch does not lie in the output, or the blur's kernel is larger than the image.
    """
    path = path or Path()
    if path.side // 2 >= min(image.shape[1:]):
        raise ValueError(
            f"found an image of {image.shape[1]}x{image.shape[2]} pixels, less than the blur reaches"
        )
    images = path.images(image)
    total, scale = torch.zeros_like(image, dtype=torch.float64), 1
    for here, step in zip(images[:-1].split(batch), images.diff(dim=0).split(batch), strict=True):
        with torch.enable_grad():
            x = here.detach().requires_grad_()
            y = restore(x)
            (gradient,) = torch.autograd.grad(patch.response(y).sum(), x)
        scale = y.shape[2] // x.shape[2]
        total += (gradient * step).double().sum(0)
    return Attribution(total.sum(0).cpu().numpy(), patch, scale)
