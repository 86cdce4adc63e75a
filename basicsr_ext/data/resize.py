"""MATLAB's ``imresize(uint8, s, 'bicubic')`` for integer factors, bit for bit.

The cubic kernel (a = -0.5) at integer factors has rational weights. Over their common denominator all
sums are integers: exact, the same in any order, and ties are true ties. MATLAB antialiases when it
shrinks, mirrors at borders, does the height first, and rounds half up to the image's own type after
each of the two passes. Because sums are exact and weights repeat with the factor, a crop of the
result can be made from the crop of the source plus the kernel's margin.

Images of floats are resized as MATLAB resizes them: neither rounded nor clipped.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .sources import LazyImage, mirrored_indices, require_inside, touched


def cut_to_multiple(image: np.ndarray, scale: int) -> np.ndarray:
    """Return ``image`` without the rows and columns, at bottom and right, beyond a multiple of ``scale``."""
    return image[: image.shape[0] // scale * scale, : image.shape[1] // scale * scale]


def downscale(image: np.ndarray, scale: int) -> np.ndarray:
    """Return ``image`` (H, W, C) shrunk to (H // scale, W // scale, C), as MATLAB's ``1 / scale`` does.

    Rows and columns beyond a multiple of ``scale`` are cut first, at bottom and right.

    Args:
        image: uint8, uint16 or floats.
        scale: 1 or more; 1 returns the image.
    """
    return lq_crop(image, 0, 0, (image.shape[0] // scale, image.shape[1] // scale), scale)


def lq_crop(
    image: np.ndarray | LazyImage, top: int, left: int, size: int | tuple[int, int], scale: int
) -> np.ndarray:
    """Return the crop at (top, left) of ``downscale(image, scale)`` without making the rest of it.

    Args:
        image: the whole ground truth, (H, W, C), uint8, uint16 or floats; only the crop and the kernel's
            margin are read of a lazy one.
        top: first row of the crop in the small image.
        left: first column of the crop in the small image.
        size: side of the crop, or its (height, width), in pixels of the small image.
        scale: 1 or more.

    Raises:
        ValueError: the crop leaves the small image.
    """
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = image.shape[0] // scale, image.shape[1] // scale
    require_inside((rows, columns), top, left, height, width)
    if scale == 1:
        return image[top : top + height, left : left + width]
    first, weights = _shrinking(scale)
    reach = len(weights) - scale
    starts = top * scale + first, left * scale + first
    lengths = height * scale + reach, width * scale + reach
    rows, columns = (
        _touched(count * scale, start, length)
        for count, start, length in zip((rows, columns), starts, lengths, strict=True)
    )
    window = _mirrored(image[rows, columns], 0, starts[0] - rows.start, lengths[0])
    window = _mirrored(window, 1, starts[1] - columns.start, lengths[1])
    stored = window.dtype
    for axis, length in ((0, height), (1, width)):
        window = _filter(window, axis, length, scale, weights)
    return window.astype(stored, copy=False)


def upscale(image: np.ndarray, scale: int) -> np.ndarray:
    """Return ``image`` (H, W, C) enlarged to (H * scale, W * scale, C), as MATLAB's ``scale`` does.

    Args:
        image: uint8 or uint16.
        scale: 1 or more; 1 returns the image.
    """
    if scale == 1:
        return image
    for axis in (0, 1):
        length = image.shape[axis]
        shape = list(image.shape)
        shape[axis] = length * scale
        enlarged = np.empty(shape, image.dtype)
        for phase, (first, weights) in enumerate(_enlarging(scale)):
            window = _mirrored(image, axis, first, length + len(weights) - 1)
            enlarged[_along(axis, slice(phase, None, scale))] = _filter(window, axis, length, 1, weights)
        image = enlarged
    return image


def _cubic(m: int, scale: int) -> int:
    """Return 16 scale^3 times the cubic kernel (a = -0.5) at m / (2 scale), an integer."""
    m = abs(m)
    if m <= 2 * scale:
        return 3 * m**3 - 10 * m**2 * scale + 16 * scale**3
    if m < 4 * scale:
        return -(m**3) + 10 * m**2 * scale - 32 * m * scale**2 + 32 * scale**3
    return 0


@lru_cache
def _shrinking(scale: int) -> tuple[int, tuple[int, ...]]:
    """Return the taps of output pixel x: the first one's offset from pixel scale * x, and all weights.

    The kernel is stretched by ``scale`` (antialiasing) around the centre, scale * x + (scale - 1) / 2.
    """
    taps = {tap: _cubic(2 * tap - (scale - 1), scale) for tap in range(-2 * scale, 3 * scale)}
    return _without_zeros(taps)


@lru_cache
def _enlarging(scale: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return, for each phase p, the taps of output pixel scale * x + p as offsets from pixel x."""
    phases = []
    for phase in range(scale):
        # Centre of the output pixel in units of 1 / (2 scale) input pixels from the centre of pixel x.
        centre = 2 * phase + 1 - scale
        phases.append(_without_zeros({tap: _cubic(centre - 2 * scale * tap, scale) for tap in range(-3, 4)}))
    return tuple(phases)


def _without_zeros(taps: dict[int, int]) -> tuple[int, tuple[int, ...]]:
    used = [tap for tap, weight in taps.items() if weight]
    weights = [taps[tap] for tap in range(used[0], used[-1] + 1)]
    # Smaller integers allow the narrower type in _filter.
    divisor = int(np.gcd.reduce(weights))
    return used[0], tuple(weight // divisor for weight in weights)


def _touched(extent: int, start: int, length: int) -> slice:
    """Return the part of 0..``extent`` that :func:`_mirrored` reads."""
    if start >= 0 and start + length <= extent:
        return slice(start, start + length)
    return touched(mirrored_indices(extent, start, length))


def _mirrored(image: np.ndarray, axis: int, start: int, length: int) -> np.ndarray:
    """Return ``length`` rows or columns from ``start`` on; outside the image it repeats mirrored."""
    extent = image.shape[axis]
    if start >= 0 and start + length <= extent:
        return image[_along(axis, slice(start, start + length))]
    return np.take(image, mirrored_indices(extent, start, length), axis=axis)


def _filter(window: np.ndarray, axis: int, length: int, stride: int, weights: tuple[int, ...]) -> np.ndarray:
    """Correlate ``window`` with ``weights`` at every ``stride``-th place.

    Integers are rounded half up and clipped; floats become float64.
    """
    total = sum(weights)
    if np.issubdtype(window.dtype, np.floating):
        return _sum(window.astype(np.float64), axis, length, stride, weights, 0) / total
    peak = np.iinfo(window.dtype).max
    bound = int(peak) * sum(map(abs, weights)) + total
    work = window.astype(np.int32 if bound <= np.iinfo(np.int32).max else np.int64)
    rounded = _sum(work, axis, length, stride, weights, total // 2) // total
    return np.clip(rounded, 0, peak).astype(window.dtype)


def _sum(
    work: np.ndarray, axis: int, length: int, stride: int, weights: tuple[int, ...], start: int
) -> np.ndarray:
    last = (length - 1) * stride + 1
    accumulated = np.full(work[_along(axis, slice(0, last, stride))].shape, start, work.dtype)
    for offset, weight in enumerate(weights):
        accumulated += weight * work[_along(axis, slice(offset, offset + last, stride))]
    return accumulated


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (slice(None),) * axis + (part,)
