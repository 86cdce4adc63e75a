"""Convolutions and pixel-shuffle upsampling (ESPCN, arXiv:1609.05158) with the field's state-dict keys."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    """Return a 3 x 3 convolution that keeps the size."""
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def pixel_shuffle_steps(scale: int, channels: int) -> nn.Sequential:
    """Return the enlargement by 3, or by 2 as often as needed, that keeps ``channels`` (EDSR's).

    Raises:
        ValueError: ``scale`` is neither 3 nor a power of 2.
    """
    if scale == 3:
        factors = [3]
    elif scale > 1 and scale.bit_count() == 1:
        factors = [2] * (scale.bit_length() - 1)
    else:
        raise ValueError(f"scale: found {scale}, expected 3 or a power of 2")
    steps = ((conv3x3(channels, f * f * channels), nn.PixelShuffle(f)) for f in factors)
    return nn.Sequential(*(module for step in steps for module in step))


def pixel_shuffle_once(scale: int, channels: int, image_channels: int) -> nn.Sequential:
    """Return the enlargement by ``scale`` that leads straight to the image, with few parameters."""
    return nn.Sequential(conv3x3(channels, scale**2 * image_channels), nn.PixelShuffle(scale))


def residual_conv(kind: str, channels: int, argument: str) -> nn.Module:
    """Return the convolution that ends a residual branch: one, or SwinIR's bottleneck of three.

    Raises:
        ValueError: ``kind`` is neither "1conv" nor "3conv"; the message names ``argument``.
    """
    if kind == "1conv":
        return conv3x3(channels, channels)
    if kind == "3conv":
        squeezed = channels // 4
        return nn.Sequential(
            conv3x3(channels, squeezed),
            nn.LeakyReLU(0.2),
            nn.Conv2d(squeezed, squeezed, 1),
            nn.LeakyReLU(0.2),
            conv3x3(squeezed, channels),
        )
    raise ValueError(f"{argument}: found {kind!r}, expected '1conv' or '3conv'")


def depthwise3x3(channels: int, bias: bool) -> nn.Conv2d:
    """Return a 3 x 3 convolution of each channel by itself that keeps the size."""
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=bias)


def pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a 1 x 1 convolution to (..., channels_in): to (..., channels_out)."""
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def in_nchw(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module of NCHW tensors to (B, H, W, C); it sees channels-last memory, so nothing is copied."""
    return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def in_parts(
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
