"""Pictures of results, with matplotlib (the extra ``plots``); without it, nothing is drawn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_MANY = 16
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
        shape, labels = _short(names)
        axis.set_label_text(f"{title}\n{shape}", fontsize=8)
        if len(names) <= _MANY:
            axis.set_ticks(range(len(names)), labels, fontsize=7)
    page.savefig(file, dpi=110)
    return True


def _short(names: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return what names have in common, with stars for numbers, and the numbers; or nothing and the names."""
    shapes = {re.sub(r"\b\d+\b", "*", name) for name in names}
    if len(shapes) > 1 or "*" not in min(shapes):
        return "", names
    return min(shapes), [".".join(re.findall(r"\b\d+\b", name)) for name in names]


def draw_shares(
    by_pixels: tuple[np.ndarray, np.ndarray],
    by_distance: tuple[np.ndarray, np.ndarray],
    title: str,
    file: Path,
) -> bool:
    """Draw the curves of an :class:`.lam.Attribution`; return whether matplotlib is there to do it."""
    if (page := figure(7, 2.8)) is None:
        return False
    left, right = page.subplots(1, 2, sharey=True)
    left.plot(*by_pixels)
    left.set(
        xlabel="share of the pixels, those that contribute most first", ylabel="share of the contributions"
    )
    left.set(xlim=(0, 1), ylim=(0, 1.02), title=title)
    right.plot(*by_distance)
    right.set(xlabel="distance from the patch, input pixels")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    page.savefig(file, dpi=110)
    return True


def draw_distances(blocks: Sequence[np.ndarray], title: str, file: Path) -> bool:
    """Draw the distances of each block's heads; return whether matplotlib is there to do it.

    Args:
        blocks: in order, each (heads,), sorted.
        title: of the network.
        file: PNG to write.
    """
    if (page := figure(4.6, 3)) is None:
        return False
    axes = page.subplots()
    for number, heads in enumerate(blocks, 1):
        axes.scatter([number] * len(heads), heads, c=range(len(heads)), cmap="viridis", s=14)
    axes.set(xlabel="block", ylabel="mean attention distance, pixels", title=title)
    axes.grid(alpha=0.3)
    page.savefig(file, dpi=110)
    return True
