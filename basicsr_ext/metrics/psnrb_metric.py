"""PSNR-B: the peak signal-to-noise ratio that counts visible block boundaries as errors, too."""

from __future__ import annotations

import math

import numpy as np

from . import METRICS

_BLOCK = 8


@METRICS.register()
def calculate_psnrb(
    img: np.ndarray, img2: np.ndarray, crop_border: int = 0, test_y_channel: bool = False
) -> float:
    """Return the PSNR-B of an image against its reference, in dB, the mean over channels.

    Yim and Bovik, Quality Assessment of Deblocked Images (IEEE TIP 20, 2011), as SwinIR's and GRL's tests
    against JPEG artefacts compute it: the squared error is raised by as much as squared steps across the
    boundaries of 8 x 8 blocks exceed all other steps.

    Args:
        img: restored, (H, W, C) in 0..255, BGR; only its boundaries count. Sides of 16 or more.
        img2: reference, of the same shape.
        crop_border: pixels left out at each edge; blocks are counted from what remains.
        test_y_channel: compare MATLAB's Y of colour images.

    Raises:
        ValueError: the shapes differ.
    """
    if img.shape != img2.shape:
        raise ValueError(f"a result of shape {img.shape} cannot be compared with {img2.shape}")
    sides = []
    for image in (img, img2):
        inner = image[crop_border : image.shape[0] - crop_border, crop_border : image.shape[1] - crop_border]
        values = np.atleast_3d(inner).astype(np.float64)
        if test_y_channel and values.shape[2] == 3:
            from basicsr.metrics.metric_util import to_y_channel

            values = np.atleast_3d(to_y_channel(values)).astype(np.float64)
        sides.append(values / 255)
    restored, reference = sides
    return float(
        np.mean(
            [
                _decibel(np.mean((x - y) ** 2) + _blocking(x))
                for x, y in zip(restored.transpose(2, 0, 1), reference.transpose(2, 0, 1), strict=True)
            ]
        )
    )


def _decibel(error: float) -> float:
    return math.inf if error == 0 else -10 * math.log10(error)


def _blocking(plane: np.ndarray) -> float:
    """Return the blocking effect factor of an (H, W) image in 0..1."""
    height, width = plane.shape
    at_boundaries = beyond = 0.0
    for axis in (0, 1):
        steps = (np.diff(plane, axis=axis) ** 2).sum(axis=1 - axis)
        boundary = np.arange(len(steps)) % _BLOCK == _BLOCK - 1
        at_boundaries += steps[boundary].sum()
        beyond += steps[~boundary].sum()
    # As released: one boundary less than there are where a side is no multiple of 8.
    boundaries = height * (width // _BLOCK - 1) + width * (height // _BLOCK - 1)
    others = height * (width - 1) + width * (height - 1) - boundaries
    excess = at_boundaries / boundaries - beyond / others
    return math.log2(_BLOCK) / math.log2(min(height, width)) * excess if excess > 0 else 0.0
