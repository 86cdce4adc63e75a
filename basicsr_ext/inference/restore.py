"""Run a restoration network on images of any size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ..archs import pixel_range
from ..archs.padding import SizeRequirement, call_padded, requirement_of


@torch.inference_mode()
def restore(
    net: nn.Module,
    image: np.ndarray,
    scale: int = 4,
    tile: int | None = None,
    tile_overlap: int = 32,
) -> np.ndarray:
    """Return ``image`` restored by ``net``.

    Args:
        net: a network that maps NCHW to NCHW ``scale`` times as large; it is put in eval mode for the call.
        image: (H, W, C) or (H, W), RGB; uint8, uint16, or float in 0..1.
        scale: output side over input side.
        tile: side of the square tiles that are run one after the other; ``None``: the whole image at once.
        tile_overlap: pixels that neighbouring tiles share, averaged.

    Returns:
        The restored image in the same layout and data type.

    Raises:
        TypeError: the image's data type is none of those.
        ValueError: the image has no pixels or a wrong number of dimensions, or the overlap is not smaller
            than the tile.
    """
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"expected an image (H, W, C) or (H, W), got shape {image.shape}")
    if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"expected uint8, uint16 or float, got {image.dtype}")
    peak = np.iinfo(image.dtype).max if image.dtype in (np.uint8, np.uint16) else 1.0
    parameter = next(net.parameters())
    channels_last = np.atleast_3d(image).astype(np.float32) / np.float32(peak)
    lq = torch.from_numpy(channels_last).permute(2, 0, 1)[None].to(parameter.device, parameter.dtype)
    was_training = net.training
    net.eval()
    try:
        restored = restore_tensor(net, lq, scale, requirement_of(net), tile, tile_overlap)
    finally:
        net.train(was_training)
    pixels = restored[0].clamp(0, 1).permute(1, 2, 0).double().cpu().numpy()
    if image.ndim == 2:
        pixels = pixels[..., 0]
    if peak == 1.0:
        return pixels.astype(image.dtype)
    return (pixels * peak).round().astype(image.dtype)


def restore_tensor(
    net: nn.Module,
    lq: Tensor,
    scale: int,
    requirement: SizeRequirement,
    tile: int | None = None,
    tile_overlap: int = 32,
) -> Tensor:
    """Return ``net``'s output for ``lq`` (N, C, H, W) in 0..1, of any size: (N, C, H * scale, W * scale).

    The caller chooses eval mode and gradient mode. The output is not clamped.
    """
    value_range = pixel_range(net)
    if tile is None:
        return call_padded(net, lq * value_range, scale, requirement) / value_range
    if tile_overlap >= tile:
        raise ValueError(f"tile_overlap {tile_overlap} must be smaller than tile {tile}")
    height, width = lq.shape[-2:]
    total: Tensor | None = None
    count = lq.new_zeros(1, 1, height * scale, width * scale)
    for top in _starts(height, tile, tile_overlap):
        for left in _starts(width, tile, tile_overlap):
            part = lq[..., top : top + tile, left : left + tile]
            restored = call_padded(net, part * value_range, scale, requirement) / value_range
            if total is None:
                total = restored.new_zeros(*restored.shape[:2], height * scale, width * scale)
            window = (
                ...,
                slice(top * scale, (top + tile) * scale),
                slice(left * scale, (left + tile) * scale),
            )
            total[window] += restored
            count[window] += 1
    assert total is not None, "an image has at least one tile"
    return total / count


def _starts(length: int, tile: int, overlap: int) -> Iterator[int]:
    """Yield where tiles begin along a side, the last one flush with the end."""
    last = max(length - tile, 0)
    yield from range(0, last, tile - overlap)
    yield last
