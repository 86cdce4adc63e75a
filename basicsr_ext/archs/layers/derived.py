"""Tables that follow from sizes alone: attention masks, position indices, coordinates."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

_P = ParamSpec("_P")

_ENTRIES = 32
_LARGEST = 16 * 2**20


def derived(table: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
    """Cache what ``table`` returns for each set of (hashable) arguments.

    Derived tensors stay out of state dicts and are computed when a size is first met. Those above 16 MiB
    are computed anew each time: they belong to whole test images, which rarely repeat their size, and
    would otherwise stay in memory. The oldest of more than 32 entries is dropped.
    """
    cache: dict[tuple[object, ...], Tensor] = {}

    @wraps(table)
    def cached(*args: _P.args, **kwargs: _P.kwargs) -> Tensor:
        # A traced tensor must not outlive its trace; compilers fold or fuse the table themselves.
        if torch.compiler.is_compiling():
            return table(*args, **kwargs)
        key = (*args, *sorted(kwargs.items()))
        found = cache.get(key)
        if found is not None:
            return found
        # Made under inference_mode (validation), it could not serve a later training step.
        with torch.inference_mode(False), torch.no_grad():
            made = table(*args, **kwargs)
        if type(made) is Tensor and made.nbytes <= _LARGEST:
            cache[key] = made
            if len(cache) > _ENTRIES:
                cache.pop(next(iter(cache)), None)
        return made

    return cached
