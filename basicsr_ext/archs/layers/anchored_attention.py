"""Attention within windows beside attention within stripes through anchors (GRL, arXiv:2303.00748).

Shapes: B batch, H x W map, I x J windows (or stripes) of an image, N tokens of one, K keys, C channels, D
channels of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .biased_attention import biased_attention
from .position_bias import PositionBias, look_up
from .stripes import Tiling, mask_between, places_between
from .windows import Side


class BiasCache:
    """The relative-position biases of a network whose weights rest.

    Whether they rest is decided by their values: version counters miss changes through ``.data``, by which
    BasicSR averages its evaluation network.
    """

    _LARGEST = 16 * 2**20  # a bias; those above follow from much smaller tables, which are kept
    _TOTAL = 512 * 2**20

    def __init__(self) -> None:
        self._weights = torch.empty(0)
        self._kept: dict[tuple[object, ...], Tensor] = {}

    def refresh(self, parameters: Sequence[Tensor]) -> None:
        """Forget everything unless ``parameters`` are what it was computed from."""
        now = torch.cat([parameter.detach().flatten() for parameter in parameters])
        known = self._weights
        if (now.dtype, now.device) != (known.dtype, known.device) or not torch.equal(now, known):
            self.clear()
            self._weights = now

    def clear(self) -> None:
        """Forget everything."""
        self._weights = torch.empty(0)
        self._kept.clear()

    def get(self, key: tuple[object, ...], compute: Callable[[], Tensor]) -> Tensor:
        """Return what ``compute`` returned for ``key`` before, or returns now."""
        found = self._kept.get(key)
        if found is None:
            found = compute()
            if found.nbytes <= self._LARGEST:
                self._kept[key] = found
                while sum(kept.nbytes for kept in self._kept.values()) > self._TOTAL:
                    del self._kept[next(iter(self._kept))]
        return found

    def __reduce__(self) -> tuple[type[BiasCache], tuple[()]]:
        """Start empty in copies: keys name the modules of one network."""
        return BiasCache, ()


class CosineAttention(nn.Module):
    """Attention by the cosine of queries and keys, with a learned scale and a learned bias a head."""

    _STEEPEST = math.log(100.0)

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))
        self.cpb_mlp = PositionBias(heads)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, queries: Tiling, keys: Tiling, cache: BiasCache | None
    ) -> Tensor:
        """Attend from ``q`` (B, I, J, heads, N, D) to ``k`` and ``v`` (B, I, J, heads, K, D).

        ``q`` and ``k`` are normalised; either side may be the anchors.
        """
        scale = self.logit_scale.clamp(max=self._STEEPEST).exp()
        q, k = (q * scale).to(v.dtype), k.to(v.dtype)
        grid = (q.shape[1], q.shape[2])
        mask = mask_between(queries, keys, grid, v.device, v.dtype)
        bias = self._bias(queries.window, keys.window, cache)
        places = partial(places_between, queries, keys, grid, q.shape[0], v.device)
        return biased_attention(q, k, v, bias, mask, places)

    def _bias(self, queries: Side, keys: Side, cache: BiasCache | None) -> Tensor:
        window, anchors = max(queries, keys), min(queries, keys)
        if cache is None:
            return look_up(self.cpb_mlp(window, anchors), queries, keys)
        return cache.get(
            (id(self), queries, keys),
            lambda: look_up(
                cache.get((id(self), window, anchors, "table"), lambda: self.cpb_mlp(window, anchors)),
                queries,
                keys,
            ),
        )


class Anchors(nn.Module):
    """A map smaller by ``factor``, of half the channels, through which stripes attend."""

    def __init__(self, dim: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.body = nn.ModuleList([nn.ModuleDict({"reduction": nn.Linear(dim, dim // 2)})])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H / factor, W / factor, C / 2)."""
        pooled = F.avg_pool2d(x.permute(0, 3, 1, 2), self.factor).permute(0, 2, 3, 1)
        (stage,) = self.body.children()
        return stage.get_submodule("reduction")(pooled)


class MixedAttention(nn.Module):
    """Half of the channels attends within windows, the other within stripes through anchors."""

    def __init__(self, dim: int, heads_window: int, heads_stripe: int, factor: int) -> None:
        super().__init__()
        self.heads_window = heads_window
        self.heads_stripe = heads_stripe
        self.qkv = nn.ModuleDict({"body": nn.Linear(dim, 3 * dim)})
        self.anchor = Anchors(dim, factor)
        self.window_attn = nn.ModuleDict({"attn_transform": CosineAttention(heads_window)})
        self.stripe_attn = nn.ModuleDict(
            {f"attn_transform{i}": CosineAttention(heads_stripe) for i in (1, 2)}
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, window: Tiling, stripe: Tiling, cache: BiasCache | None) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        in_windows, in_stripes = self.qkv["body"](x).chunk(2, -1)
        return self.proj(
            torch.cat(
                [
                    self._within_windows(in_windows, window, cache),
                    self._within_stripes(in_stripes, self.anchor(x), stripe, cache),
                ],
                -1,
            )
        )

    def _within_windows(self, qkv: Tensor, window: Tiling, cache: BiasCache | None) -> Tensor:
        parts = window.split(qkv, 3, self.heads_window)
        q, k = F.normalize(parts[:2], dim=-1)
        return window.join(self.window_attn["attn_transform"](q, k, parts[2], window, window, cache))

    def _within_stripes(
        self, qkv: Tensor, anchors: Tensor, stripe: Tiling, cache: BiasCache | None
    ) -> Tensor:
        coarse = stripe.coarser(self.anchor.factor)
        parts = stripe.split(qkv, 3, self.heads_stripe)
        q, k = F.normalize(parts[:2], dim=-1)
        a = F.normalize(coarse.split(anchors, 1, self.heads_stripe)[0], dim=-1)
        gathered = self.stripe_attn["attn_transform1"](a, k, parts[2], coarse, stripe, cache)
        return stripe.join(self.stripe_attn["attn_transform2"](q, a, gathered, stripe, coarse, cache))
