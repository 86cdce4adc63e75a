"""What attention layers show to whoever looks on: their weights, which fused kernels never store.

While a function is set by :func:`looking_on`, every layer that attends to places of a map calls it; the
weights are computed again from queries, keys and bias, in parts, when it asks for them. Otherwise, and while
a compiler traces, nothing happens but the look at one variable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Where tokens lie on the map: rows and columns, (0, 0) the middle of its first position.

    Attributes:
        queries: (G, 1 or heads, N, 2); row m of the M that attend is at ``queries[m % G]``.
        keys: (G', 1 or heads, K, 2), likewise.
        maps: B, H, W of the maps; queries beyond H and W are tokens that the layer has added.
        part: which of a layer's sets of heads attends, where it calls attention for each of them.
    """

    queries: Tensor
    keys: Tensor
    maps: tuple[int, int, int]
    part: int = 0


@dataclass(frozen=True)
class Seen:
    """One call of attention.

    Attributes:
        weights: gives those of some queries: (M, heads, n, K), which sum to 1.
        places: of its tokens.
    """

    weights: Callable[[slice], Tensor]
    places: Places


_onlooker: Callable[[Seen], None] | None = None


@contextmanager
def looking_on(onlooker: Callable[[Seen], None]) -> Iterator[None]:
    """Let ``onlooker`` be called by every attention layer that runs, uncompiled, in this context."""
    global _onlooker
    before, _onlooker = _onlooker, onlooker
    try:
        yield
    finally:
        _onlooker = before


def show(weights: Callable[[slice], Tensor], places: Callable[[], Places] | None) -> None:
    """Show a call of attention to the onlooker, if there is one; where tokens lie is computed then."""
    if torch.compiler.is_compiling() or _onlooker is None or places is None:
        return
    with torch.no_grad():
        _onlooker(Seen(weights, places()))


def is_looked_at() -> bool:
    """Say whether layers have to compute attention in a way that can be shown."""
    return not torch.compiler.is_compiling() and _onlooker is not None


def positions(size: tuple[int, int], device: torch.device) -> Tensor:
    """Return row and column of each position of a map: (1, H, W, 2), float32."""
    axes = (torch.arange(length, device=device, dtype=torch.float32) for length in size)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)[None]


def pooled_places(x: Tensor, side: int) -> Places:
    """Return where positions of (B, H, W, C) lie that attend to averages of ``side`` x ``side`` of them."""
    everywhere = positions((x.shape[1], x.shape[2]), x.device)
    pooled = F.avg_pool2d(everywhere.permute(0, 3, 1, 2), side, ceil_mode=True).permute(0, 2, 3, 1)
    queries, keys = (part.flatten(1, 2).unsqueeze(1) for part in (everywhere, pooled))
    return Places(queries, keys, (x.shape[0], x.shape[1], x.shape[2]))
