"""Restormer: Efficient Transformer for High-Resolution Image Restoration (arXiv:2111.09881).

A U-Net of transformer blocks. A block attends over channels instead of pixels, so its cost grows linearly
with the image, and its feed-forward network is gated. State-dict keys are those of the official release.

Shapes: B batch, H x W a level's resolution, C its width. Blocks work on
(B, H, W, C), which convolutions take as channels-last (B, C, H, W) without a copy: depthwise convolutions,
where most of the time goes, run 1.4 to 1.9 times as fast in that layout (``benchmarks/README.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import NETWORKS
from .layers.checkpoint import checkpointed
from .layers.convolution import in_nchw, pointwise
from .layers.mlp import GatedFeedForward
from .layers.transposed_attention import ChannelAttention
from .padding import SizeRequirement, crop_to, pad_to


class WithBiasLayerNorm(nn.Module):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


class BiasFreeLayerNorm(nn.Module):
    """Division by the standard deviation of each pixel's channels; their mean is not subtracted."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        variance = x.var(-1, correction=0, keepdim=True)
        return x * torch.rsqrt(variance + 1e-5) * self.weight


class Norm(nn.Module):
    """One of the two normalisations, under the release's key."""

    def __init__(self, dim: int, kind: str) -> None:
        super().__init__()
        self.body = BiasFreeLayerNorm(dim) if kind == "BiasFree" else WithBiasLayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.body(x)


class Block(nn.Module):
    """Transformer block: channel attention, then the gated feed-forward network."""

    def __init__(self, dim: int, heads: int, expansion: float, bias: bool, norm: str) -> None:
        super().__init__()
        self.norm1 = Norm(dim, norm)
        self.attn = ChannelAttention(dim, heads, bias)
        self.norm2 = Norm(dim, norm)
        self.ffn = GatedFeedForward(dim, int(dim * expansion), bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class PatchEmbedding(nn.Module):
    """A convolution of the image, under the release's key."""

    def __init__(self, channels_in: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels_in, dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, H, W, dim)."""
        return self.proj(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)


class Resample(nn.Module):
    """A convolution and a pixel (un)shuffle: half the size and twice the channels, or the reverse."""

    def __init__(self, dim: int, direction: Literal["down", "up"]) -> None:
        super().__init__()
        width, shuffle = (
            (dim // 2, nn.PixelUnshuffle(2)) if direction == "down" else (2 * dim, nn.PixelShuffle(2))
        )
        self.body = nn.Sequential(nn.Conv2d(dim, width, 3, padding=1, bias=False), shuffle)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H / 2, W / 2, 2C) or (B, 2H, 2W, C / 2)."""
        return in_nchw(self.body, x)


@NETWORKS.register()
class Restormer(nn.Module):
    """Restoration transformer; defaults are the published deraining and deblurring network.

    Unlike the paper's figure, the release does not reduce the channels of decoder level 1: it and the
    refinement run at twice ``dim``.

    Args:
        inp_channels: image channels; 6 for dual-pixel images (left view first).
        out_channels: channels of the restored image.
        dim: width of level 1; every level doubles it.
        num_blocks: blocks of each level, top to bottom; the decoder mirrors the encoder.
        num_refinement_blocks: blocks after the decoder, at full resolution.
        heads: attention heads of each level.
        ffn_expansion_factor: hidden width of the feed-forward network over the level's width, rounded down.
        bias: give the blocks', channel reductions' and output convolutions biases.
        LayerNorm_type: "BiasFree" (as published for denoising), or "WithBias", which any other value means.
        dual_pixel_task: add the patch embedding before the output instead of the image after it.
        use_checkpoint: recompute each level's activations in the backward pass instead of keeping them.
        layernorm_type: lower-case spelling of ``LayerNorm_type``, used where given.
    """

    repeated_blocks: ClassVar[tuple[type[nn.Module], ...]] = (Block,)

    def __init__(
        self,
        inp_channels: int = 3,
        out_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        ffn_expansion_factor: float = 2.66,
        bias: bool = False,
        LayerNorm_type: str = "WithBias",
        dual_pixel_task: bool = False,
        use_checkpoint: bool = False,
        layernorm_type: str | None = None,
    ) -> None:
        super().__init__()
        _check(dim, num_blocks, heads, inp_channels, out_channels, dual_pixel_task)
        norm = LayerNorm_type if layernorm_type is None else layernorm_type
        self.use_checkpoint = use_checkpoint

        def level(index: int, width: int, count: int) -> nn.Sequential:
            blocks = (Block(width, heads[index], ffn_expansion_factor, bias, norm) for _ in range(count))
            return nn.Sequential(*blocks)

        widths = [dim * 2**i for i in range(4)]
        self.patch_embed = PatchEmbedding(inp_channels, dim)
        self.encoder_level1 = level(0, widths[0], num_blocks[0])
        self.down1_2 = Resample(widths[0], "down")
        self.encoder_level2 = level(1, widths[1], num_blocks[1])
        self.down2_3 = Resample(widths[1], "down")
        self.encoder_level3 = level(2, widths[2], num_blocks[2])
        self.down3_4 = Resample(widths[2], "down")
        self.latent = level(3, widths[3], num_blocks[3])

        self.up4_3 = Resample(widths[3], "up")
        self.reduce_chan_level3 = nn.Conv2d(2 * widths[2], widths[2], 1, bias=bias)
        self.decoder_level3 = level(2, widths[2], num_blocks[2])
        self.up3_2 = Resample(widths[2], "up")
        self.reduce_chan_level2 = nn.Conv2d(2 * widths[1], widths[1], 1, bias=bias)
        self.decoder_level2 = level(1, widths[1], num_blocks[1])
        self.up2_1 = Resample(widths[1], "up")
        self.decoder_level1 = level(0, 2 * dim, num_blocks[0])
        self.refinement = level(0, 2 * dim, num_refinement_blocks)

        self.skip_conv = nn.Conv2d(dim, 2 * dim, 1, bias=bias) if dual_pixel_task else None
        self.output = nn.Conv2d(2 * dim, out_channels, 3, padding=1, bias=bias)

    def size_requirement(self) -> SizeRequirement:
        """Return what the three halvings need; :meth:`forward` pads sizes that do not fit by itself."""
        return SizeRequirement(8, mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, inp_channels, H, W), 0..1, to (B, out_channels, H, W)."""
        image = pad_to(x, self.size_requirement())
        shallow = self.patch_embed(image)
        level1 = self._run(self.encoder_level1, shallow)
        level2 = self._run(self.encoder_level2, self.down1_2(level1))
        level3 = self._run(self.encoder_level3, self.down2_3(level2))
        y = self._run(self.latent, self.down3_4(level3))

        y = pointwise(self.reduce_chan_level3, torch.cat([self.up4_3(y), level3], -1))
        y = self._run(self.decoder_level3, y)
        y = pointwise(self.reduce_chan_level2, torch.cat([self.up3_2(y), level2], -1))
        y = self._run(self.decoder_level2, y)
        y = self._run(self.decoder_level1, torch.cat([self.up2_1(y), level1], -1))
        y = self._run(self.refinement, y)

        if self.skip_conv is not None:
            restored = self.output((y + pointwise(self.skip_conv, shallow)).permute(0, 3, 1, 2))
        else:
            restored = self.output(y.permute(0, 3, 1, 2)) + image
        return crop_to(restored, (x.shape[2], x.shape[3]))

    def _run(self, level: nn.Sequential, x: Tensor) -> Tensor:
        return checkpointed(level, x) if self.use_checkpoint else level(x)


def _check(
    dim: int,
    num_blocks: Sequence[int],
    heads: Sequence[int],
    inp_channels: int,
    out_channels: int,
    dual_pixel_task: bool,
) -> None:
    for name, values in (("num_blocks", num_blocks), ("heads", heads)):
        if len(values) != 4:
            raise ValueError(f"{name}: found {list(values)}, expected one number for each of the 4 levels")
    for i, count in enumerate(heads):
        if dim * 2**i % count:
            raise ValueError(f"heads: {count} does not divide {dim * 2**i}, the width of level {i + 1}")
    if dim % 2:
        raise ValueError(f"dim: found {dim}, expected an even number")
    if not dual_pixel_task and inp_channels not in (out_channels, 1):
        raise ValueError(
            f"inp_channels: {inp_channels} cannot be added to out_channels {out_channels};"
            " only dual_pixel_task does without the image"
        )
