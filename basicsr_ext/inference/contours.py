"""Slices of volumes as pictures, with the contours of masks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

TRUTH, PREDICTION = (0, 158, 115), (213, 94, 0)
"""Colours (R, G, B) that colour-blind people tell apart, too."""
_SIDE = 256


def with_contours(slices: np.ndarray, *masks: tuple[np.ndarray, Sequence[int]]) -> np.ndarray:
    """Return slices one below the other, with the contours of masks on them, later ones on top.

    Slices are enlarged by repeating pixels, by a whole number, until their smaller side has 256 or more;
    what is brighter or darker than all but one in a hundred pixels is white or black.

    Args:
        slices: (n, H, W), of any range of values.
        masks: pairs of masks (n, H, W), foreground where they are not zero, and colours (R, G, B).

    Returns:
        A uint8 image (n * factor * H, factor * W, 3).
    """
    low, high = np.percentile(slices, (1, 99))
    grey = (np.clip((slices - low) / max(float(high - low), 1e-12), 0, 1) * 255).round().astype(np.uint8)
    factor = max(1, -(-_SIDE // min(slices.shape[1:])))
    pictures = []
    for number, plane in enumerate(grey):
        picture = np.ascontiguousarray(np.repeat(_enlarged(plane, factor)[..., None], 3, 2))
        for planes, colour in masks:
            foreground = _enlarged((planes[number] != 0).astype(np.uint8), factor)
            found, _ = cv2.findContours(foreground, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, found, -1, list(colour), 1)
        pictures.append(picture)
    return np.concatenate(pictures)


def _enlarged(plane: np.ndarray, factor: int) -> np.ndarray:
    return plane.repeat(factor, 0).repeat(factor, 1)
