"""Pictures of results, with matplotlib (the extra ``plots``); without it, nothing is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_MANY = 12
"""Layers whose names would not be legible along an axis: those get numbers."""


def figure(width: float, height: float) -> Any | None:
    """Return an empty figure of so many inches; None without matplotlib."""
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return Figure(figsize=(width, height), layout="constrained")


def draw_matrix(
    matrix: np.ndarray,
    layers: tuple[Sequence[str], Sequence[str]],
    titles: tuple[str, str],
    file: Path,
) -> bool:
    """Draw CKA (L, L') as a heat map; return whether matplotlib is there to do it.

    Args:
        matrix: NaN stays white.
        layers: names of the rows' and the columns' layers.
        titles: of the two networks.
        file: PNG to write.
    """
    if (page := figure(4.6, 4)) is None:
        return False
    axes = page.subplots()
    image = axes.imshow(matrix, vmin=0, vmax=1, cmap="magma", origin="lower")
    page.colorbar(image, label="CKA")
    for names, title, axis in zip(layers, titles, (axes.yaxis, axes.xaxis), strict=True):
        axis.set_label_text(title if len(names) <= _MANY else f"{title}: layer")
        if len(names) <= _MANY:
            axis.set_ticks(range(len(names)), list(names), fontsize=6)
    axes.tick_params("x", rotation=90 if len(layers[1]) <= _MANY else 0)
    page.savefig(file, dpi=110)
    return True
