"""Few-shot episodes: a support slice with its mask and a query slice, of supervoxels or of labelled organs.

Training episodes and the protocol of evaluation are those of CAT-Net's release (hust-linyi/CAT-Net), which
follows ALPNet (arXiv:2007.09886) and ADNet (arXiv:2203.02048).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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

    Either the query changes its gamma, or the support, of which each slice does so for itself; and likewise
    one of them is warped.

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
    """A volume, and runs of slices that may be an episode: piece, lowest slice, probability."""

    image: np.ndarray
    supervoxels: np.ndarray
    numbers: np.ndarray
    slices: np.ndarray
    probabilities: np.ndarray


class EpisodeSet:
    """Episodes of supervoxels: no label is needed.

    An episode is a function of (seed, request) alone, and the request one of the episode's number:
    ``support_images`` float32 (S, 3, side, side), ``support_masks`` float32 (S, side, side), 1 in the
    supervoxel, and of the next slice ``query_images`` (3, side, side) and ``query_masks`` (side, side);
    ``path`` and ``k``. Volumes are visited in passes, where the release draws each time.

    Args:
        source: of volumes; each stays in memory once it was read.
        volumes: numbers of those to train on.
        distortion: of slices.
        min_size: pixels that the largest of the slices' pieces has at least.
        exclusion: slices left out.
        seed: of the run.
        shots: S, support slices.
    """

    def __init__(
        self,
        source: VolumeSource,
        volumes: Sequence[int],
        distortion: Distortion,
        min_size: int,
        exclusion: Exclusion,
        seed: int,
        shots: int = 1,
    ) -> None:
        self.source, self.volumes = source, tuple(volumes)
        self._shots = shots
        self._distortion, self._min_size, self._exclusion = distortion, min_size, exclusion
        self._seed = seed
        self._read: dict[int, _Pieces] = {}

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, request: SampleRequest) -> dict[str, Any]:
        number = self.volumes[request.index]
        path = self.source.path(number, "image")
        try:
            images, masks = self._drawn(number, sample_rng(self._seed, request.k))
        except Exception as error:
            raise SampleError(
                f"episode {request.k}, {path}: {str(error).removeprefix(f'{path}: ')}"
            ) from error
        side = (request.gt_size, request.gt_size)
        shown, marked = as_images(images, side), as_masks(masks, side)
        return {
            "support_images": shown[:-1],
            "support_masks": marked[:-1],
            "query_images": shown[-1],
            "query_masks": marked[-1],
            "path": path,
            "k": request.k,
        }

    def _drawn(self, number: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return images (S + 1, H, W), the query last, and their masks."""
        if number not in self._read:
            self._read[number] = self._pieces(number)
        pieces = self._read[number]
        chosen = int(rng.choice(len(pieces.slices), p=pieces.probabilities))
        below, piece = int(pieces.slices[chosen]), pieces.numbers[chosen]
        order = np.arange(below, below + self._shots + 1)[:: 1 if rng.random() < 0.5 else -1]
        images, masks = pieces.image[order], (pieces.supervoxels[order] == piece).astype(np.float32)
        support, query = range(self._shots), range(self._shots, self._shots + 1)
        brighter, warped = (query if rng.integers(2) else support for _ in range(2))
        for shot in brighter:
            images[shot] = with_gamma(images[shot], rng.uniform(*self._distortion.gamma))
        for shot in warped:
            images[shot], masks[shot] = warp(images[shot], masks[shot], self._distortion, rng)
        return images, masks

    def _pieces(self, number: int) -> _Pieces:
        image, supervoxels = self.source.image(number), self.source.supervoxels(number)
        seen = np.ones(len(image), bool)
        if self._exclusion.values:
            seen = self._exclusion.keeps(self.source.label(number))
        found = neighbours(supervoxels, seen, self._min_size, self._shots + 1)
        if not len(found[0]):
            path = self.source.path(number, "supervoxels")
            raise ValueError(
                f"no supervoxel of {path} covers {self._min_size} pixels in one of {self._shots + 1} "
                "neighbouring slices that all show it; lower min_size or shots, exclude fewer classes or "
                "make larger ones"
            )
        return _Pieces(image, supervoxels, *found)


def neighbours(
    supervoxels: np.ndarray, seen: np.ndarray, min_size: int, length: int = 2
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return neighbouring slices that all show one supervoxel: its number, lowest slice, probability.

    As the release draws: a supervoxel, one of its runs of at least so many slices, a place in the run; again
    until the largest area is large enough.

    Args:
        supervoxels: (D, H, W).
        seen: (D), the slices that count.
        min_size: least number of pixels in the largest of the slices.
        length: number of slices.
    """
    count = len(supervoxels) - length + 1
    largest = int(supervoxels.max()) + 1
    areas = np.stack([np.bincount(piece.ravel(), minlength=largest) for piece in supervoxels])
    areas[~seen] = 0
    areas[:, 0] = 0
    together = np.stack([areas[first : first + max(count, 0)] for first in range(length)])
    numbers, slices = np.nonzero((together > 0).all(0).T)
    if not len(numbers):
        return numbers, slices, np.zeros(0)
    begins = np.ones(len(numbers), bool)
    begins[1:] = (np.diff(numbers) != 0) | (np.diff(slices) != 1)
    run = np.cumsum(begins) - 1
    places = np.bincount(run)[run]
    runs = np.bincount(numbers[begins], minlength=largest)[numbers]
    large = together.max(0)[slices, numbers] >= min_size
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


def _require(organs: Mapping[str, int], there: Collection[int], missing_in: str) -> None:
    if missing := [f"{name} (label {value})" for name, value in organs.items() if value not in there]:
        raise AbsentClassError(f"{missing_in} {', '.join(missing)}; take another support or fewer organs")


class QuerySet:
    """One item for every organ and query volume that shows it, with slices of the support volume.

    As released, only slices that show the organ count, of support and of query; the query's are cut in as
    many parts as there are support slices, and each part is segmented by its own. With ``whole`` nothing is
    known of the query: all its slices count, and the middle slice of the support's organ stands for all.

    Of several support volumes each gives its slices. An item holds ``support_images`` float32 (P, S, 3, side,
    side), ``support_masks`` (P, S, side, side), ``query_images`` (n, 3, side, side), ``part`` int64 (n), the
    support slices of each query slice, ``label`` bool (n, H, W) as stored, ``copy`` bool (n, H, W), what most
    of the support's masks show in their place, ``slices`` int64 (n), their numbers, ``organ``, ``name``.

    Args:
        source: of volumes with labels.
        volumes: numbers of those to evaluate with, the support among them.
        supports: positions of the S support volumes among them.
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
        supports: Sequence[int],
        organs: Mapping[str, int],
        side: int | None = None,
        parts: int = 3,
        whole: bool = False,
    ) -> None:
        for support in supports:
            if not 0 <= support < len(volumes):
                raise ValueError(f"support: found {support}, expected 0 to {len(volumes) - 1}")
        if len(set(supports)) < len(supports):
            raise ValueError(f"support: found {list(supports)}, expected each volume once")
        if len(volumes) <= len(supports):
            raise ValueError(f"{len(volumes)} volume(s) hold no query beside {len(supports)} support(s)")
        self.source, self._organs = source, dict(organs)
        self._supports = [volumes[support] for support in supports]
        self._side, self._parts, self._whole = side, 1 if whole else parts, whole
        queries = [number for number in volumes if number not in self._supports]
        held = {number: set(np.unique(source.label(number)).tolist()) for number in volumes}
        for number in self._supports:
            _require(organs, held[number], f"{source.path(number, 'label')}: the support does not show")
        shown = set[int]().union(*(held[number] for number in queries))
        _require(organs, shown, f"{source.path(queries[0], 'label')}, …: no query shows")
        self._items = [
            (name, number) for name, value in organs.items() for number in queries if value in held[number]
        ]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        organ, number = self._items[index]
        try:
            query, label, slices = self._shown(number, organ, whole=self._whole)
            supports = [self._support_slices(support, organ) for support in self._supports]
        except Exception as error:
            raise SampleError(f"{organ}, volume {self.source.names[number]}: {error}") from error
        size = query.shape[1:] if self._side is None else (self._side, self._side)
        copies = torch.stack([as_masks(masks, label.shape[1:]) for _, masks in supports]).mean(0) > 0.5
        part = np.repeat(np.arange(self._parts), np.diff(query_bounds(len(query), self._parts)))
        return {
            "support_images": torch.stack([as_images(images, size) for images, _ in supports], 1),
            "support_masks": torch.stack([as_masks(masks, size) for _, masks in supports], 1),
            "query_images": as_images(query, size),
            "part": torch.from_numpy(part),
            "label": torch.from_numpy(label),
            "copy": copies[part],
            "slices": torch.from_numpy(slices),
            "organ": organ,
            "name": f"{organ} of volume {self.source.names[number]}",
            "index": index,
        }

    def _support_slices(self, number: int, organ: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the slices of a support volume that stand for the parts, (P, H, W), and their masks."""
        image, mask, _ = self._shown(number, organ)
        chosen = support_slices(len(image), self._parts)
        return image[chosen], mask[chosen]

    def _shown(
        self, number: int, organ: str, whole: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the slices of a volume that show an organ, or all, (n, H, W), its mask, their numbers."""
        image, mask = self.source.image(number), self.source.label(number) == self._organs[organ]
        kept = np.flatnonzero(mask.any((1, 2)) | whole)
        return image[kept], mask[kept], kept
