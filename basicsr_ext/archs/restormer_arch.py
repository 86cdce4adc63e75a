"""Restormer: Efficient Transformer for High-Resolution Image Restoration (arXiv:2111.09881).

A U-Net of transformer blocks. A block attends over channels instead of pixels, so its cost grows linearly
with the image, and its feed-forward network is gated. State-dict keys are those of the official release.

Shapes: B batch, H x W a level's resolution, C its width, D = C / heads channels of a head. Blocks work on
(B, H, W, C), which convolutions take as channels-last (B, C, H, W) without a copy: depthwise convolutions,
where most of the time goes, run 1.4 to 1.9 times as fast in that layout (``benchmarks/README.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import NETWORKS
from .layers.checkpoint import checkpointed
from .layers.convolution import in_nchw, pointwise
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


class _ChannelCosines(torch.autograd.Function):
    """Cosines between channels of queries and keys, with gradients in the layout of their inputs.

    Left to autograd, the product's gradient of the queries would arrive with pixels innermost, and be
    copied, and the normalisation would pass over all pixels several times in each direction.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor) -> Tensor:
        """Map two (B, heads, pixels, D) to (B, heads, D, D)."""
        length_q, length_k = _lengths(q), _lengths(k)
        cosines = q.transpose(-2, -1) @ k / (length_q.unsqueeze(-1) * length_k.unsqueeze(-2))
        ctx.save_for_backward(q, k, length_q, length_k, cosines)
        return cosines

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, length_q, length_k, cosines = ctx.saved_tensors
        # A length at its lower bound is a constant.
        radial = grads[0] * cosines
        radial_q = -radial.sum(-1) / length_q**2 * (length_q > _SHORTEST)
        radial_k = -radial.sum(-2) / length_k**2 * (length_k > _SHORTEST)
        mixing = grads[0] / (length_q.unsqueeze(-1) * length_k.unsqueeze(-2))
        mixing, radial_q, radial_k = (part.to(q.dtype) for part in (mixing, radial_q, radial_k))
        return (
            torch.addcmul(k @ mixing.transpose(-2, -1), q, radial_q.unsqueeze(-2)),
            torch.addcmul(q @ mixing, k, radial_k.unsqueeze(-2)),
        )


_SHORTEST = 1e-12


def _lengths(x: Tensor) -> Tensor:
    """Return the L2 norm over pixels of (B, heads, pixels, D), bounded from below as in the release."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=-2, dtype=dtype).clamp_min(_SHORTEST)


class ChannelAttention(nn.Module):
    """Multi-Dconv head transposed attention: a head's channels attend to each other over all pixels."""

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.qkv_dwconv = _depthwise(3 * dim, bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        # Queries, keys and values are computed apart, so that their gradients need not be joined.
        q, k, v = (part.flatten(1, 2) for part in _separately(x, self.qkv, self.qkv_dwconv, 3))
        q, k = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k))
        attn = (_ChannelCosines.apply(q, k) * self.temperature).softmax(-1).to(v.dtype)
        # Attention and projection are linear maps of each pixel's values: multiplied first, they are one.
        weight = self.project_out.weight.flatten(1).unflatten(1, (self.heads, -1))  # (C, heads, D)
        mixing = (weight.transpose(0, 1) @ attn).transpose(1, 2).flatten(2)  # (B, C, C)
        y = v @ mixing.transpose(-2, -1)
        if self.project_out.bias is not None:
            y = y + self.project_out.bias
        return y.unflatten(1, x.shape[1:3])


class GatedFeedForward(nn.Module):
    """Gated-Dconv feed-forward network: one half of the hidden channels gates the other."""

    def __init__(self, dim: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv = _depthwise(2 * hidden, bias)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        # Matrix products with the published 127 or 255 channels take up to twice the time of 128 or 256.
        gate, value = _separately(x, self.project_in, self.dwconv, 2, multiple_of=16)
        weight = self.project_out.weight.flatten(1)
        weight = F.pad(weight, (0, gate.shape[-1] - weight.shape[1]))
        return F.linear(F.gelu(gate) * value, weight, self.project_out.bias)


def _separately(
    x: Tensor, project: nn.Conv2d, depthwise: nn.Conv2d, parts: int, multiple_of: int = 1
) -> list[Tensor]:
    """Return equal parts of ``depthwise(project(x))`` for x (B, H, W, C), with zeros up to a multiple."""
    width = project.out_channels // parts
    results = []
    for i in range(parts):
        share = slice(i * width, (i + 1) * width)
        weight, bias = _widened(project, share, multiple_of)
        kernel, offset = _widened(depthwise, share, multiple_of)
        y = F.linear(x, weight.flatten(1), bias).permute(0, 3, 1, 2)
        results.append(F.conv2d(y, kernel, offset, padding=1, groups=len(kernel)).permute(0, 2, 3, 1))
    return results


def _widened(conv: nn.Conv2d, share: slice, multiple_of: int) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of some output channels, and zeros up to a multiple."""
    weight, bias = conv.weight[share], None if conv.bias is None else conv.bias[share]
    missing = -len(weight) % multiple_of
    if not missing:
        return weight, bias
    return F.pad(weight, (0, 0) * 3 + (0, missing)), None if bias is None else F.pad(bias, (0, missing))


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


def _depthwise(channels: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias)


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
