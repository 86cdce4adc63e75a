"""How much memory training takes: measured on a GPU where there is one, else worked out without values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ...archs.counting import without_values
from ...archs.padding import requirement_of
from ...config import Train
from ...inference.memory import PeakMemory, is_out_of_memory
from ...inference.restore import channel_guesses
from ..precision import build_optimizer

_TRIED = 64
"""Side of the image that a network is tried with."""


@dataclass(frozen=True)
class Footprint:
    """Memory that training takes, in bytes.

    Attributes:
        weights: parameters and buffers.
        gradients: of what learns.
        moments: of the optimizer.
        average: of ``train.ema_decay``.
        buckets: in which gradients are exchanged between GPUs.
        sample: what one sample of a batch adds, by the side of the patch in ground-truth pixels.
        basis: how the samples' memory is known, in words.
    """

    weights: int
    gradients: int
    moments: int
    average: int
    buckets: int
    sample: dict[int, int]
    basis: str

    @property
    def fixed(self) -> int:
        """What does not depend on the batch."""
        return self.weights + self.gradients + self.moments + self.average + self.buckets

    def largest_batch(self, patch: int, memory: float) -> int:
        """Return how many samples of a patch fit into so many bytes; 0: not even one."""
        return max(0, int((memory - self.fixed) // self.sample[patch]))


def footprint(
    net: nn.Module, train: Train, patches: Iterable[int], scale: int, gpus: int, device: torch.device
) -> Footprint:
    """Find out what training ``net`` takes.

    On a GPU two samples of each patch are run forward and backward. Elsewhere they are run without values:
    the tensors that operators make are added up as they come and go. Scratch space inside of operators is not
    seen then, nor what fused kernels and lower precision save.

    Args:
        net: maps a batch of images to anything.
        train: optimizer, average and precision.
        patches: sides in ground-truth pixels.
        scale: ground truth over low quality.
        gpus: over how many gradients are averaged.
        device: where to measure; anything but a GPU: not at all.

    Raises:
        ValueError: the network does not take a batch of images.
    """
    learned = _bytes(parameter for parameter in net.parameters() if parameter.requires_grad)
    everything = _bytes((*net.parameters(), *net.buffers()))
    on_gpu = device.type == "cuda"
    channels = channels_of(net)
    probe = (net.to(device) if on_gpu else without_values(net)).train()
    sample = {}
    basis = f"measured on {torch.cuda.get_device_name(device)}" if on_gpu else "estimated without values"
    for patch in sorted(set(patches)):
        side = patch // scale
        try:
            peak = peak_bytes(probe, (2, channels, side, side), train.amp if on_gpu else "no")
        except RuntimeError as error:
            if not on_gpu or not is_out_of_memory(error):
                raise ValueError(
                    f"the network does not take a batch of {side} x {side} pixels: {error}"
                ) from error
            peak = peak_bytes(without_values(net).train(), (2, channels, side, side))
            basis += f"; patch {patch}, for which its memory is too small, estimated without values"
        sample[patch] = peak // 2
    return Footprint(
        weights=everything,
        gradients=learned,
        moments=learned * _moments(train),
        average=everything if train.ema_decay else 0,
        buckets=learned if gpus > 1 else 0,
        sample=sample,
        basis=basis,
    )


def peak_bytes(net: nn.Module, shape: tuple[int, ...], amp: str = "no") -> int:
    """Return the most memory that a batch takes while its gradients are computed, without the weights.

    Args:
        net: in training mode, on a GPU, or with tensors that have no values.
        shape: (N, C, H, W) of the batch.
        amp: as ``train.amp``.
    """
    device = next(net.parameters()).device
    x = torch.zeros(shape, device=device)
    if device.type != "cuda":
        with PeakMemory(net) as memory:
            _backward(net(x))
        net.zero_grad(set_to_none=True)
        return memory.peak
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(amp)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try:
        with torch.autocast("cuda", kind, enabled=kind is not None):
            result = net(x)
        _backward(result)
        return torch.cuda.max_memory_allocated(device) - before
    finally:
        net.zero_grad(set_to_none=True)


def _backward(result: object) -> None:
    tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and leaf.requires_grad]
    torch.stack([tensor.float().abs().mean() for tensor in tensors]).sum().backward()


def channels_of(net: nn.Module) -> int:
    """Return how many channels the images have that ``net`` takes.

    Raises:
        ValueError: it takes none of those that images may have; the message says why.
    """
    probe, refusals = without_values(net).eval(), []
    side = requirement_of(net).padded_length(_TRIED)
    for channels in channel_guesses(net):
        try:
            with torch.no_grad():
                probe(torch.zeros(1, channels, side, side, device="meta"))
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
            refusals.append(f"{type(net).__name__} takes no image of {channels} channels: {error}")
            continue
        return channels
    raise ValueError(refusals[0])


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _moments(train: Train) -> int:
    """Return how many numbers the optimizer keeps of each that it learns."""
    parameter = nn.Parameter(torch.zeros(3, 2))
    spec = train.optim_g
    optimizer = build_optimizer(spec.type, [parameter], parameter.device, lr=spec.lr, **spec.kwargs)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = (value for state in optimizer.state.values() for value in state.values())
    return sum(isinstance(value, Tensor) and value.shape == parameter.shape for value in kept)
