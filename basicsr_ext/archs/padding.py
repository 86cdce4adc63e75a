"""Any size in: pad an image to what a network needs, run it, cut the result to size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class SizeRequirement:
    """What a network's input height and width must be, and how images are extended to it.

    Attributes:
        multiple_of: both sides must be multiples of this.
        mode: ``"reflect"`` mirrors at the outermost pixel (BasicSR, Restormer); ``"flip"`` appends the
            flipped image, so that the outermost pixel repeats (test scripts of SwinIR and EDT).
        always: extend each side to the *next* multiple even where it is one already, as those test
            scripts do; needed to reproduce their published numbers.
    """

    multiple_of: int = 1
    mode: Literal["reflect", "flip", "reflect_or_zeros"] = "reflect"
    always: bool = False

    def fits(self, x: Tensor) -> bool:
        """Say whether a network may see ``x`` (..., H, W) unpadded."""
        return x.shape[-2] % self.multiple_of == 0 and x.shape[-1] % self.multiple_of == 0

    def padded_length(self, length: int) -> int:
        """Return what a side of ``length`` pixels is extended to."""
        if self.always:
            return (length // self.multiple_of + 1) * self.multiple_of
        return -(-length // self.multiple_of) * self.multiple_of


def pad_to(x: Tensor, requirement: SizeRequirement) -> Tensor:
    """Extend ``x`` (..., H, W) at the bottom and the right as ``requirement`` asks.

    Mirroring repeats where the image is smaller than its extension.
    """
    if requirement.mode == "reflect_or_zeros":
        down, right = (requirement.padded_length(length) - length for length in x.shape[-2:])
        if down >= x.shape[-2] or right >= x.shape[-1]:
            return F.pad(x, (0, right, 0, down))
    for dim in (-2, -1):
        mode = "flip" if requirement.mode == "flip" else "reflect"
        x = mirror_to(x, dim, requirement.padded_length(x.shape[dim]), mode)
    return x


def mirror_to(x: Tensor, dim: int, length: int, mode: Literal["reflect", "flip"] = "reflect") -> Tensor:
    """Extend dimension ``dim`` of ``x`` at its end to ``length`` by mirroring, again and again if needed."""
    while (present := x.shape[dim]) < length:
        mirrored = x.flip(dim)
        if mode == "reflect" and present > 1:
            mirrored = mirrored.narrow(dim, 1, present - 1)
        taken = min(length - present, mirrored.shape[dim])
        x = torch.cat([x, mirrored.narrow(dim, 0, taken)], dim)
    return x


def crop_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the top left ``size`` (H, W) of ``x`` (..., H', W')."""
    return x[..., : size[0], : size[1]]


def call_padded(
    net: Callable[[Tensor], Tensor], x: Tensor, scale: int, requirement: SizeRequirement
) -> Tensor:
    """Return ``net(x)`` for ``x`` (B, C, H, W) of any size: (B, C', H * scale, W * scale)."""
    height, width = x.shape[-2:]
    return crop_to(net(pad_to(x, requirement)), (height * scale, width * scale))


def requirement_of(
    net: nn.Module, window_size: int | None = None, task: str | None = None
) -> SizeRequirement:
    """Return what ``net`` needs, of a network with several tasks for one of them, if it is named.

    Our networks know it themselves (``size_requirement()``) and pad inputs that do not fit. For others it
    is the option file's ``window_size`` (0: nothing), else what is known of basicsr's networks, else an
    integer attribute ``window_size`` (HAT and its relatives), else nothing; they are padded as BasicSR does.
    """
    own = getattr(net, "size_requirement", None)
    if callable(own):
        return own() if task is None else own(task)  # type: ignore[return-value]
    if window_size is None:
        known = _BASICSR.get(type(net).__name__, _window_attribute)
        window_size = known(net)
    return SizeRequirement(window_size or 1)


def _window_attribute(net: nn.Module) -> int:
    window = getattr(net, "window_size", 1)
    return window if isinstance(window, int) else 1


def _swinir(net: nn.Module) -> int:
    # basicsr's SwinIR keeps the window only in its blocks.
    windows = (getattr(module, "window_size", None) for module in net.modules())
    return next((window for window in windows if isinstance(window, int)), 1)


def _rrdbnet(net: nn.Module) -> int:
    return {1: 4, 2: 2}.get(int(getattr(net, "scale", 4)), 1)  # it unshuffles the input for these scales


_BASICSR: dict[str, Callable[[nn.Module], int]] = {"SwinIR": _swinir, "RRDBNet": _rrdbnet}
