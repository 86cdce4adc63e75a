"""Tiles that overlap: where they lie in an image, and how their results become one picture.

Neighbours are blended in the middle quarter of their overlap; outside of it one of the two alone counts. So
what a network makes of a tile's cut edges, where it sees no neighbourhood, never reaches the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

_BLENDED = 1 / 4
"""Share of an overlap in which both neighbours count."""


def spans(length: int, tile: int, overlap: int, multiple_of: int = 1) -> list[slice]:
    """Cut a side of ``length`` pixels into spans of at most ``tile`` that share at least ``overlap``.

    All begin at multiples of ``multiple_of``, where it leaves any choice: so that windows of attention lie
    as they do in the whole image.

    Raises:
        ValueError: ``overlap`` is not smaller than ``tile``.
    """
    if overlap >= tile:
        raise ValueError(f"tile_overlap {overlap} must be smaller than tile {tile}")
    if length <= tile:
        return [slice(0, length)]
    step = (tile - overlap) // multiple_of * multiple_of or tile - overlap
    count = 1 - (tile - length) // step
    return [slice(i * step, min(i * step + tile, length)) for i in range(count)]


def weights(parts: Sequence[slice], scale: int) -> list[Tensor]:
    """Return what each span's results count, (span * scale,) float32; at every pixel they sum to one."""
    factors = [torch.ones((part.stop - part.start) * scale) for part in parts]
    for i, (before, after) in enumerate(pairwise(parts)):
        shared = (before.stop - after.start) * scale
        if shared:
            rising = _ramp(shared)
            factors[i + 1][:shared] *= rising
            factors[i][-shared:] *= rising.flip(0)
    total = torch.zeros(parts[-1].stop * scale)
    for part, factor in zip(parts, factors, strict=True):
        total[part.start * scale : part.stop * scale] += factor
    return [
        factor / total[part.start * scale : part.stop * scale]
        for part, factor in zip(parts, factors, strict=True)
    ]


def _ramp(length: int) -> Tensor:
    """Return a smooth way from 0 to 1 in the middle of ``length`` pixels."""
    place = (torch.arange(length) + 0.5) / length
    t = ((place - (1 - _BLENDED) / 2) / _BLENDED).clamp(0, 1)
    return t * t * (3 - 2 * t)


def bands(
    run: Callable[[slice, slice], Tensor], rows: Sequence[slice], columns: Sequence[slice], scale: int
) -> Iterator[tuple[int, Tensor]]:
    """Run all tiles, and yield the picture in bands of finished rows, from top to bottom.

    Only one row of tiles is kept at a time.

    Args:
        run: gives the result (N, C, h * scale, w * scale) of the tile at h rows and w columns.
        rows: spans of the image's height, see :func:`spans`.
        columns: spans of its width.
        scale: output side over input side.

    Yields:
        The first row of each band, and the band (N, C, height, width of the image * scale).
    """
    if len(rows) == len(columns) == 1:
        yield 0, run(rows[0], columns[0])
        return
    down, across = weights(rows, scale), weights(columns, scale)
    kept: Tensor | None = None
    ends = [part.start * scale for part in rows[1:]] + [rows[-1].stop * scale]
    for row, vertical, end in zip(rows, down, ends, strict=True):
        band: Tensor | None = None
        for column, horizontal in zip(columns, across, strict=True):
            part = run(row, column)
            part = part.to(torch.promote_types(part.dtype, torch.float32))
            if band is None:
                band = part.new_zeros(*part.shape[:3], columns[-1].stop * scale)
            weight = vertical.unsqueeze(1) * horizontal
            band[..., column.start * scale : column.stop * scale] += part * weight.to(part.device, part.dtype)
        assert band is not None, "an image has at least one column of tiles"
        if kept is not None:
            band[:, :, : kept.shape[2]] += kept
        finished = end - row.start * scale
        kept = band[:, :, finished:].clone()
        yield row.start * scale, band[:, :, :finished]
