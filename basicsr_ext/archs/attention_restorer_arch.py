"""One restoration body for any attention: to compare them, or to try a new one. A design of this package.

Shallow convolution, residual groups of pre-norm transformer blocks, a convolution, and a tail, as in SwinIR
(arXiv:2108.10257); what mixes tokens and what follows are chosen by name. The mixers are the modules that the
published networks consist of. Around them some of those networks differ: GRL normalises after its attention,
EMT not at all, Restormer is a U-Net.

Shapes: B batch, H x W image padded for the mixers, C = dim. Blocks work on (B, H, W, C).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..config.parts import FeedForwardSpec, MixerSpec
from . import NETWORKS
from .layers.checkpoint import checkpointed
from .layers.convolution import conv3x3, pixel_shuffle_once, pixel_shuffle_steps, residual_conv
from .layers.drop_path import DropPath
from .mixers import build_feed_forward, build_mixer, size_multiple
from .padding import SizeRequirement, crop_to, pad_to


class Block(nn.Module):
    """Pre-norm transformer block.

    Args:
        dim: channels.
        mixer: maps (B, H, W, C) to the same.
        feed_forward: likewise.
        drop_path: rate of stochastic depth of both.
    """

    def __init__(self, dim: int, mixer: nn.Module, feed_forward: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = feed_forward
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        return x + self.drop_path(self.feed_forward(self.norm2(x)))


class Group(nn.Module):
    """Blocks and a convolution beside an identity skip."""

    def __init__(self, blocks: Iterable[Block], conv: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return x + self.conv(self.blocks(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@NETWORKS.register()
class AttentionRestorer(nn.Module):
    """Restoration network whose attention is one word of the option file.

    It adds to the image, bilinearly enlarged for super-resolution. Images of every size are taken, mirrored
    to what the mixer needs.

    Args:
        mixer: what lets positions see each other: a name, or a mapping of ``type`` and arguments.
        feed_forward: what follows it in every block: likewise.
        upscale: enlargement; 1 keeps the size.
        in_channels: image channels, in and out.
        dim: width of the body.
        depths: blocks of each group.
        upsampler: of super-resolution, "pixelshuffle", or "pixelshuffledirect" (one step, fewer parameters).
        resi_connection: "1conv" or "3conv" at the end of each group and of the body.
        drop_path_rate: rate of stochastic depth at the last block, growing linearly from 0.
        use_checkpoint: keep only each group's input for the backward pass and compute it again.

    Raises:
        ValueError: arguments that do not fit together.
    """

    repeated_blocks: ClassVar[tuple[type[nn.Module], ...]] = (Block,)

    def __init__(
        self,
        mixer: MixerSpec = "swin",
        feed_forward: FeedForwardSpec = "mlp",
        upscale: int = 1,
        in_channels: int = 3,
        dim: int = 60,
        depths: Sequence[int] = (6, 6, 6, 6),
        upsampler: Literal["pixelshuffle", "pixelshuffledirect"] = "pixelshuffledirect",
        resi_connection: Literal["1conv", "3conv"] = "1conv",
        drop_path_rate: float = 0.0,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.upscale, self.use_checkpoint = upscale, use_checkpoint
        last = max(sum(depths) - 1, 1)
        rates = iter([drop_path_rate * i / last for i in range(sum(depths))])

        def block(index: int) -> Block:
            return Block(
                dim, build_mixer(mixer, dim, index), build_feed_forward(feed_forward, dim), next(rates)
            )

        self.conv_first = conv3x3(in_channels, dim)
        self.groups = nn.ModuleList(
            Group((block(i) for i in range(count)), residual_conv(resi_connection, dim, "resi_connection"))
            for count in depths
        )
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = residual_conv(resi_connection, dim, "resi_connection")
        if upscale == 1:
            self.tail = conv3x3(dim, in_channels)
        elif upsampler == "pixelshuffledirect":
            self.tail = pixel_shuffle_once(upscale, dim, in_channels)
        elif upsampler == "pixelshuffle":
            self.tail = nn.Sequential(pixel_shuffle_steps(upscale, dim), conv3x3(dim, in_channels))
        else:
            expected = "expected 'pixelshuffle' or 'pixelshuffledirect'"
            raise ValueError(f"upsampler: found {upsampler!r}, {expected}")
        blocks = [module for module in self.modules() if isinstance(module, Block)]
        self._multiple = size_multiple(*(module.mixer for module in blocks))

    def size_requirement(self) -> SizeRequirement:
        """Return what the mixers need; :meth:`forward` pads sizes that do not fit by itself."""
        return SizeRequirement(self._multiple)

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, in_channels, H, W), 0..1, to (B, in_channels, H * upscale, W * upscale)."""
        height, width = x.shape[2:]
        x = pad_to(x, self.size_requirement())
        shallow = self.conv_first(x)
        y = shallow.permute(0, 2, 3, 1)
        for group in self.groups:
            y = checkpointed(group, y) if self.use_checkpoint else group(y)
        y = self.tail(self.conv_after_body(self.norm(y).permute(0, 3, 1, 2)) + shallow)
        if self.upscale > 1:
            x = F.interpolate(x, scale_factor=self.upscale, mode="bilinear", align_corners=False)
        return crop_to(x + y, (height * self.upscale, width * self.upscale))
