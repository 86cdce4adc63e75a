"""Windows of any shape, shifted, and the same windows of a coarser map (GRL's stripes and anchors).

B batch, H x W map, h x w window, I x J = (H / h) x (W / w) windows of an image, N = h * w tokens of a
window, D channels of a head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .biased_attention import Mask
from .derived import derived
from .onlooker import Places, positions
from .windows import Side

_REGIONS = 9


@dataclass(frozen=True)
class Tiling:
    """Non-overlapping windows of a map that is first rolled by minus ``shift``.

    Attributes:
        window: (h, w).
        shift: rows and columns; None where the map is not rolled, and so needs no mask.
    """

    window: Side
    shift: Side | None = None

    @property
    def at_rest(self) -> Tiling:
        """The same windows, not shifted."""
        return Tiling(self.window)

    def coarser(self, factor: int) -> Tiling:
        """Return the tiling of a map that is smaller by ``factor``; shifts are rounded down."""
        h, w = self.window
        shift = self.shift and (self.shift[0] // factor, self.shift[1] // factor)
        return Tiling((h // factor, w // factor), shift)

    def split(self, x: Tensor, parts: int, heads: int) -> Tensor:
        """Cut (B, H, W, parts * heads * D) into (parts, B, I, J, heads, N, D), each part contiguous."""
        (h, w), (B, H, W, _) = self.window, x.shape
        if self.shift is not None:
            x = x.roll((-self.shift[0], -self.shift[1]), (1, 2))
        x = x.view(B, H // h, h, W // w, w, parts, heads, -1)
        return x.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6)

    def join(self, x: Tensor) -> Tensor:
        """Put (B, I, J, heads, N, D) back together to (B, H, W, heads * D)."""
        x = x.unflatten(4, self.window).permute(0, 1, 4, 2, 5, 3, 6)  # (B, I, h, J, w, heads, D)
        x = x.flatten(5, 6).flatten(3, 4).flatten(1, 2)
        return x if self.shift is None else x.roll(self.shift, (1, 2))


def mask_between(
    queries: Tiling, keys: Tiling, grid: Side, device: torch.device, dtype: torch.dtype
) -> Mask | None:
    """Return the mask of attention between two tilings of the same I x J ``grid``; None if not shifted.

    Tokens that rolling brought together from opposite borders get -100: Swin's value, and finite, so a
    released network is trained with it.
    """
    if queries.shift is None or keys.shift is None:
        return None
    kinds = (min(grid[0], 2), min(grid[1], 2))
    return Mask(
        _regions(queries.window, queries.shift, kinds, device),
        _separation(keys.window, keys.shift, kinds, device, dtype),
    )


def places_between(queries: Tiling, keys: Tiling, grid: Side, batch: int, device: torch.device) -> Places:
    """Return where the tokens of two tilings of the same I x J ``grid`` lie on the finer map of both."""
    h, w = max(queries.window, keys.window)
    tokens = []
    for tiling in (queries, keys):
        factor = h // tiling.window[0]
        size = grid[0] * tiling.window[0], grid[1] * tiling.window[1]
        centres = positions(size, device) * factor + (factor - 1) / 2
        tokens.append(tiling.split(centres, 1, 1)[0].flatten(0, 2))  # (I * J, 1, N, 2)
    return Places(tokens[0], tokens[1], (batch, grid[0] * h, grid[1] * w))


def full_mask(queries: Tiling, keys: Tiling, grid: Side, device: torch.device) -> Tensor:
    """Return :func:`mask_between` of two shifted tilings, window by window: (I * J, N, K), float32."""
    mask = mask_between(queries, keys, grid, device, torch.float32)
    assert mask is not None, "shifted tilings have a mask"
    kinds = [[int(place == count - 1 and count > 1) for place in range(count)] for count in grid]
    return torch.stack([mask.table[i, j][mask.regions[i, j]] for i in kinds[0] for j in kinds[1]])


@derived
def _regions(window: Side, shift: Side, kinds: Side, device: torch.device) -> Tensor:
    """Number the regions 0..8 that the tokens of a window come from: (kinds of rows, of columns, N).

    Windows in the last row or column are one kind, all others the other.
    """
    rows, columns = (
        torch.stack([_along(side, step, last, device) for last in [False, True][-count:]])
        for side, step, count in zip(window, shift, kinds, strict=True)
    )
    return (3 * rows[:, None, :, None] + columns[None, :, None, :]).flatten(2)


def _along(side: int, step: int, last: bool, device: torch.device) -> Tensor:
    position = torch.arange(side, device=device)
    if step == 0:
        # The released code's slice(-0, None) is the whole axis. That matters where only the anchors'
        # shift was rounded down to nothing.
        return torch.full_like(position, 2)
    return 1 + (position >= side - step).long() if last else torch.zeros_like(position)


@derived
def _separation(window: Side, shift: Side, kinds: Side, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return what a query in each region adds to the logits of a window's tokens: (..., 9, N)."""
    regions = _regions(window, shift, kinds, device)
    every = torch.arange(_REGIONS, device=device).unsqueeze(1)
    return (regions.unsqueeze(2) != every).to(dtype) * -100.0
