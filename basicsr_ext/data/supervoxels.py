"""Supervoxels: pieces of a volume that look uniform, in place of labels (arXiv:2007.09886)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Literal

import numpy as np

Method = Literal["felzenszwalb", "slic"]

_EDGES_AT_ONCE = 1 << 20
"""Of which Python's own numbers are made; they take more memory than arrays."""


def supervoxels(
    image: np.ndarray,
    size: int = 5000,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    method: Method = "felzenszwalb",
    background: float = 0.1,
    sigma: float = 1.0,
    scale: float = 1.0,
    compactness: float = 0.05,
) -> np.ndarray:
    """Return the number of each voxel's supervoxel, from 1 up, (D, H, W), int32; 0 is air.

    Felzenszwalb's method in three dimensions, as the release's data, or SLIC (Achanta, TPAMI 2012),
    which is faster and whose pieces are of about equal size.

    Args:
        image: (D, H, W).
        size: voxels of a supervoxel: the fewest, or with SLIC on average.
        spacing: of slices, rows and columns, in one unit; for SLIC.
        method: "felzenszwalb" or "slic".
        background: intensity below which voxels are air: 0 is the image's first percentile, 1 its last.
        sigma: of a smoothing before, in pixels of a slice.
        scale: of Felzenszwalb's method, see :func:`felzenszwalb`.
        compactness: of SLIC: how much position counts beside intensity.
    """
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(image.astype(np.float32), (0, sigma, sigma))
    low, high = np.percentile(smooth, (1, 99))
    scaled = np.clip((smooth - low) / max(high - low, 1e-12), 0, 1)
    if method == "felzenszwalb":
        pieces = felzenszwalb(scaled, scale, size) + 1
    else:
        from skimage.segmentation import slic

        pieces = slic(
            scaled,
            n_segments=max(2, image.size // size),
            compactness=compactness,
            spacing=spacing,
            channel_axis=None,
            start_label=1,
        )
    pieces[scaled < background] = 0
    return pieces.astype(np.int32)


def felzenszwalb(
    image: np.ndarray, scale: float = 1.0, min_size: int = 20, diagonals: bool = False
) -> np.ndarray:
    """Return the number of each voxel's piece, from 0 up, shaped as the image, int64.

    Efficient graph-based image segmentation (Felzenszwalb and Huttenlocher, IJCV 2004) in any number of
    dimensions. Two pieces become one where the difference over an edge between them is less than either's
    inner difference plus k over its number of voxels; pieces that are too small join a neighbour at last.
    With ``diagonals``, a slice is cut as by scikit-image's ``felzenszwalb`` without smoothing.

    Args:
        image: of any shape; float, in 0..1 where ``scale`` is to mean what it usually does.
        scale: 255 k; larger: larger pieces.
        min_size: fewest voxels of a piece.
        diagonals: voxels that share an edge or a corner are neighbours, too, not only with a face in common.
    """
    forest = _Forest(image.size, scale / 255)
    edges = list(_edges(image, diagonals))
    first, second, weight = (np.concatenate(parts) for parts in zip(*edges, strict=True))
    order = np.argsort(weight, kind="stable")
    first, second, weight = first[order], second[order], weight[order]
    for part in _parts(len(weight)):
        forest.join_alike(first[part], second[part], weight[part])
    for part in _parts(len(weight)):
        forest.join_small(first[part], second[part], min_size)
    return np.unique(forest.roots(), return_inverse=True)[1].reshape(image.shape)


def _edges(image: np.ndarray, diagonals: bool) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for each direction the numbers of neighbouring voxels, and their differences."""
    numbers = np.arange(image.size).reshape(image.shape)
    for step in product((-1, 0, 1), repeat=image.ndim):
        # Each direction once; with one step other than 0, or with any.
        if step <= (0,) * image.ndim or (not diagonals and np.abs(step).sum() > 1):
            continue
        here = tuple(slice(max(-s, 0), n - max(s, 0)) for s, n in zip(step, image.shape, strict=True))
        there = tuple(slice(max(s, 0), n - max(-s, 0)) for s, n in zip(step, image.shape, strict=True))
        yield numbers[here].ravel(), numbers[there].ravel(), np.abs(image[there] - image[here]).ravel()


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, _EDGES_AT_ONCE):
        yield slice(start, start + _EDGES_AT_ONCE)


class _Forest:
    """Voxels in trees, one a piece; Python's lists, which are faster than arrays for one number at a time."""

    def __init__(self, count: int, k: float) -> None:
        self._above = list(range(count))
        self._sizes = [1] * count
        self._limits, self._k = [k] * count, k

    def join_alike(self, first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> None:
        """Join pieces over edges of ascending weight; a next call's go on from there."""
        above, sizes, limits, k = self._above, self._sizes, self._limits, self._k
        for a, b, w in zip(first.tolist(), second.tolist(), weight.tolist(), strict=True):
            while above[a] != a:
                above[a] = a = above[above[a]]
            while above[b] != b:
                above[b] = b = above[above[b]]
            if a != b and w < limits[a] and w < limits[b]:
                if sizes[a] < sizes[b]:
                    a, b = b, a
                above[b] = a
                sizes[a] += sizes[b]
                limits[a] = w + k / sizes[a]

    def join_small(self, first: np.ndarray, second: np.ndarray, min_size: int) -> None:
        """Join pieces of fewer voxels over edges of ascending weight."""
        above, sizes = self._above, self._sizes
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            while above[a] != a:
                above[a] = a = above[above[a]]
            while above[b] != b:
                above[b] = b = above[above[b]]
            if a != b and (sizes[a] < min_size or sizes[b] < min_size):
                if sizes[a] < sizes[b]:
                    a, b = b, a
                above[b] = a
                sizes[a] += sizes[b]

    def roots(self) -> np.ndarray:
        """Return the root of each voxel's tree."""
        above = np.array(self._above)
        while (further := above[above] != above).any():
            above[further] = above[above[further]]
        return above
