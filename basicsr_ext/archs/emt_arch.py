"""EMT: Efficient Mixed Transformer for Single Image Super-Resolution (arXiv:2305.11403).

Blocks whose first layers mix pixels by attention in striped windows and whose last ones only compare each
pixel with a neighbour; every layer ends with a network of shifted 1 x 1 convolutions. There is no layer
normalisation. State-dict keys are those of the official release.

Shapes: B batch, H x W image, C = dim. Layers work on (B, H, W, C).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import NETWORKS
from .layers.checkpoint import checkpointed
from .layers.convolution import conv3x3, pixel_shuffle_once, pixel_shuffle_steps, pointwise
from .layers.pixel_mixing import PixelMixer, move_kernel, moved_by_groups
from .layers.striped_attention import StripedAttention
from .padding import SizeRequirement

_RGB_MEAN = (0.4690, 0.4490, 0.4036)  # of DF2K
_RANGE = 255.0

# --- layers -----------------------------------------------------------------------------------------


class ShiftConv(nn.Conv2d):
    """Channels moved by a pixel, then a 1 x 1 convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 1)
        fifth = channels_in // 5
        group_of = [min(channel // fifth, 4) if fifth else 4 for channel in range(channels_in)]
        self.register_buffer("mask", move_kernel(channels_in, group_of))

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map (B, H, W, channels_in) to (B, H, W, channels_out)."""
        return pointwise(self, moved_by_groups(x))


class Mlp(nn.Module):
    """Feed-forward network of two shifted convolutions."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = ShiftConv(dim, hidden)
        self.fc2 = ShiftConv(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.fc2(F.silu(self.fc1(x)))


class Block(nn.Module):
    """Layers of attention, then layers of pixel mixers, each with its feed-forward network."""

    def __init__(self, dim: int, mixers: Sequence[nn.Module], hidden: int) -> None:
        super().__init__()
        self.sa_list = nn.ModuleList(mixers)
        self.mlp_list = nn.ModuleList(Mlp(dim, hidden) for _ in mixers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        for mixer, mlp in zip(self.sa_list, self.mlp_list, strict=True):
            x = x + mixer(x)
            x = x + mlp(x)
        return x


class MeanShift(nn.Module):
    """Adds a constant colour; kept as the released code's frozen 1 x 1 convolution."""

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: int, sign: int) -> None:
        super().__init__()
        mean = _RGB_MEAN if channels == 3 else (0.0,) * channels
        self.register_buffer("weight", torch.eye(channels).view(channels, channels, 1, 1))
        self.register_buffer("bias", sign * _RANGE * torch.tensor(mean, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to the same shape."""
        return x + self.bias.view(1, -1, 1, 1)


# --- network ----------------------------------------------------------------------------------------


@NETWORKS.register()
class EMT(nn.Module):
    """Mixed transformer, mainly for lightweight super-resolution; defaults are the published x4 network.

    Images are 0..255 (:attr:`pixel_range`). As the weights were trained so, the release's departures from
    the paper are kept: no normalisation before a layer, queries instead of keys, logits that are not
    scaled, shifted windows without a mask, and padding inside of each attention, each to its own windows.

    Args:
        num_in_ch: image channels; the mean of DF2K is subtracted from three, nothing from others.
        num_out_ch: channels of the restored image.
        task: "lsr" (lightweight super-resolution: one pixel shuffle), "csr" (classical: in steps),
            "denoising", "deblurring" or "deraining" (a convolution).
        dim: width, a multiple of ``num_heads`` times the number of windows.
        n_blocks: number of blocks.
        n_layers: layers of a block.
        num_heads: attention heads for each window shape.
        mlp_ratio: hidden width of the feed-forward network over ``dim``.
        n_GTLs: layers at the beginning of each block that attend; every second one is shifted.
        window_list: (rows, columns) of the windows for each share of the channels.
        shift_list: how far the windows of each share are shifted.
        upscale: enlargement; 1 for the tasks that keep the size.
        use_checkpoint: recompute each block's activations in the backward pass instead of keeping them.
        n_gtls: lower-case spelling of ``n_GTLs``, used where given.
    """

    repeated_blocks: ClassVar[tuple[type[nn.Module], ...]] = (Block,)
    pixel_range: ClassVar[float] = _RANGE
    derived_keys: ClassVar[re.Pattern[str]] = re.compile(r"^(sub|add)_mean\.|\.mask$")
    """State-dict entries that follow from the configuration."""

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        task: str = "lsr",
        dim: int = 60,
        n_blocks: int = 6,
        n_layers: int = 6,
        num_heads: int = 3,
        mlp_ratio: float = 2.0,
        n_GTLs: int = 2,
        window_list: Sequence[Sequence[int]] = ((32, 8), (8, 32)),
        shift_list: Sequence[Sequence[int]] = ((16, 4), (4, 16)),
        upscale: int = 4,
        use_checkpoint: bool = False,
        n_gtls: int | None = None,
    ) -> None:
        super().__init__()
        windows, shifts = _pairs("window_list", window_list), _pairs("shift_list", shift_list)
        if len(windows) != len(shifts):
            raise ValueError(f"window_list and shift_list differ in length: {len(windows)} and {len(shifts)}")
        if dim % (len(windows) * num_heads):
            raise ValueError(
                f"dim: {dim} is not a multiple of {len(windows)} windows * {num_heads} num_heads"
            )
        attending = n_GTLs if n_gtls is None else n_gtls
        self.use_checkpoint = use_checkpoint
        unshifted = [(0, 0)] * len(windows)

        def mixer(layer: int) -> nn.Module:
            if layer < attending:
                return StripedAttention(dim, num_heads, windows, shifts if layer % 2 else unshifted)
            return PixelMixer(dim)

        self.sub_mean = MeanShift(num_in_ch, -1)
        self.head = conv3x3(num_in_ch, dim)
        self.body = nn.Sequential(
            *(Block(dim, [mixer(i) for i in range(n_layers)], int(dim * mlp_ratio)) for _ in range(n_blocks))
        )
        self.tail = _tail(task, upscale, dim, num_out_ch)
        self.add_mean = MeanShift(num_out_ch, 1)

    def size_requirement(self) -> SizeRequirement:
        """Return that any size fits: each attention pads to its own windows."""
        return SizeRequirement()

    def unpadded_sides(self) -> SizeRequirement:
        """Return which images no attention pads: those whose sides are multiples of all windows'."""
        attentions = [module for module in self.modules() if isinstance(module, StripedAttention)]
        return SizeRequirement(math.lcm(*(side for part in attentions for w in part.windows for side in w)))

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, num_in_ch, H, W), 0..255, to (B, num_out_ch, H * upscale, W * upscale)."""
        shallow = self.head(self.sub_mean(x).contiguous(memory_format=torch.channels_last))
        y = shallow.permute(0, 2, 3, 1)
        for block in self.body:
            y = checkpointed(block, y) if self.use_checkpoint else block(y)
        return self.add_mean(self.tail(y.permute(0, 3, 1, 2) + shallow))


def _tail(task: str, upscale: int, dim: int, channels: int) -> nn.Sequential:
    if task == "lsr":
        return pixel_shuffle_once(upscale, dim, channels)
    if task == "csr":
        return nn.Sequential(*pixel_shuffle_steps(upscale, dim), conv3x3(dim, channels))
    if task in ("denoising", "deblurring", "deraining"):
        return nn.Sequential(conv3x3(dim, channels))
    raise ValueError(f"task: found {task!r}, expected 'lsr', 'csr', 'denoising', 'deblurring' or 'deraining'")


def _pairs(name: str, values: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    if not values or any(len(value) != 2 for value in values):
        raise ValueError(f"{name}: found {values}, expected pairs such as [[32, 8], [8, 32]]")
    return [(value[0], value[1]) for value in values]
