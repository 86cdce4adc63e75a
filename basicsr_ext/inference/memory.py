"""How much memory a network takes for a pixel, how much there is, and whether it has run out."""

from __future__ import annotations

import os
import weakref
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typing_extensions import override


class PeakMemory(TorchDispatchMode):
    """Context manager that follows the tensors which operators make, on any device.

    Scratch space inside of operators is not seen.

    Args:
        network: what its own parameters and buffers take is not counted.

    Attributes:
        peak: the most bytes that were alive at one time.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.peak = self._now = 0
        own = (*network.parameters(), *network.buffers())
        self._alive = {tensor.untyped_storage()._cdata for tensor in own}

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        name, size = storage._cdata, storage.nbytes()
        if name in self._alive:
            return
        self._alive.add(name)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, name, size)

    def _forget(self, name: int, size: int) -> None:
        self._alive.discard(name)
        self._now -= size


def free_memory(device: torch.device) -> int:
    """Return the bytes that tensors on ``device`` may still take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        # Machines without /proc say how many pages they have; half of them are taken to be free.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether host or device memory has run out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
