"""CloFormer: Rethinking Local Perception in Lightweight Vision Transformer (arXiv:2303.17803).

A classifier of up to four stages. Some heads attend globally, to keys of a pooled map; the others are
convolutions: of weights that all positions share, times weights that depend on the context. State-dict keys
are those of the official release.

Shapes: B batch, H x W the map of a stage, C its channels. Blocks work on (B, H, W, C),
which convolutions take as channels-last (B, C, H, W) without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from . import NETWORKS
from .layers.checkpoint import checkpointed
from .layers.context_convolution import AttnConv
from .layers.convolution import in_nchw
from .layers.drop_path import DropPath
from .layers.mlp import ConvFFN


class Block(nn.Module):
    """Pre-norm block. Normalisation is over all channels and positions of an image.

    The last block of a stage leads to the next: its feed-forward network, and a dense convolution beside it,
    halve the size.
    """

    def __init__(
        self, dim: int, dim_out: int, attention: AttnConv, ffn: ConvFFN, kernel: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, dim)
        self.attn = attention
        self.norm2 = nn.GroupNorm(1, dim)
        self.mlp = ffn
        self.downsample = None
        if ffn.dwconv.stride != (1, 1):
            self.downsample = nn.Sequential(
                nn.Conv2d(dim, dim, kernel, 2, kernel // 2), nn.BatchNorm2d(dim), nn.Conv2d(dim, dim_out, 1)
            )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C), or (B, H / 2, W / 2, C'), rounded up."""
        x = x + self.drop_path(self.attn(in_nchw(self.norm1, x)))
        y = self.drop_path(self.mlp(in_nchw(self.norm2, x)))
        return y + (x if self.downsample is None else in_nchw(self.downsample, x))


class StemConv(nn.Module):
    """A convolution, batch normalisation and ReLU, under the release's keys."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, 1), nn.BatchNorm2d(channels_out), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, H / stride, W / stride), rounded up."""
        return self.conv(x)


class Stem(nn.Module):
    """Five convolutions, of which the first two halve the size."""

    def __init__(self, channels_in: int, dim: int) -> None:
        super().__init__()
        self.conv1 = StemConv(channels_in, dim // 2, 2)
        self.conv2 = StemConv(dim // 2, dim, 2)
        self.conv3 = StemConv(dim, dim, 1)
        self.conv4 = StemConv(dim, dim, 1)
        self.conv5 = nn.Conv2d(dim, dim, 1)
        self.layernorm = nn.GroupNorm(1, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, H / 4, W / 4, dim), rounded up twice."""
        x = self.conv2(self.conv1(x.contiguous(memory_format=torch.channels_last)))
        x = self.layernorm(self.conv5(self.conv4(self.conv3(x))))
        return x.permute(0, 2, 3, 1)


class CloLayer(nn.Module):
    """Blocks, the last of which may lead to the next stage."""

    def __init__(self, blocks: Sequence[Block], use_checkpoint: bool) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the next stage's input."""
        for block in self.blocks:
            x = checkpointed(block, x) if self.use_checkpoint else block(x)
        return x


@NETWORKS.register()
class CloFormer(nn.Module):
    """Classifier with context-aware convolutions; defaults are CloFormer-XXS.

    Images of every size are taken; the release fails where a stage's pool is no divisor of its map.

    Args:
        in_chans: image channels.
        num_classes: length of the result; 0: the pooled features.
        embed_dims: channels of each stage.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        group_splits: of each stage, its heads' kinds: numbers for each of its kernels, then of global ones.
        kernel_sizes: sides of each stage's depthwise convolutions in attention.
        window_sizes: sides of what each stage averages to one key of its global heads.
        mlp_kernel_sizes: sides of each stage's depthwise convolutions in feed-forward networks.
        mlp_ratios: hidden widths of each stage's feed-forward networks over its channels.
        attn_drop: dropout of attention weights.
        mlp_drop: dropout of feed-forward networks.
        qkv_bias: give queries, keys, values and projections a bias.
        drop_path_rate: rate of stochastic depth at the last block, growing linearly from 0.
        use_checkpoint: keep only each block's input for the backward pass and compute it again.

    Raises:
        ValueError: arguments that do not fit together.
    """

    repeated_blocks: ClassVar[tuple[type[nn.Module], ...]] = (Block,)

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = (32, 64, 128, 256),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (4, 4, 8, 16),
        group_splits: Sequence[Sequence[int]] = ((3, 1), (2, 2), (4, 4), (4, 12)),
        kernel_sizes: Sequence[Sequence[int]] = ((3,), (5,), (7,), (9,)),
        window_sizes: Sequence[int] = (8, 4, 2, 1),
        mlp_kernel_sizes: Sequence[int] = (5, 5, 5, 5),
        mlp_ratios: Sequence[float] = (4, 4, 4, 4),
        attn_drop: float = 0.0,
        mlp_drop: float = 0.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        _check_lengths(
            len(depths),
            embed_dims=embed_dims,
            num_heads=num_heads,
            group_splits=group_splits,
            kernel_sizes=kernel_sizes,
            window_sizes=window_sizes,
            mlp_kernel_sizes=mlp_kernel_sizes,
            mlp_ratios=mlp_ratios,
        )
        _check_heads(embed_dims, num_heads, group_splits, kernel_sizes)
        last = max(sum(depths) - 1, 1)
        rates = iter([drop_path_rate * i / last for i in range(sum(depths))])

        def stage(index: int) -> CloLayer:
            dim, kernel = embed_dims[index], mlp_kernel_sizes[index]
            blocks = []
            for i in range(depths[index]):
                leads_on = i == depths[index] - 1 and index < len(depths) - 1
                dim_out, stride = (embed_dims[index + 1], 2) if leads_on else (dim, 1)
                blocks.append(
                    Block(
                        dim,
                        dim_out,
                        AttnConv(
                            dim,
                            group_splits[index],
                            kernel_sizes[index],
                            window_sizes[index],
                            qkv_bias,
                            attn_drop,
                            mlp_drop,
                        ),
                        ConvFFN(dim, int(dim * mlp_ratios[index]), dim_out, kernel, stride, mlp_drop),
                        kernel,
                        next(rates),
                    )
                )
            return CloLayer(blocks, use_checkpoint)

        self.patch_embed = Stem(in_chans, embed_dims[0])
        self.layers = nn.ModuleList(stage(index) for index in range(len(depths)))
        self.norm = nn.GroupNorm(1, embed_dims[-1])
        self.head = nn.Linear(embed_dims[-1], num_classes) if num_classes > 0 else nn.Identity()
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_chans, H, W) of any range to logits (B, num_classes)."""
        x = self.patch_embed(x)
        for stage in self.layers:
            x = stage(x)
        return self.head(in_nchw(self.norm, x).mean((1, 2)))


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _check_lengths(stages: int, **arguments: Sequence[object]) -> None:
    for name, values in arguments.items():
        if len(values) != stages:
            raise ValueError(f"{name}: found {len(values)} entries, expected one for each of {stages} depths")


def _check_heads(
    embed_dims: Sequence[int],
    num_heads: Sequence[int],
    group_splits: Sequence[Sequence[int]],
    kernel_sizes: Sequence[Sequence[int]],
) -> None:
    for i, (dim, heads, splits, kernels) in enumerate(
        zip(embed_dims, num_heads, group_splits, kernel_sizes, strict=True), 1
    ):
        if dim % heads:
            raise ValueError(f"num_heads: {heads} does not divide {dim}, the width of stage {i}")
        if sum(splits) != heads or len(splits) != len(kernels) + 1:
            raise ValueError(
                f"group_splits: found {list(splits)} in stage {i}, expected {len(kernels) + 1} numbers (one"
                f" for each kernel, one for global heads) whose sum is num_heads = {heads}"
            )
