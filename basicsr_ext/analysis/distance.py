"""How far attention reaches: the mean distance in pixels between a query and what it attends to, by head.

As Vision Transformer's (arXiv:2010.11929) and EDT's (arXiv:2112.10175) figures show it: of each query the
distances to all keys, weighed by the attention weights; of these the mean over queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..archs.layers.onlooker import Seen, looking_on

_CHUNK = 2**22
"""Weights that are computed at a time."""


@dataclass
class _Sum:
    total: Tensor
    count: float


class AttentionDistances:
    """Mean attention distances of all heads of a network, collected while it runs.

    Every layer that attends to places of a map is seen, of any network made of those in ``archs.layers``,
    but no compiled module.

    Args:
        network: to look at.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._sums: dict[str, dict[int, _Sum]] = {}

    def run(self, call: Callable[[Tensor], object], images: Tensor) -> None:
        """Take in what happens in ``call(images)``.

        Args:
            call: lets the network run on the images.
            images: (B, C, H, W), of a size to which the network adds nothing: their pixels are the unit.
        """
        pixels = images.shape[0] * images.shape[2] * images.shape[3]
        with _running(self._network) as names, looking_on(lambda seen: self._add(names[-1], seen, pixels)):
            call(images)

    def by_head(self) -> dict[str, np.ndarray]:
        """Return (heads,) distances in pixels for each layer, in the order in which they were first met."""
        return {
            name: torch.cat([parts[number].total / parts[number].count for number in sorted(parts)]).numpy()
            for name, parts in self._sums.items()
        }

    def _add(self, name: str, seen: Seen, pixels: int) -> None:
        total, count = _distances(seen)
        B, H, W = seen.places.maps
        total *= (pixels / (B * H * W)) ** 0.5  # one position of the map is so many pixels wide
        known = self._sums.setdefault(name, {}).get(seen.places.part)
        if known is None:
            self._sums[name][seen.places.part] = _Sum(total, count)
        else:
            known.total += total
            known.count += count


def by_block(distances: dict[str, np.ndarray], network: nn.Module) -> dict[str, np.ndarray]:
    """Join the heads of all layers of a block that the network repeats, sorted; others stay by themselves."""
    kinds = getattr(network, "repeated_blocks", ())
    blocks = [name for name, module in network.named_modules() if name and isinstance(module, kinds)]
    joined: dict[str, list[np.ndarray]] = {}
    for name, heads in distances.items():
        owner = next((block for block in blocks if f"{name}.".startswith(f"{block}.")), name)
        joined.setdefault(owner, []).append(heads)
    return {name: np.sort(np.concatenate(parts)) for name, parts in joined.items()}


@contextmanager
def _running(network: nn.Module) -> Iterator[list[str]]:
    """Yield the names of the modules that are running, the innermost last."""
    names: list[str] = []
    handles = []

    def leave(*_: object) -> None:  # what a hook returns replaces the module's result
        names.pop()

    for name, module in network.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: names.append(name)))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()


def _distances(seen: Seen) -> tuple[Tensor, float]:
    """Return the sum of the queries' mean distances, (heads,) in positions of the map, and their number."""
    places = seen.places
    period = max(len(places.queries), len(places.keys))
    queries, keys = (part.repeat(period // len(part), 1, 1, 1) for part in (places.queries, places.keys))
    N, inside = queries.shape[2], _inside(queries, places.maps)
    first = seen.weights(slice(0, 1))
    step = max(1, _CHUNK // first.numel())
    total = first.new_zeros(first.shape[1], dtype=torch.float64)
    for start in range(0, N, step):
        rows = slice(start, min(start + step, N))
        weights = seen.weights(rows).unflatten(0, (-1, period))  # (M / G, G, heads, n, K)
        apart = torch.linalg.vector_norm(queries[:, :, rows, None] - keys[:, :, None], dim=-1)
        mean = (weights * apart).sum(-1) * inside[:, :, rows]
        total += mean.double().sum((0, 1, 3))
    heads = inside.shape[1]
    return total.cpu(), len(first) / period * inside.sum().item() / heads


def _inside(queries: Tensor, maps: tuple[int, int, int]) -> Tensor:
    """Return whether queries (G, heads, N, 2) lie on the map: (G, heads, N)."""
    size = torch.tensor(maps[1:], device=queries.device)
    return (queries < size).all(-1)
