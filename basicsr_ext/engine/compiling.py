"""``train.compile``: the blocks that a network repeats, each by itself, or the whole network."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from ..archs.layers.drop_path import draw_alike
from ..files import cache_folder

Mode = bool | str
"""Whether to compile, or ``torch.compile``'s mode."""


def compile_blocks(network: nn.Module, mode: Mode, shapes: int) -> bool:
    """Let the blocks that a network repeats run compiled; return whether that is wanted and there are any.

    Blocks of one kind share what was compiled for the first of them, so that compiling takes a small part of
    the whole network's time. Keys of the state dict stay as they are.

    Args:
        network: changed in place. Its class says in ``repeated_blocks`` which classes of modules to compile.
        mode: whether and how to compile.
        shapes: how many shapes of batches there will be.
    """
    kinds = getattr(network, "repeated_blocks", ())
    if not mode or not kinds:
        return False
    blocks = [module for module in network.modules() if isinstance(module, kinds)]
    arguments = _arguments(mode, shapes * len(blocks))
    draw_alike(network)
    for block in blocks:
        block.compile(**arguments)
    return True


def compile_whole(network: nn.Module, mode: Mode, shapes: int) -> nn.Module:
    """Return a network, or the module around it, compiled as one, if that is wanted."""
    if not mode:
        return network
    return torch.compile(network, **_arguments(mode, shapes))  # pyright: ignore[reportReturnType]


def not_compiled() -> Any:
    """Return a context in which compiled modules run as they were written, for sizes seen once."""
    return torch.compiler.set_stance("force_eager")


def _arguments(mode: Mode, variants: int) -> dict[str, Any]:
    """Return the compiler's arguments, with its limits raised to ``variants`` of one piece of code."""
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 8 + variants)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 256 + variants)
    # Inductor's own default lies in the folder for temporary files: a run resumed tomorrow would start anew.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder("inductor")))
    # Each stage has fixed shapes: a specialised kernel each beats one for all sizes.
    return {"mode": mode if isinstance(mode, str) else None, "dynamic": False}
