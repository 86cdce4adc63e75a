"""Swin Transformer: Hierarchical Vision Transformer using Shifted Windows (arXiv:2103.14030).

A classifier of four stages. Tokens attend within windows, which every second block shifts; between stages,
2 x 2 tokens become one of twice the channels. State-dict keys are those of the official release.

Shapes: B batch, H x W the map of a stage, C its channels, h x w a window.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import NETWORKS
from .layers.checkpoint import checkpointed
from .layers.drop_path import DropPath
from .layers.mlp import Mlp
from .layers.resized import resized, resized_table
from .layers.window_attention import WindowAttention
from .layers.windows import Side


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(
        self, dim: int, attention: WindowAttention, mlp_ratio: float, drop: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbedding(nn.Module):
    """A convolution that makes each patch a token."""

    def __init__(self, patch: Side, channels_in: int, dim: int, norm: bool) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels_in, dim, patch, patch)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H * ph, W * pw) to (B, H, W, dim); other sizes are extended with zeros."""
        ph, pw = self.patch
        x = F.pad(x, (0, -x.shape[3] % pw, 0, -x.shape[2] % ph))
        return self.norm(self.proj(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Make 2 x 2 tokens one of twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H / 2, W / 2, 2C), rounded up: odd sides are extended with zeros."""
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        # In the release's order: down the left column, then down the right one.
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduction(self.norm(x))


class BasicLayer(nn.Module):
    """Blocks, every second one shifted, and the merging that leads to the next stage."""

    def __init__(
        self, blocks: Sequence[Block], downsample: PatchMerging | None, use_checkpoint: bool
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the next stage's (B, H / 2, W / 2, 2C), or at the end to (B, H, W, C)."""
        for block in self.blocks:
            x = checkpointed(block, x) if self.use_checkpoint else block(x)
        return x if self.downsample is None else self.downsample(x)


@NETWORKS.register()
class SwinTransformer(nn.Module):
    """Classifier with shifted windows; defaults are Swin-T at 224 x 224 (with a drop path rate of 0.1).

    Images of every size are taken, ``img_size`` exactly as by the release: others are extended with zeros as
    in the release's code for detection. In a stage whose map, of an image of ``img_size``, is no longer than
    the window on one side, the window is that side and never shifted.

    Weights of another window or image size load with their bias tables and position embedding resized, and
    those of timm under its keys; see :meth:`adapt_weights`.

    Args:
        img_size: side, or height and width, of the images the network is made for.
        patch_size: side, or height and width, of a token in pixels.
        in_chans: image channels.
        num_classes: length of the result; 0: the pooled features.
        embed_dim: channels of the first stage; every stage doubles them.
        depths: blocks of each stage.
        num_heads: heads of each stage.
        window_size: side of the windows.
        mlp_ratio: hidden width of the feed-forward networks over their channels.
        qkv_bias: give queries, keys and values a bias.
        qk_scale: of the logits; default: the width of a head to the power of -0.5.
        drop_rate: dropout of embedded patches, projections and feed-forward networks.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: rate of stochastic depth at the last block, growing linearly from 0.
        ape: add a learned embedding of the absolute position, resized where the map is of another size.
        patch_norm: normalise embedded patches.
        use_checkpoint: keep only each block's input for the backward pass and compute it again.
        fused_window_process: accepted as in released configurations, without effect.

    Raises:
        ValueError: arguments that do not fit together.
    """

    undecayed: ClassVar[re.Pattern[str]] = re.compile(r"absolute_pos_embed|relative_position_bias_table")
    repeated_blocks: ClassVar[tuple[type[nn.Module], ...]] = (Block,)

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
        patch_size: int | Sequence[int] = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        ape: bool = False,
        patch_norm: bool = True,
        use_checkpoint: bool = False,
        fused_window_process: bool = False,
    ) -> None:
        super().__init__()
        _check(embed_dim, depths, num_heads)
        patch = _pair(patch_size, "patch_size")
        image = _pair(img_size, "img_size")
        self.size = (image[0] // patch[0], image[1] // patch[1])
        last = max(sum(depths) - 1, 1)
        rates = iter([drop_path_rate * i / last for i in range(sum(depths))])

        self.patch_embed = PatchEmbedding(patch, in_chans, embed_dim, patch_norm)
        self.absolute_pos_embed = None
        if ape:
            self.absolute_pos_embed = nn.Parameter(torch.empty(1, math.prod(self.size), embed_dim))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.pos_drop = nn.Dropout(drop_rate)

        def stage(index: int) -> BasicLayer:
            dim, shortest = embed_dim * 2**index, min(self.size) // 2**index
            side = max(min(window_size, shortest), 1)
            step = window_size // 2 if shortest > window_size else 0
            blocks = [
                Block(
                    dim,
                    WindowAttention(
                        dim,
                        (side, side),
                        num_heads[index],
                        (step, step) if i % 2 else (0, 0),
                        qkv_bias,
                        qk_scale or None,
                        attn_drop_rate,
                        drop_rate,
                    ),
                    mlp_ratio,
                    drop_rate,
                    next(rates),
                )
                for i in range(depths[index])
            ]
            downsample = PatchMerging(dim) if index < len(depths) - 1 else None
            return BasicLayer(blocks, downsample, use_checkpoint)

        self.layers = nn.ModuleList(stage(index) for index in range(len(depths)))
        features = embed_dim * 2 ** (len(depths) - 1)
        self.norm = nn.LayerNorm(features)
        self.head = nn.Linear(features, num_classes) if num_classes > 0 else nn.Identity()
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, in_chans, H, W) of any range to logits (B, num_classes)."""
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            x = x + self._positions((x.shape[1], x.shape[2]))
        x = self.pos_drop(x)
        for stage in self.layers:
            x = stage(x)
        return self.head(self.norm(x).mean((1, 2)))

    def _positions(self, size: Side) -> Tensor:
        assert self.absolute_pos_embed is not None
        grid = self.absolute_pos_embed.unflatten(1, self.size)
        return grid if size == self.size else resized(grid.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return released or timm's weights, of any window and image size, as this network has them.

        Bias tables and the position embedding are resized by bicubic interpolation, as the release does to
        fine-tune at another size. The embedding is taken for that of a square image.
        """
        # timm merges patches at the beginning of a stage.
        step = 0 if "layers.0.downsample.norm.weight" in weights else 1
        own = self.state_dict()
        adapted = {}
        for key, value in weights.items():
            key = re.sub(
                r"^layers\.(\d+)\.downsample", lambda found: f"layers.{int(found[1]) - step}.downsample", key
            ).replace("head.fc.", "head.")
            if key in own and key.endswith("relative_position_bias_table"):
                value = resized_table(value, len(own[key]))
            elif key in own and key == "absolute_pos_embed":
                value = resized_positions(value, self.size)
            adapted[key] = value
        return adapted


def resized_positions(embedding: Tensor, size: Side) -> Tensor:
    """Return the position embedding (1, n * n, C) for a map of ``size``: (1, H * W, C)."""
    side = math.isqrt(embedding.shape[1])
    if embedding.shape[1] in (math.prod(size), 0) or side**2 != embedding.shape[1]:
        return embedding
    grid = embedding.transpose(1, 2).unflatten(2, (side, side))
    return resized(grid, size).flatten(2).transpose(1, 2)


def _pair(value: int | Sequence[int], name: str) -> Side:
    if isinstance(value, int):
        return (value, value)
    if len(value) != 2:
        raise ValueError(f"{name}: found {list(value)}, expected one number, or two: height and width")
    return (value[0], value[1])


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(embed_dim: int, depths: Sequence[int], num_heads: Sequence[int]) -> None:
    if len(depths) != len(num_heads):
        raise ValueError(f"depths and num_heads differ in length: {len(depths)} and {len(num_heads)}")
    for i, heads in enumerate(num_heads):
        if embed_dim * 2**i % heads:
            raise ValueError(
                f"num_heads: {heads} does not divide {embed_dim * 2**i}, the width of stage {i + 1}"
            )
