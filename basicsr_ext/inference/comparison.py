"""Pictures that put an image's versions next to each other."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np

_LABEL_HEIGHT = 20


def comparison(versions: Mapping[str, np.ndarray], side: int = 256) -> np.ndarray:
    """Return the middle of each version, labelled, from left to right.

    Args:
        versions: uint8 images (H, W, C) by label; the last one sets the size, smaller ones are enlarged
            by repeating pixels. One channel is shown grey, of more than three the first three.
        side: height and width of what is shown, at most the image's.

    Returns:
        A uint8 image (H, W, 3).
    """
    height, width = list(versions.values())[-1].shape[:2]
    rows, columns = min(side, height), min(side, width)
    top, left = (height - rows) // 2, (width - columns) // 2
    panels = []
    for label, image in versions.items():
        if image.shape[:2] != (height, width):
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST)
        image = np.atleast_3d(image)[top : top + rows, left : left + columns, :3]
        strip = np.full((_LABEL_HEIGHT, columns, 3), 255, np.uint8)
        cv2.putText(strip, label, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        panels.append(np.concatenate([strip, np.broadcast_to(image, (rows, columns, 3))]))
    return np.concatenate(panels, axis=1)
