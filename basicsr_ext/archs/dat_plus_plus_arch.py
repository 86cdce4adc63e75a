"""DAT++: Spatially Dynamic Vision Transformer with Deformable Attention (arXiv:2309.01430).

A classifier of four stages. Blocks attend to their neighbourhoods, or to features sampled where queries ask
for them; convolutions add what is local. State-dict keys are those of the official release.

Shapes: B batch, H x W the map of a stage, C its channels. Blocks work on (B, H, W, C).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from . import NETWORKS
from .dat_arch import (
    DeformableTransformer,
    LinearMlp,
    LocalAttention,
    Reduction,
    TransformerStage,
    check_blocks,
    check_stages,
    drop_path_rates,
)
from .layers.convolution import in_nchw, pointwise
from .layers.deformable_attention import DeformableAttention, Position
from .layers.neighborhood_attention import NeighborhoodAttention


class ConvMlp(nn.Module):
    """1 x 1 convolution, depthwise 3 x 3 beside the identity, GELU, 1 x 1, under the release's keys."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Sequential(nn.Conv2d(dim, hidden, 1))
        self.linear2 = nn.Sequential(nn.Conv2d(hidden, dim, 1))
        self.dwc = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        first, second = self.linear1[0], self.linear2[0]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        y = self.drop(pointwise(first, x))
        return self.drop(pointwise(second, F.gelu(y + in_nchw(self.dwc, y))))


@NETWORKS.register()
class DATPlusPlus(DeformableTransformer):
    """Classifier with deformable and neighbourhood attention; defaults are DAT-T++ at 224 x 224.

    Images of every size are taken, all that the release takes exactly as by it.

    Of the arguments, each list has an entry for each of four stages.

    Args:
        img_size: side of the square images that tables of the position bias are made for; others are taken
            with the same tables, whose offsets then lie closer together or further apart.
        patch_size: side of a token in pixels.
        num_classes: length of the result; 0: the pooled features.
        expansion: hidden width of the feed-forward networks over their channels.
        dim_stem: channels of tokens.
        dims: channels.
        depths: numbers of blocks.
        stage_spec: kinds of blocks, a letter each: "N" attends to neighbours, "D" to sampled features, "L"
            within windows, "S" within windows shifted by half their side, rounded up.
        heads: numbers of heads.
        window_sizes: sides of windows.
        groups: of "D" blocks, groups of channels that share what they sample.
        use_pes: give "D" blocks a position bias: a table of offsets, or what the next say, the first of them.
        dwc_pes: add queries filtered by a depthwise 3 x 3 convolution instead of the bias.
        fixed_pes: learn a bias for each pair of query and key.
        log_cpb: let a small network make the bias of offsets.
        strides: of "D" blocks, rows and columns from one sampled feature to the next.
        sr_ratios: accepted as in released configurations, without effect.
        offset_range_factor: of "D" blocks, how far offsets reach, in cells of the grid; negative: anywhere in
            the map.
        no_offs: average features instead of sampling them, and leave the position bias out.
        use_dwc_mlps: give feed-forward networks a depthwise 3 x 3 convolution.
        use_lpus: add a depthwise 3 x 3 convolution before each block.
        use_conv_patches: let the convolutions that reduce maps overlap.
        ksizes: sides of the convolutions that look for offsets.
        nat_ksizes: sides of neighbourhoods, odd.
        layer_scale_values: what a learned factor of each channel of a branch begins with; not positive: none.
        drop_rate: dropout of projections and feed-forward networks.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: rate of stochastic depth at the last block, growing linearly from 0.

    Raises:
        ValueError: arguments that do not fit together.
    """

    repeated_blocks: ClassVar[tuple[type[nn.Module], ...]] = (
        *DeformableTransformer.repeated_blocks,
        NeighborhoodAttention,
        ConvMlp,
    )

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 4,
        num_classes: int = 1000,
        expansion: int = 4,
        dim_stem: int = 64,
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 4, 18, 2),
        stage_spec: Sequence[str | Sequence[str]] = ("ND", "ND" * 2, "ND" * 9, "DD"),
        heads: Sequence[int] = (2, 4, 8, 16),
        window_sizes: Sequence[int] = (7, 7, 7, 7),
        groups: Sequence[int] = (1, 2, 4, 8),
        use_pes: Sequence[bool] = (True, True, True, True),
        dwc_pes: Sequence[bool] = (False, False, False, False),
        fixed_pes: Sequence[bool] = (False, False, False, False),
        log_cpb: Sequence[bool] = (False, False, False, False),
        strides: Sequence[int] = (8, 4, 2, 1),
        sr_ratios: Sequence[int] = (-1, -1, -1, -1),
        offset_range_factor: Sequence[float] = (-1, -1, -1, -1),
        no_offs: Sequence[bool] = (False, False, False, False),
        use_dwc_mlps: Sequence[bool] = (True, True, True, True),
        use_lpus: Sequence[bool] = (True, True, True, True),
        use_conv_patches: bool = True,
        ksizes: Sequence[int] = (9, 7, 5, 3),
        nat_ksizes: Sequence[int] = (7, 7, 7, 7),
        layer_scale_values: Sequence[float] = (-1, -1, -1, -1),
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.2,
    ) -> None:
        check_stages(
            dims=dims,
            depths=depths,
            stage_spec=stage_spec,
            heads=heads,
            window_sizes=window_sizes,
            groups=groups,
            use_pes=use_pes,
            dwc_pes=dwc_pes,
            fixed_pes=fixed_pes,
            log_cpb=log_cpb,
            strides=strides,
            offset_range_factor=offset_range_factor,
            no_offs=no_offs,
            use_dwc_mlps=use_dwc_mlps,
            use_lpus=use_lpus,
            ksizes=ksizes,
            nat_ksizes=nat_ksizes,
            layer_scale_values=layer_scale_values,
        )
        check_blocks(dims, depths, stage_spec, heads, groups, "NDLS")

        def attention(index: int, kind: str) -> nn.Module:
            dim, side, window = dims[index], img_size // patch_size // 2**index, window_sizes[index]
            if kind == "N":
                return NeighborhoodAttention(dim, nat_ksizes[index], heads[index], attn_drop_rate, drop_rate)
            if kind == "D":
                return DeformableAttention(
                    dim,
                    heads[index],
                    groups[index],
                    (side, side),
                    strides[index],
                    ksizes[index],
                    offset_range_factor[index],
                    _position(use_pes[index], dwc_pes[index], fixed_pes[index], log_cpb[index]),
                    offsets=not no_offs[index],
                    attn_drop=attn_drop_rate,
                    proj_drop=drop_rate,
                )
            shift = math.ceil(window / 2) if kind == "S" else 0
            return LocalAttention(
                dim, (window, window), heads[index], (shift, shift), attn_drop_rate, drop_rate
            )

        rates = drop_path_rates(drop_path_rate, depths)
        stages = []
        for i, dim in enumerate(dims):
            mlp = ConvMlp if use_dwc_mlps[i] else LinearMlp
            stages.append(
                TransformerStage(
                    dim_stem if i == 0 else dim,
                    dim,
                    [attention(i, kind) for kind in stage_spec[i]],
                    [mlp(dim, dim * expansion, drop_rate) for _ in stage_spec[i]],
                    rates[i],
                    use_lpus[i],
                    layer_scale_values[i],
                )
            )
        if use_conv_patches:
            half, stride = dim_stem // 2, patch_size // 2
            patches = [nn.Conv2d(3, half, 3, stride, 1), nn.Conv2d(half, dim_stem, 3, stride, 1)]
            halvings = [nn.Conv2d(a, b, 3, 2, 1, bias=False) for a, b in pairwise(dims)]
        else:
            patches = [nn.Conv2d(3, dim_stem, patch_size, patch_size)]
            halvings = [nn.Conv2d(a, b, 2, 2, bias=False) for a, b in pairwise(dims)]
        super().__init__(
            Reduction(*patches), stages, [Reduction(conv) for conv in halvings], dims[-1], num_classes
        )


def _position(use: bool, convolution: bool, fixed: bool, network: bool) -> Position:
    if not use:
        return "none"
    if convolution:
        return "convolution"
    if fixed:
        return "fixed"
    return "network" if network else "table"
