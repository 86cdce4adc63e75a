"""What lets the positions of a feature map see each other, and what follows: parts of one restoration body.

A token mixer or a feed-forward network is a class registered in one of the files here, or in a plug-in, by
which ``mixer: {type: name, ...}`` of :class:`..attention_restorer_arch.AttentionRestorer` finds it::

    @MIXERS.register("average")
    class Average(nn.Module):
        multiple_of = 2

        def __init__(self, dim: int, index: int, side: int = 3): ...
        def forward(self, x: Tensor) -> Tensor: ...  # (B, H, W, C) -> (B, H, W, C)

``dim``, its channels, and ``index``, the number of its block within the group (for what alternates, such as
shifts), are supplied; the other arguments come from the option file. Where it has an attribute
``multiple_of``, H and W are multiples of that; otherwise it takes every size. Feed-forward networks get
``dim`` only, and every size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

from ...registry import FEED_FORWARDS as FEED_FORWARDS
from ...registry import MIXERS as MIXERS
from ...registry import Registry

Spec = str | Mapping[str, Any]


def build_mixer(spec: Spec, dim: int, index: int) -> nn.Module:
    """Return the token mixer that a name, or ``{"type": name, **arguments}``, describes.

    Raises:
        ValueError: it names no type, or arguments do not fit together.
        UnknownTypeError: no mixer has this name.
    """
    return _build(MIXERS, spec, dim=dim, index=index)


def build_feed_forward(spec: Spec, dim: int) -> nn.Module:
    """Return the feed-forward network that a name, or ``{"type": name, **arguments}``, describes.

    Raises:
        ValueError: it names no type, or arguments do not fit together.
        UnknownTypeError: no feed-forward network has this name.
    """
    return _build(FEED_FORWARDS, spec, dim=dim)


def _build(registry: Registry, spec: Spec, **supplied: int) -> nn.Module:
    arguments = {"type": spec} if isinstance(spec, str) else dict(spec)
    name = arguments.pop("type", None)
    if not isinstance(name, str):
        raise ValueError(f"a {registry.kind} needs a 'type'; found {sorted(arguments)}")
    return registry.find(name)(**supplied, **arguments)


def size_multiple(*mixers: nn.Module) -> int:
    """Return what the sides of a map must be multiples of for all of these."""
    return math.lcm(*(int(getattr(mixer, "multiple_of", 1)) for mixer in mixers))


def require_divisor(dim: int, name: str, divisor: int) -> None:
    """Raise a ValueError unless ``divisor``, which follows from argument ``name``, divides the channels."""
    if dim % divisor:
        raise ValueError(f"{name}: the width {dim} is not a multiple of {divisor}")
