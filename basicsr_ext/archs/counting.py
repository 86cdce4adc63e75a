"""What a network costs whatever it runs on: parameters, multiply-adds, activations, module by module.

Networks are called without values (on torch's ``meta`` device), so that a result of any size is counted in
seconds and in no memory. One multiply-add is what papers on restoration call a FLOP, or a MAC.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from .layers import biased_attention, position_bias  # noqa: F401 (they define operators)
from .padding import SizeRequirement, pad_to, requirement_of

_WIDE, _HIGH = 1280, 720


@dataclass(frozen=True)
class ModuleCount:
    """A module's share.

    Attributes:
        name: as in ``named_modules``; empty for the network.
        kind: its class.
        parameters: learned values.
        multiply_adds: of the whole call.
    """

    name: str
    kind: str
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Count:
    """What one call of a network takes.

    Attributes:
        parameters: learned values.
        multiply_adds: of convolutions and of products of matrices.
        between_activations: those of them whose two sides both depend on the image, as in attention. Some
            papers leave them out.
        activations: numbers that convolutions and products of matrices give.
        modules: the network and everything in it, as it is nested.
    """

    parameters: int
    multiply_adds: int
    between_activations: int
    activations: int
    modules: tuple[ModuleCount, ...]


def hd_input(scale: int) -> tuple[int, int]:
    """Return height and width of the input whose result has 1280 x 720 pixels, rounded up where need be."""
    return -(-_HIGH // scale), -(-_WIDE // scale)


def count(
    net: nn.Module,
    shape: Sequence[int],
    requirement: SizeRequirement | None = None,
    task: str | None = None,
) -> Count:
    """Count one call in eval mode; ``net`` itself is left as it is.

    Args:
        net: maps images to images, or to anything else.
        shape: (channels, height, width) of the one image that it sees. Sides that it cannot see are extended
            as they are in a test, and what that costs is counted.
        requirement: what its sides have to be; default: what is known of the network.
        task: of a network with several tasks, the one to call.

    Raises:
        RuntimeError: the network does not take such an image.
    """
    requirement = requirement or requirement_of(net, task=task)
    net = without_values(net).eval()
    image = torch.empty(1, *shape, device="meta")
    if not requirement.fits(image):
        image = pad_to(image, requirement)
    counter, outputs = FlopCounterMode(display=False, custom_mapping=OWN_OPERATORS), _Outputs()
    with torch.no_grad(), counter, outputs:
        net(image) if task is None else net(image, task)
    counts: dict[str, dict[Any, int]] = counter.get_flop_counts()
    total = counts.get("Global", {})
    products = sum(flops for operator, flops in total.items() if str(operator) in _BETWEEN)
    return Count(
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        multiply_adds=sum(total.values()) // 2,
        between_activations=products // 2,
        activations=outputs.numbers,
        modules=tuple(
            ModuleCount(
                name,
                type(module).__name__,
                sum(parameter.numel() for parameter in module.parameters()),
                sum(counts.get(_counted_as(net, name), {}).values()) // 2,
            )
            for name, module in net.named_modules()
        ),
    )


def without_values(net: nn.Module) -> nn.Module:
    """Return a copy of ``net`` whose tensors have shapes and no values."""
    # A copy with values would take their memory for a moment.
    known = {id(tensor): tensor.to("meta") for tensor in (*net.parameters(), *net.buffers())}
    for parameter in net.parameters():
        known[id(parameter)] = nn.Parameter(known[id(parameter)], parameter.requires_grad)
    return copy.deepcopy(net, known)


def _counted_as(net: nn.Module, name: str) -> str:
    """Return what torch's counter calls the module ``name``."""
    return f"{type(net).__name__}.{name}" if name else type(net).__name__


class _Outputs(TorchDispatchMode):
    """Adds up what convolutions and products of matrices give."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if str(func.overloadpacket) in _COUNTED:
            first = result if isinstance(result, Tensor) else result[0]
            self.numbers += first.numel()
        return result


def _biased_attention_flops(q: Sequence[int], k: Sequence[int], *_: Any, **__: Any) -> int:
    *windows, queries, width = q
    return 4 * prod(windows) * queries * k[-2] * width


def _coordinate_mlp_flops(
    x: Sequence[int], first: Sequence[int], bias: Any, second: Sequence[int], **_: Any
) -> int:
    return 2 * x[0] * (prod(first) + prod(second))


OWN_OPERATORS = {
    torch.ops.basicsr_ext.biased_attention: _biased_attention_flops,
    torch.ops.basicsr_ext.coordinate_mlp: _coordinate_mlp_flops,
}
"""Operators of ours that multiply, in which torch's counter sees nothing; used where gradients are wanted."""
_ATTENTION = [
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_cudnn_attention",
    "basicsr_ext.biased_attention",
]
_BETWEEN = {"aten.bmm", "aten.baddbmm", *_ATTENTION}
_COUNTED = {"aten.convolution", "aten.mm", "aten.addmm", *_BETWEEN}
