"""A metric of one's own: ``val: {metrics: {worst: {type: largest_error}}}``."""

import numpy as np

from basicsr_ext.registry import METRICS


@METRICS.register()
def largest_error(img: np.ndarray, img2: np.ndarray, crop_border: int = 0) -> float:
    """Return how far apart two (H, W, 3) images in 0..255, the result first, are at most."""
    inner = slice(crop_border, -crop_border or None)
    return float(abs(img[inner, inner].astype(float) - img2[inner, inner]).max())
