"""Large maps in regions, so that attention over all of a region costs a map no more than linearly."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..layers.windows import window_partition, window_reverse
from ..padding import mirror_to


def in_regions(attend: Callable[[Tensor], Tensor], x: Tensor, longest: int) -> Tensor:
    """Apply ``attend`` to each region of (B, H, W, C): to (B, H, W, C').

    A map is divided into as few regions as sides of at most ``longest`` allow, all of one size, and mirrored
    by the few pixels that are missing for that.
    """
    counts = [-(-length // longest) for length in x.shape[1:3]]
    sides = [-(-length // count) for length, count in zip(x.shape[1:3], counts, strict=True)]
    if counts == [1, 1]:
        return attend(x)
    size = (counts[0] * sides[0], counts[1] * sides[1])
    padded = mirror_to(mirror_to(x, 1, size[0]), 2, size[1])
    y = window_reverse(attend(window_partition(padded, (sides[0], sides[1]))), size)
    return y[:, : x.shape[1], : x.shape[2]]
