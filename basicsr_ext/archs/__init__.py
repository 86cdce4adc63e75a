"""Networks, one file each (``<name>_arch.py``); ``layers/`` holds what two or more share.

``mixers/`` has the attention and feed-forward parts that ``AttentionRestorer`` finds by name.

Every file registers its classes with :data:`NETWORKS`, which imports the files on first use: adding a
network means adding a file. Nothing here knows option files or training; of the package it imports only
``registry``, and annotations of arguments that name a part (``config.parts``). Networks take and return NCHW
float tensors of any size, values 0 to ``pixel_range`` (an attribute; 1.0 where a network has none).
``repeated_blocks``, an attribute too, are the classes of the blocks that make up most of a network, each of
which is compiled by itself; ``undecayed`` is a pattern of the names of parameters that weight decay should
leave alone, besides those of one dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from ..registry import NETWORKS as NETWORKS

if TYPE_CHECKING:
    from torch import nn


def build_network(opt: Mapping[str, Any]) -> nn.Module:
    """Return the network that ``{"type": name, **constructor arguments}`` describes.

    Ours are looked up first, then basicsr's and those that plug-ins have registered with basicsr.
    ``opt`` is left as it is.

    Raises:
        ValueError: ``opt`` names no type.
        UnknownTypeError: no registry knows the type.
        TypeError: the constructor does not take one of the arguments.
    """
    arguments = deepcopy(dict(opt))
    name = arguments.pop("type", None)
    if not isinstance(name, str):
        raise ValueError(f"a network needs a 'type', such as 'EDT'; found {sorted(opt)}")
    return NETWORKS.find(name)(**arguments)


def pixel_range(net: nn.Module) -> float:
    """Return the value of white in the images ``net`` takes and returns: 1.0, or what it declares."""
    return float(getattr(net, "pixel_range", 1.0))
