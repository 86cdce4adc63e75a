"""What was learned for one size, resized for another: by bicubic interpolation, as Swin and DAT do."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .windows import Side


def resized_table(table: Tensor, rows: int) -> Tensor:
    """Return ``table`` (R * R, heads), of a square window, for one with ``rows`` offsets.

    Bicubic, as in the release. It is left as it is if it has that many rows, or belongs to no square window.
    """
    old, new = math.isqrt(len(table)), math.isqrt(rows)
    if len(table) == rows or old**2 != len(table) or new**2 != rows:
        return table
    grid = table.t().reshape(1, -1, old, old)
    return resized(grid, (new, new)).flatten(2)[0].t()


def resized(x: Tensor, size: Side) -> Tensor:
    """Return what was learned for one grid (B, C, H, W) at the points of another: (B, C, *size)."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return F.interpolate(x.to(dtype), size, mode="bicubic", align_corners=False).to(x.dtype)
