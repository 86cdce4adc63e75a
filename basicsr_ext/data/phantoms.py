"""Made abdomens: ellipsoids for organs, with the contrast of a T2-weighted scan. Nothing to download.

Patients differ in place, size, tilt and brightness of every organ; noise and a smooth change of brightness
over the volume come on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter
from typing_extensions import override

from .sampling import sample_rng
from .supervoxels import supervoxels
from .volumes import KINDS, Kind, VolumeSource

ORGANS = ("liver", "kidneys", "spleen")
"""Labels 1, 2, …"""
_SCALE = 30.0
"""Of Felzenszwalb's method: noise does not cut an organ, and organs do not run together."""


@dataclass(frozen=True)
class _Ellipsoid:
    """Centre and radii along (z, y, x) in shares of the volume, and brightness; label 0 is other anatomy."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    brightness: float
    label: int = 0


_BODY = _Ellipsoid((0.5, 0.5, 0.5), (4.0, 0.38, 0.45), 0.45)
_INSIDE = (
    _Ellipsoid((0.5, 0.75, 0.5), (4.0, 0.07, 0.07), 0.25),  # spine
    _Ellipsoid((0.5, 0.61, 0.53), (4.0, 0.03, 0.03), 0.08),  # aorta
    _Ellipsoid((0.65, 0.33, 0.63), (0.22, 0.10, 0.13), 0.15),  # stomach
    _Ellipsoid((0.65, 0.42, 0.28), (0.32, 0.20, 0.16), 0.30, 1),
    _Ellipsoid((0.33, 0.62, 0.31), (0.24, 0.10, 0.08), 0.90, 2),
    _Ellipsoid((0.36, 0.61, 0.70), (0.24, 0.10, 0.08), 0.90, 2),
    _Ellipsoid((0.66, 0.58, 0.79), (0.22, 0.13, 0.08), 0.64, 3),
)


def make_phantom(seed: int, number: int, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return patient ``number``: brightness (D, H, W), float32, and labels, int16; a function of all that."""
    rng = sample_rng(seed, number)
    grid = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n for n in shape], indexing="ij"))
    bright, label = np.zeros(shape), np.zeros(shape, np.int16)
    bright[_inside(_BODY, grid, rng)] = _BODY.brightness
    for organ in _INSIDE:
        inside = _inside(organ, grid, rng)
        bright[inside] = organ.brightness + rng.uniform(-0.05, 0.05)
        label[inside] = organ.label
    bright = gaussian_filter(bright, (0.3, 0.7, 0.7))
    slopes = rng.uniform(-0.25, 0.25, 3)[:, None, None, None]
    bright *= np.exp(((grid - 0.5) * slopes).sum(0))
    grain = gaussian_filter(rng.standard_normal(shape), 0.6)
    return (bright + 0.04 * grain / grain.std()).astype(np.float32), label


def _inside(organ: _Ellipsoid, grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    moved = 0.02 if organ is _BODY else 0.05
    z, y, x = (
        axis - centre - shift
        for axis, centre, shift in zip(grid, organ.centre, rng.uniform(-moved, moved, 3), strict=True)
    )
    rz, ry, rx = np.array(organ.radii) * rng.uniform(0.85, 1.15, 3)
    tilt = rng.uniform(-0.3, 0.3)
    along, across = np.cos(tilt) * y + np.sin(tilt) * x, np.cos(tilt) * x - np.sin(tilt) * y
    return (z / rz) ** 2 + (along / ry) ** 2 + (across / rx) ** 2 < 1


class PhantomSource(VolumeSource):
    """Made patients.

    Args:
        seed: of all of them.
        numbers: which patients.
        shape: slices, rows and columns.
        supervoxel_size: voxels of a supervoxel, at least.
    """

    def __init__(self, seed: int, numbers: Sequence[int], shape: Sequence[int], supervoxel_size: int) -> None:
        self._seed, self._numbers, self._shape = seed, tuple(numbers), tuple(shape)
        self._supervoxel_size = supervoxel_size

    @property
    @override
    def names(self) -> Sequence[str]:
        return [str(number) for number in self._numbers]

    @override
    def kinds(self, index: int) -> Sequence[Kind]:
        return KINDS

    @override
    def path(self, index: int, kind: Kind) -> str:
        return f"{kind} of phantom {self._numbers[index]}"

    @override
    def read(self, index: int, kind: Kind) -> np.ndarray:
        image, label = _phantom(self._seed, self._numbers[index], self._shape)
        if kind == "supervoxels":
            return supervoxels(image, self._supervoxel_size, scale=_SCALE)
        return (image if kind == "image" else label).copy()


@lru_cache(maxsize=4)
def _phantom(seed: int, number: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return make_phantom(seed, number, shape)
