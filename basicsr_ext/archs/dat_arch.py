"""DAT: Vision Transformer with Deformable Attention (arXiv:2201.00520), as released in 2022.

A classifier of four stages. Blocks attend within windows, within shifted windows, or, in the later stages, to
features sampled where queries ask for them. State-dict keys are those of the official release.

Shapes: B batch, H x W the map of a stage, C its channels. Blocks work on (B, H, W, C).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import NETWORKS
from .layers.convolution import in_nchw, pointwise
from .layers.deformable_attention import ChannelNorm, DeformableAttention, Position
from .layers.drop_path import DropPath
from .layers.resized import resized, resized_table
from .layers.window_attention import attend_within_windows, bias_from_table
from .layers.windows import Side


class LocalAttention(nn.Module):
    """Attention within (shifted) windows, with Swin's bias for every relative position.

    Maps of any size: see :func:`attend_within_windows`.

    Args:
        dim: channels, a multiple of ``heads``.
        window: (h, w).
        heads: number of heads.
        shift: rows and columns by which windows are shifted.
        attn_drop: probability that a weight is dropped.
        proj_drop: probability that an output is dropped.
    """

    def __init__(
        self,
        dim: int,
        window: Side,
        heads: int,
        shift: Side = (0, 0),
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.window, self.shift, self.heads, self.attn_drop = window, shift, heads, attn_drop
        offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.01)
        self.proj_qkv = nn.Linear(dim, 3 * dim)
        self.proj_out = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        y = attend_within_windows(
            x,
            self.proj_qkv,
            bias_from_table(self.relative_position_bias_table, self.window),
            self.window,
            self.heads,
            shift=self.shift,
            dropout=self.attn_drop if self.training else 0.0,
        )
        return self.proj_drop(self.proj_out(y))


class LinearMlp(nn.Module):
    """Linear, GELU, linear, under the release's keys."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.chunk = nn.ModuleDict({"linear1": nn.Linear(dim, hidden), "linear2": nn.Linear(hidden, dim)})
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.drop(self.chunk["linear2"](self.drop(F.gelu(self.chunk["linear1"](x)))))


class ConvMlp(nn.Module):
    """1 x 1 convolution, depthwise 3 x 3, GELU, 1 x 1; no published network has it."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Conv2d(dim, hidden, 1)
        self.linear2 = nn.Conv2d(hidden, dim, 1)
        self.dwc = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        y = self.drop(F.gelu(in_nchw(self.dwc, pointwise(self.linear1, x))))
        return self.drop(pointwise(self.linear2, y))


class LayerScale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, dim: int, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return x * self.weight


class TransformerStage(nn.Module):
    """Pre-norm blocks of attention and a feed-forward network, under the release's keys.

    Args:
        dim_in: channels that come in; projected where they are not ``dim``.
        dim: channels.
        attentions: one a block, mapping (B, H, W, C) to the same.
        mlps: likewise.
        drop_paths: rate of stochastic depth of each block.
        local_units: add a depthwise 3 x 3 convolution before each block.
        layer_scale: what a learned factor of each channel of a branch begins with; none if not positive.
    """

    def __init__(
        self,
        dim_in: int,
        dim: int,
        attentions: Sequence[nn.Module],
        mlps: Sequence[nn.Module],
        drop_paths: Sequence[float],
        local_units: bool = False,
        layer_scale: float = -1.0,
    ) -> None:
        super().__init__()
        count = len(attentions)
        self.proj = nn.Identity() if dim_in == dim else nn.Conv2d(dim_in, dim, 1)
        self.layer_norms = nn.ModuleList(ChannelNorm(dim) for _ in range(2 * count))
        self.mlps = nn.ModuleList(mlps)
        self.attns = nn.ModuleList(attentions)
        self.drop_path = nn.ModuleList(DropPath(rate) for rate in drop_paths)
        self.layer_scales = nn.ModuleList(
            LayerScale(dim, layer_scale) if layer_scale > 0 else nn.Identity() for _ in range(2 * count)
        )
        self.local_perception_units = nn.ModuleList(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim) for _ in range(count if local_units else 0)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, dim_in) to (B, H, W, dim)."""
        if isinstance(self.proj, nn.Conv2d):
            x = pointwise(self.proj, x)
        for i, (attention, mlp, drop_path) in enumerate(
            zip(self.attns, self.mlps, self.drop_path, strict=True)
        ):
            if self.local_perception_units:
                x = x + in_nchw(self.local_perception_units[i], x)
            for branch, half in ((attention, 2 * i), (mlp, 2 * i + 1)):
                y = self.layer_scales[half](branch(self.layer_norms[half](x)))
                x = x + drop_path(y)
        return x


class Reduction(nn.Sequential):
    """Strided convolutions, each normalised, with GELUs between them."""

    def __init__(self, *convolutions: nn.Conv2d) -> None:
        parts = [[conv, ChannelNorm(conv.out_channels)] for conv in convolutions]
        super().__init__(*parts[0], *(module for part in parts[1:] for module in (nn.GELU(), *part)))

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map (B, H, W, C) to (B, H / stride, W / stride, C'), rounded up, for each convolution."""
        for module in self:
            if isinstance(module, nn.Conv2d):
                if not any(module.padding):
                    (h, w), (H, W) = module.stride, x.shape[1:3]
                    x = F.pad(x, (0, 0, 0, -W % w, 0, -H % h))
                x = in_nchw(module, x)
            else:
                x = module(x)
        return x


class DeformableTransformer(nn.Module):
    """What DAT and DAT++ share: four stages, reductions before each, and a classifier.

    Args:
        patch_proj: makes tokens of an image.
        stages: each maps (B, H, W, C) to the same size.
        down_projs: lead from each stage to the next.
        features: channels of the last stage.
        num_classes: length of the result; 0: the pooled features.
    """

    undecayed: ClassVar[re.Pattern[str]] = re.compile(r"rpe_table|relative_position_bias_table")
    repeated_blocks: ClassVar[tuple[type[nn.Module], ...]] = (
        LocalAttention,
        DeformableAttention,
        LinearMlp,
        ConvMlp,
    )

    def __init__(
        self,
        patch_proj: Reduction,
        stages: Sequence[TransformerStage],
        down_projs: Sequence[Reduction],
        features: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.patch_proj = patch_proj
        self.stages = nn.ModuleList(stages)
        self.down_projs = nn.ModuleList(down_projs)
        self.cls_norm = ChannelNorm(features)
        self.cls_head = nn.Linear(features, num_classes) if num_classes > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) of any range to logits (B, num_classes)."""
        x = self.patch_proj(x.permute(0, 2, 3, 1))
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else self.down_projs[i - 1](x))
        return self.cls_head(self.cls_norm(x).mean((1, 2)))

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of any window and image size as this network has them.

        Tables of position biases are resized by bicubic interpolation, as the release does.
        """
        own, adapted = self.state_dict(), dict(weights)
        for name, module in self.named_modules():
            if isinstance(module, LocalAttention):
                key = f"{name}.relative_position_bias_table"
                if key in weights:
                    adapted[key] = resized_table(weights[key], len(own[key]))
            elif isinstance(module, DeformableAttention) and module.position == "table":
                key = f"{name}.rpe_table"
                if key in weights and weights[key].shape != own[key].shape:
                    adapted[key] = resized(weights[key].unsqueeze(0), own[key].shape[1:])[0]
        return adapted


@NETWORKS.register()
class DAT(DeformableTransformer):
    """Classifier with deformable attention (CVPR 2022); defaults are DAT-Tiny at 224 x 224.

    Images of every size are taken, those of ``img_size`` exactly as by the release, which takes no others:
    they are extended with zeros where windows or strides do not tile them, and offsets to sampled features
    lie closer in the same tables of the position bias.

    Of the arguments, each list has an entry for each of four stages.

    Args:
        img_size: side of the square images that tables of the position bias are made for.
        patch_size: side of a token in pixels.
        num_classes: length of the result; 0: the pooled features.
        expansion: hidden width of the feed-forward networks over their channels.
        dim_stem: channels of tokens.
        dims: channels.
        depths: numbers of blocks.
        stage_spec: kinds of blocks, a letter each: "L" attends within windows, "S" within windows shifted by
            half their side, rounded up, "D" to sampled features.
        heads: numbers of heads.
        window_sizes: sides of windows.
        groups: of "D" blocks, groups of channels that share what they sample.
        use_pes: give "D" blocks a position bias: a table of offsets, or what ``dwc_pes`` says.
        dwc_pes: add queries filtered by a depthwise 3 x 3 convolution instead of the bias.
        strides: of "D" blocks, rows and columns from one sampled feature to the next.
        sr_ratios: accepted as in released configurations, without effect.
        offset_range_factor: of "D" blocks, how far offsets reach, in cells of the grid; negative: ``tanh`` of
            positions; 0: anywhere.
        no_offs: False; the release fails otherwise.
        fixed_pes: False; the release fails otherwise.
        use_dwc_mlps: give feed-forward networks a depthwise 3 x 3 convolution. Like the next, in no published
            network.
        use_conv_patches: let the convolutions that reduce maps overlap.
        drop_rate: dropout of projections and feed-forward networks.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: rate of stochastic depth at the last block, growing linearly from 0.

    Raises:
        ValueError: arguments that do not fit together.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 4,
        num_classes: int = 1000,
        expansion: int = 4,
        dim_stem: int = 96,
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        stage_spec: Sequence[str | Sequence[str]] = ("LS", "LS", "LDLDLD", "LD"),
        heads: Sequence[int] = (3, 6, 12, 24),
        window_sizes: Sequence[int] = (7, 7, 7, 7),
        groups: Sequence[int] = (-1, -1, 3, 6),
        use_pes: Sequence[bool] = (False, False, True, True),
        dwc_pes: Sequence[bool] = (False, False, False, False),
        strides: Sequence[int] = (-1, -1, 1, 1),
        sr_ratios: Sequence[int] = (-1, -1, -1, -1),
        offset_range_factor: Sequence[float] = (-1, -1, 2, 2),
        no_offs: Sequence[bool] = (False, False, False, False),
        fixed_pes: Sequence[bool] = (False, False, False, False),
        use_dwc_mlps: Sequence[bool] = (False, False, False, False),
        use_conv_patches: bool = False,
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
            strides=strides,
            offset_range_factor=offset_range_factor,
            no_offs=no_offs,
            fixed_pes=fixed_pes,
            use_dwc_mlps=use_dwc_mlps,
        )
        check_blocks(dims, depths, stage_spec, heads, groups, "LSD")
        if any(no_offs) or any(fixed_pes):
            raise ValueError("no_offs, fixed_pes: the first release of DAT fails where one is True")

        def attention(index: int, kind: str) -> nn.Module:
            dim, side = dims[index], img_size // patch_size // 2**index
            if kind == "D":
                position: Position = "table" if use_pes[index] else "none"
                return DeformableAttention(
                    dim,
                    heads[index],
                    groups[index],
                    (side, side),
                    strides[index],
                    (9, 7, 5, 3)[index],
                    offset_range_factor[index],
                    "convolution" if use_pes[index] and dwc_pes[index] else position,
                    release="dat",
                    attn_drop=attn_drop_rate,
                    proj_drop=drop_rate,
                )
            window = window_sizes[index]
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
                )
            )
        if use_conv_patches:
            patches = nn.Conv2d(3, dim_stem, 7, patch_size, 3)
            halvings = [nn.Conv2d(a, b, 3, 2, 1, bias=False) for a, b in pairwise(dims)]
        else:
            patches = nn.Conv2d(3, dim_stem, patch_size, patch_size)
            halvings = [nn.Conv2d(a, b, 2, 2, bias=False) for a, b in pairwise(dims)]
        super().__init__(
            Reduction(patches), stages, [Reduction(conv) for conv in halvings], dims[-1], num_classes
        )


def drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """Return rates that grow linearly from 0 at the first block of all to ``last``, stage by stage."""
    count = max(sum(depths) - 1, 1)
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [
        [last * i / count for i in range(start, start + depth)]
        for start, depth in zip(starts, depths, strict=True)
    ]


def check_stages(**arguments: Sequence[object]) -> None:
    """Raise ValueError unless each argument has an entry for each of four stages."""
    for name, values in arguments.items():
        if len(values) != 4:
            raise ValueError(f"{name}: found {len(values)} entries, expected one for each of 4 stages")


def check_blocks(
    dims: Sequence[int],
    depths: Sequence[int],
    stage_spec: Sequence[str | Sequence[str]],
    heads: Sequence[int],
    groups: Sequence[int],
    kinds: str,
) -> None:
    """Raise ValueError unless each stage has ``depths`` blocks of known kinds, of divisible channels."""
    for i, (dim, depth, spec) in enumerate(zip(dims, depths, stage_spec, strict=True)):
        if len(spec) != depth or not set(spec) <= set(kinds):
            raise ValueError(
                f"stage_spec: found {list(spec)} in stage {i + 1}, expected {depth} of {', '.join(kinds)}"
            )
        if dim % heads[i]:
            raise ValueError(f"heads: {heads[i]} does not divide {dim}, the width of stage {i + 1}")
        if "D" in spec and (groups[i] < 1 or heads[i] % groups[i]):
            raise ValueError(f"groups: {groups[i]} does not divide {heads[i]}, the heads of stage {i + 1}")
