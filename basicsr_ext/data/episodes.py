"""Few-shot episodes: a support slice with its mask and a query slice, of supervoxels or of labelled organs.

Training episodes and the protocol of evaluation are those of CAT-Net's release (hust-linyi/CAT-Net), which
follows ALPNet (arXiv:2007.09886) and ADNet (arXiv:2203.02048).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from .samples import SampleError
from .sampling import SampleRequest, sample_rng
from .volumes import VolumeSource, query_bounds, support_slices


@dataclass(frozen=True)
class Distortion:
    """How the slices of a training episode differ from the stored ones; defaults are the release's.

    One slice of an episode changes its gamma, and one is warped; which one is drawn for either.

    Attributes:
        gamma: least and largest exponent.
        rotate: degrees, to both sides.
        shift: pixels.
        shear: degrees.
        zoom: least and largest factor.
        elastic_alpha: pixels that noise of -1..1 shifts a pixel by, before smoothing.
        elastic_sigma: of the smoothing, in pixels.
    """

    gamma: tuple[float, float] = (0.5, 1.5)
    rotate: float = 5.0
    shift: float = 5.0
    shear: float = 5.0
    zoom: tuple[float, float] = (0.9, 1.2)
    elastic_alpha: float = 10.0
    elastic_sigma: float = 5.0


@dataclass(frozen=True)
class Exclusion:
    """Slices that training does not see.

    Attributes:
        values: of the classes concerned.
        rule: leave out slices that hold ``any`` of them, or only those with ``all`` at once, as released.
    """

    values: tuple[int, ...] = ()
    rule: Literal["all", "any"] = "all"

    def keeps(self, label: np.ndarray) -> np.ndarray:
        """Say of every slice of a label (D, H, W) whether training may see it."""
        held = np.stack([(label == value).any((1, 2)) for value in self.values])
        hidden = np.logical_and if self.rule == "all" else np.logical_or
        return ~hidden.reduce(held)


@dataclass(frozen=True)
class _Pieces:
    """A volume, and pairs of neighbouring slices that may be an episode: piece, lower slice, probability."""

    image: np.ndarray
    supervoxels: np.ndarray
    numbers: np.ndarray
    slices: np.ndarray
    probabilities: np.ndarray


class EpisodeSet:
    """Episodes of supervoxels: no label is needed.

    An episode is a function of (seed, request) alone, and the request one of the episode's number:
    ``support_images`` float32 (1, 3, side, side), ``support_masks`` float32 (1, side, side), 1 in the
    supervoxel, and of a neighbouring slice ``query_images`` (3, side, side) and ``query_masks`` (side, side);
    ``path`` and ``k``. Volumes are visited in passes, where the release draws each time.

    Args:
        source: of volumes; each stays in memory once it was read.
        volumes: numbers of those to train on.
        distortion: of slices.
        min_size: pixels that the larger of the two slices' pieces has at least.
        exclusion: slices left out.
        seed: of the run.
    """

    def __init__(
        self,
        source: VolumeSource,
        volumes: Sequence[int],
        distortion: Distortion,
        min_size: int,
        exclusion: Exclusion,
        seed: int,
    ) -> None:
        self.source, self.volumes = source, tuple(volumes)
        self._distortion, self._min_size, self._exclusion = distortion, min_size, exclusion
        self._seed = seed
        self._read: dict[int, _Pieces] = {}

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, request: SampleRequest) -> dict[str, Any]:
        number = self.volumes[request.index]
        path = self.source.path(number, "image")
        try:
            support, query = self._drawn(number, sample_rng(self._seed, request.k))
        except Exception as error:
            raise SampleError(
                f"episode {request.k}, {path}: {str(error).removeprefix(f'{path}: ')}"
            ) from error
        side = (request.gt_size, request.gt_size)
        return {
            "support_images": as_images(support[0][None], side),
            "support_masks": as_masks(support[1][None], side),
            "query_images": as_images(query[0][None], side)[0],
            "query_masks": as_masks(query[1][None], side)[0],
            "path": path,
            "k": request.k,
        }

    def _drawn(self, number: int, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return support and query as pairs of an image (H, W) and its mask."""
        if number not in self._read:
            self._read[number] = self._pieces(number)
        pieces = self._read[number]
        chosen = int(rng.choice(len(pieces.slices), p=pieces.probabilities))
        below, piece = int(pieces.slices[chosen]), pieces.numbers[chosen]
        order = (below, below + 1) if rng.random() < 0.5 else (below + 1, below)
        slices = [(pieces.image[z], (pieces.supervoxels[z] == piece).astype(np.float32)) for z in order]
        brighter, warped = int(rng.integers(2)), int(rng.integers(2))
        image, mask = slices[brighter]
        slices[brighter] = with_gamma(image, rng.uniform(*self._distortion.gamma)), mask
        slices[warped] = warp(*slices[warped], self._distortion, rng)
        return slices

    def _pieces(self, number: int) -> _Pieces:
        image, supervoxels = self.source.image(number), self.source.supervoxels(number)
        seen = np.ones(len(image), bool)
        if self._exclusion.values:
            seen = self._exclusion.keeps(self.source.label(number))
        found = neighbours(supervoxels, seen, self._min_size)
        if not len(found[0]):
            raise ValueError(
                f"no supervoxel of {self.source.path(number, 'supervoxels')} covers {self._min_size} pixels "
                "in one of two neighbouring slices; lower min_size, exclude fewer classes or make larger ones"
            )
        return _Pieces(image, supervoxels, *found)


def neighbours(
    supervoxels: np.ndarray, seen: np.ndarray, min_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs of neighbouring slices that show one supervoxel: its number, lower slice, probability.

    As the release draws: a supervoxel, one of its runs of at least two slices, a place in the run; again
    until the larger area is large enough.

    Args:
        supervoxels: (D, H, W).
        seen: (D), the slices that count.
        min_size: least number of pixels in the larger of the two slices.
    """
    largest = int(supervoxels.max()) + 1
    areas = np.stack([np.bincount(piece.ravel(), minlength=largest) for piece in supervoxels])
    areas[~seen] = 0
    areas[:, 0] = 0
    present = (areas > 0).T
    numbers, slices = np.nonzero(present[:, :-1] & present[:, 1:])
    if not len(numbers):
        return numbers, slices, np.zeros(0)
    begins = np.ones(len(numbers), bool)
    begins[1:] = (np.diff(numbers) != 0) | (np.diff(slices) != 1)
    run = np.cumsum(begins) - 1
    places = np.bincount(run)[run]
    runs = np.bincount(numbers[begins], minlength=largest)[numbers]
    large = np.maximum(areas[slices, numbers], areas[slices + 1, numbers]) >= min_size
    weights = (1 / (places * runs))[large]
    return numbers[large], slices[large], weights / weights.sum()


# --- distortions -----------------------------------------------------------------------------------


def with_gamma(image: np.ndarray, gamma: float) -> np.ndarray:
    """Return an image with its range of values kept and those between changed by an exponent."""
    low = image.min()
    extent = image.max() - low + 1e-5
    return extent * ((image - low + 1e-5) / extent) ** gamma + low


def warp(
    image: np.ndarray, mask: np.ndarray, how: Distortion, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return an image (H, W) and its mask, warped alike: affinely, then elastically. Outside are zeros."""
    height, width = image.shape
    matrix = affine_matrix(
        (height, width),
        rng.uniform(-how.rotate, how.rotate),
        (rng.uniform(-how.shift, how.shift), rng.uniform(-how.shift, how.shift)),
        rng.uniform(-how.shear, how.shear),
        rng.uniform(*how.zoom),
    )
    image, mask = (cv2.warpAffine(plane, matrix[:2], (width, height)) for plane in (image, mask))
    if how.elastic_alpha:
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        kernel = (2 * round(2 * how.elastic_sigma) + 1,) * 2
        shifts = [
            how.elastic_alpha
            * cv2.GaussianBlur(rng.uniform(-1, 1, image.shape).astype(np.float32), kernel, how.elastic_sigma)
            for _ in range(2)
        ]
        image, mask = (
            cv2.remap(plane, x + shifts[0], y + shifts[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            for plane in (image, mask)
        )
    return image, np.round(mask)


def affine_matrix(
    size: tuple[int, int], rotation: float, shift: tuple[float, float], shear: float, zoom: float
) -> np.ndarray:
    """Return a (3, 3) matrix that rotates, then shifts, shears and zooms, as the release composes it.

    Args:
        size: height and width; rotation and zoom leave the middle in place.
        rotation: in degrees, as OpenCV counts them.
        shift: to the right and down, in pixels.
        shear: in degrees.
        zoom: factor.
    """
    centre, last = (size[1] / 2, size[0] / 2), [[0.0, 0.0, 1.0]]
    turned = np.vstack([cv2.getRotationMatrix2D(centre, rotation, 1.0), last])
    shifted = np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]], *last])
    angle = np.deg2rad(shear)
    sheared = np.array([[1.0, -np.sin(angle), 0.0], [0.0, np.cos(angle), 0.0], *last])
    zoomed = np.vstack([cv2.getRotationMatrix2D(centre, 0.0, zoom), last])
    return zoomed @ sheared @ shifted @ turned


# --- tensors ---------------------------------------------------------------------------------------


def as_images(slices: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Return slices (n, H, W) resized to ``size``, float32 (n, 3, *size), channels alike."""
    planes = np.stack([_resized(plane, size, cv2.INTER_LINEAR) for plane in slices.astype(np.float32)])
    return torch.from_numpy(planes)[:, None].repeat(1, 3, 1, 1)


def as_masks(masks: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Return masks (n, H, W) resized to ``size``, float32 (n, *size)."""
    return torch.from_numpy(
        np.stack([_resized(plane, size, cv2.INTER_NEAREST) for plane in masks.astype(np.float32)])
    )


def _resized(plane: np.ndarray, size: tuple[int, int], how: int) -> np.ndarray:
    return plane if plane.shape == size else cv2.resize(plane, size[::-1], interpolation=how)


class AbsentClassError(ValueError):
    """Volumes that do not show what they are to be evaluated with; the message begins with a path."""


class QuerySet:
    """One item for every organ and query volume that shows it, with slices of the support volume.

    As released, only slices that show the organ count, of support and of query; the query's are cut in as
    many parts as there are support slices, and each part is segmented by its own. With ``whole`` nothing is
    known of the query: all its slices count, and the middle slice of the support's organ stands for all.

    An item holds ``support_images`` float32 (P, 3, side, side), ``support_masks`` (P, side, side),
    ``query_images`` (n, 3, side, side), ``part`` int64 (n), the support slice of each query slice, ``label``
    bool (n, H, W) as stored, ``copy`` bool (n, H, W), the support's mask in its place, ``organ``, ``name``.

    Args:
        source: of volumes with labels.
        volumes: numbers of those to evaluate with, the support among them.
        support: position of the support volume among them.
        organs: values of the classes by name.
        side: that slices are resized to; None: the stored one.
        parts: support slices.
        whole: the stricter setting.

    Raises:
        ValueError: an unreadable label, no such support, or an organ that it or every query lacks.
    """

    def __init__(
        self,
        source: VolumeSource,
        volumes: Sequence[int],
        support: int,
        organs: Mapping[str, int],
        side: int | None = None,
        parts: int = 3,
        whole: bool = False,
    ) -> None:
        if not 0 <= support < len(volumes):
            raise ValueError(f"support: found {support}, expected 0 to {len(volumes) - 1}")
        if len(volumes) < 2:
            raise ValueError("one volume is no query and support; two at least are needed")
        self.source, self._support, self._organs = source, volumes[support], dict(organs)
        self._side, self._parts, self._whole = side, 1 if whole else parts, whole
        queries = [number for number in volumes if number != self._support]
        held = {number: set(np.unique(source.label(number)).tolist()) for number in volumes}
        shown = set[int]().union(*(held[number] for number in queries))
        for which, path, there in (
            ("the support does not show", source.path(self._support, "label"), held[self._support]),
            ("no query shows", f"{source.path(queries[0], 'label')}, …", shown),
        ):
            if missing := [f"{name} (label {value})" for name, value in organs.items() if value not in there]:
                raise AbsentClassError(
                    f"{path}: {which} {', '.join(missing)}; take another support or organs"
                )
        self._items = [
            (name, number) for name, value in organs.items() for number in queries if value in held[number]
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        organ, number = self._items[index]
        try:
            support, support_mask = self._shown(self._support, organ)
            chosen = support_slices(len(support), self._parts)
            support, support_mask = support[chosen], support_mask[chosen]
            query, label = self._shown(number, organ, whole=self._whole)
        except Exception as error:
            raise SampleError(f"{organ}, volume {self.source.names[number]}: {error}") from error
        size = query.shape[1:] if self._side is None else (self._side, self._side)
        part = np.repeat(np.arange(self._parts), np.diff(query_bounds(len(query), self._parts)))
        return {
            "support_images": as_images(support, size),
            "support_masks": as_masks(support_mask, size),
            "query_images": as_images(query, size),
            "part": torch.from_numpy(part),
            "label": torch.from_numpy(label),
            "copy": as_masks(support_mask, label.shape[1:]).bool()[part],
            "organ": organ,
            "name": f"{organ} of volume {self.source.names[number]}",
            "index": index,
        }

    def _shown(self, number: int, organ: str, whole: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return the slices of a volume that show an organ, or all, (n, H, W), and its mask there."""
        image, mask = self.source.image(number), self.source.label(number) == self._organs[organ]
        kept = np.ones(len(mask), bool) if whole else mask.any((1, 2))
        return image[kept], mask[kept]
