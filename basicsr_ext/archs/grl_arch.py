"""GRL: Efficient and Explicit Modelling of Image Hierarchies for Image Restoration (arXiv:2303.00748).

Every block attends at three ranges: within square windows, within stripes through a small set of anchors,
and, in the base model, in a convolutional branch with channel attention. State-dict keys are those of the
official release.

Shapes: B batch, H x W the padded map, C = embed_dim, I x J windows (or stripes) of an image, N tokens of
one, A its anchors, D channels of a head. The body works on (B, H, W, C), which convolutions take as
channels-last (B, C, H, W) without a copy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import NETWORKS
from .layers.anchored_attention import BiasCache, MixedAttention
from .layers.checkpoint import checkpointed
from .layers.convolution import conv3x3, pixel_shuffle_once, pixel_shuffle_steps, residual_conv
from .layers.drop_path import DropPath
from .layers.mlp import Mlp
from .layers.position_bias import PositionBias, log_coordinates, look_up
from .layers.stripes import Tiling, full_mask
from .layers.windows import Side
from .padding import SizeRequirement, crop_to, pad_to

_RGB_MEAN = (0.4488, 0.4371, 0.4040)
_HEAD_WIDTH = 64


@dataclass(frozen=True)
class Layout:
    """How the maps of one size are cut.

    Attributes:
        window: side and shift of the window attention.
        stripe: those of horizontal stripes.
        stripe_vertical: those of vertical stripes.
        cache: biases to use again; None while gradients may be asked for.
    """

    window: Tiling
    stripe: Tiling
    stripe_vertical: Tiling
    cache: BiasCache | None


# --- body ------------------------------------------------------------------------------------------


class ChannelAttention(nn.Module):
    """Weigh channels by what their means say (RCAN, arXiv:1807.02758)."""

    def __init__(self, dim: int, squeeze: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(dim, dim // squeeze, 1),
            nn.ReLU(),
            nn.Conv2d(dim // squeeze, dim, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        return x * self.attention(x)


class LocalBranch(nn.Module):
    """Two convolutions through a quarter of the channels, and channel attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cab = nn.Sequential(
            conv3x3(dim, dim // 4), nn.GELU(), conv3x3(dim // 4, dim), ChannelAttention(dim, squeeze=18)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        return self.cab(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Block(nn.Module):
    """Post-norm transformer block; ``index`` within the stage decides shifts and the stripes' direction.

    Windows are shifted in even blocks (Swin: in odd ones), stripes are horizontal in even blocks and
    vertical in odd ones, and shifted in the third and fourth of every four.
    """

    def __init__(
        self,
        dim: int,
        index: int,
        attention: MixedAttention,
        mlp_ratio: float,
        local: bool,
        stripe_shift: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.shifts_windows = index % 2 == 0
        self.is_vertical = index % 2 == 1
        self.shifts_stripes = stripe_shift and index % 4 >= 2
        self.attn = attention
        self.norm1 = nn.LayerNorm(dim)
        self.conv = LocalBranch(dim) if local else None
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.norm2 = nn.LayerNorm(dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        window = layout.window if self.shifts_windows else layout.window.at_rest
        stripe = layout.stripe_vertical if self.is_vertical else layout.stripe
        stripe = stripe if self.shifts_stripes else stripe.at_rest
        y = x + self.drop_path(self.norm1(self.attn(x, window, stripe, layout.cache)))
        if self.conv is not None:
            y = y + self.conv(x)
        return y + self.drop_path(self.norm2(self.mlp(y)))


class TransformerStage(nn.Module):
    """Blocks and a convolution beside an identity skip."""

    def __init__(self, blocks: Iterable[Block], conv: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.conv = conv

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        y = x
        for block in self.blocks:
            y = block(y, layout)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


# --- network ---------------------------------------------------------------------------------------


@NETWORKS.register()
class GRL(nn.Module):
    """Global, regional and local image hierarchies; defaults are the tiny network for x4.

    Equal to the released code, so also where that surprises:

    - images are mirrored to the size the windows need, but if that cannot be done on either axis, padded
      with zeros on both, before the mean is subtracted;
    - shifts and masks apply even where one window or stripe covers the whole image;
    - coordinates of the position bias have float32's rounding in every precision.

    It also accepts what the released code fails on: sizes and settings for which its padding, a maximum of
    the sides rather than their common multiple, does not fit, and grouped stripes on images that are not
    square.

    Args:
        img_size: size the released code prepared tables for, which only :meth:`released_buffers` are of; any
            size works.
        in_channels: image channels in; 3 are centred by DIV2K's mean. 6 for a dual-pixel pair.
        out_channels: image channels out; default ``in_channels``.
        embed_dim: width of the body, a multiple of twice the number of heads.
        upscale: enlargement.
        img_range: the body sees centred values times this; images are 0..1 whatever it is.
        upsampler: "pixelshuffle", "pixelshuffledirect" (one step, fewer parameters), "nearest+conv"
            (blind super-resolution, x4), or "" for restoration without enlargement: the network then adds
            a residual to the image, unless ``out_channels`` differs.
        depths: blocks of each stage.
        num_heads_window: heads of the window attention, stage by stage.
        num_heads_stripe: heads of the stripe attention, stage by stage.
        window_size: side of the windows.
        stripe_size: height and width of horizontal stripes, exchanged in vertical ones; None where
            ``stripe_groups`` says how many there are.
        stripe_groups: how many stripes divide the image's height and width; None where the size is fixed.
        stripe_shift: shift the stripes of every third and fourth block.
        mlp_ratio: hidden width of the feed-forward network over ``embed_dim``.
        anchor_window_down_factor: anchors are this much coarser than the map; a divisor of stripe sides.
        local_connection: add the convolutional branch (base).
        drop_path_rate: rate of stochastic depth at the last block, growing linearly from 0.
        conv_type: "1conv" or "3conv" at the end of each stage and of the body.
        use_checkpoint: keep only each stage's input for the backward pass and compute it again.
        fairscale_checkpoint: the released name of ``use_checkpoint``.
        offload_to_cpu: accepted as in released configurations, without effect.
        qkv_proj_type: "linear"; this and the next are settings of released configurations that all
            published networks share.
        anchor_proj_type: "avgpool".
        anchor_one_stage: True.
        out_proj_type: "linear".
        init_method: "n".
        euclidean_dist: False.

    Raises:
        ValueError: arguments that do not fit together.
    """

    repeated_blocks: ClassVar[tuple[type[nn.Module], ...]] = (Block,)
    derived_keys: ClassVar[re.Pattern[str]] = re.compile(r"^(table|index|mask)_(w|s[hv])(_a2w|_w2a)?$")

    def __init__(
        self,
        img_size: int | Sequence[int] = 64,
        in_channels: int = 3,
        out_channels: int | None = None,
        embed_dim: int = 64,
        upscale: int = 4,
        img_range: float = 1.0,
        upsampler: str = "pixelshuffledirect",
        depths: Sequence[int] = (4, 4, 4, 4),
        num_heads_window: Sequence[int] = (2, 2, 2, 2),
        num_heads_stripe: Sequence[int] = (2, 2, 2, 2),
        window_size: int = 32,
        stripe_size: Sequence[int | None] = (64, 64),
        stripe_groups: Sequence[int | None] = (None, None),
        stripe_shift: bool = True,
        mlp_ratio: float = 2.0,
        anchor_window_down_factor: int = 4,
        local_connection: bool = False,
        drop_path_rate: float = 0.1,
        conv_type: str = "1conv",
        use_checkpoint: bool = False,
        fairscale_checkpoint: bool = False,
        offload_to_cpu: bool = False,
        qkv_proj_type: str = "linear",
        anchor_proj_type: str = "avgpool",
        anchor_one_stage: bool = True,
        out_proj_type: str = "linear",
        init_method: str = "n",
        euclidean_dist: bool = False,
    ) -> None:
        super().__init__()
        _check_published(
            qkv_proj_type=(qkv_proj_type, "linear"),
            anchor_proj_type=(anchor_proj_type, "avgpool"),
            anchor_one_stage=(anchor_one_stage, True),
            out_proj_type=(out_proj_type, "linear"),
            init_method=(init_method, "n"),
            euclidean_dist=(euclidean_dist, False),
        )
        _check_widths(embed_dim, depths, num_heads_window, num_heads_stripe)
        _check_stripes(stripe_size, stripe_groups, anchor_window_down_factor)
        out_channels = out_channels or in_channels
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.upscale = upscale
        self.upsampler = upsampler
        self.img_range = img_range
        self.window_size = window_size
        self.stripe_size = tuple(stripe_size)
        self.stripe_groups = tuple(stripe_groups)
        self.anchor_factor = anchor_window_down_factor
        self.use_checkpoint = use_checkpoint or fairscale_checkpoint
        self.adds_to_image = in_channels == out_channels
        mean = _RGB_MEAN if in_channels == 3 else (0.0,)
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)

        last = max(sum(depths) - 1, 1)
        rates = iter([drop_path_rate * i / last for i in range(sum(depths))])
        self.conv_first = conv3x3(in_channels, embed_dim)
        self.norm_start = nn.LayerNorm(embed_dim)
        self.layers = nn.ModuleList(
            TransformerStage(
                [
                    Block(
                        embed_dim,
                        index,
                        MixedAttention(embed_dim, heads_window, heads_stripe, anchor_window_down_factor),
                        mlp_ratio,
                        local_connection,
                        stripe_shift,
                        next(rates),
                    )
                    for index in range(depth)
                ],
                residual_conv(conv_type, embed_dim, "conv_type"),
            )
            for depth, heads_window, heads_stripe in zip(
                depths, num_heads_window, num_heads_stripe, strict=True
            )
        )
        self.norm_end = nn.LayerNorm(embed_dim)
        self.conv_after_body = residual_conv(conv_type, embed_dim, "conv_type")
        self._add_head(embed_dim, out_channels)
        self.apply(_init_linear)
        self._cache = BiasCache()

    def _add_head(self, embed_dim: int, out_channels: int) -> None:
        if self.upsampler == "":
            if self.upscale != 1:
                raise ValueError(f"upscale: found {self.upscale}, but upsampler '' does not enlarge")
            self.conv_last = conv3x3(embed_dim, out_channels)
        elif self.upsampler == "pixelshuffledirect":
            self.upsample = nn.ModuleDict({"up": pixel_shuffle_once(self.upscale, embed_dim, out_channels)})
        elif self.upsampler == "pixelshuffle":
            self.conv_before_upsample = nn.Sequential(conv3x3(embed_dim, _HEAD_WIDTH), nn.LeakyReLU(0.01))
            self.upsample = nn.ModuleDict({"up": pixel_shuffle_steps(self.upscale, _HEAD_WIDTH)})
            self.conv_last = conv3x3(_HEAD_WIDTH, out_channels)
        elif self.upsampler == "nearest+conv":
            if self.upscale != 4:
                raise ValueError(f"upscale: found {self.upscale}, but upsampler 'nearest+conv' is for 4")
            self.conv_before_upsample = nn.Sequential(conv3x3(embed_dim, _HEAD_WIDTH), nn.LeakyReLU(0.01))
            for name in ("conv_up1", "conv_up2", "conv_hr"):
                self.add_module(name, conv3x3(_HEAD_WIDTH, _HEAD_WIDTH))
            self.conv_last = conv3x3(_HEAD_WIDTH, out_channels)
        else:
            raise ValueError(
                f"upsampler: found {self.upsampler!r}, expected 'pixelshuffle', 'pixelshuffledirect', "
                "'nearest+conv' or ''"
            )

    def released_buffers(self) -> dict[str, Tensor]:
        """Return the tables, indices and masks by key that released checkpoints hold, for ``img_size``.

        Coordinates (1, R, Q, 2) and masks (windows, queries, keys) are float32, positions in the former
        (queries, keys) int64; ``a2w`` is from anchors to windows or stripes.

        Raises:
            ValueError: windows or stripes do not fit ``img_size``.
        """
        size, device = self.img_size, self.mean.device
        layout = self._layout(torch.empty(1, 1, *size, device="meta"))
        buffers: dict[str, Tensor] = {}
        for name, tiling in (("w", layout.window), ("sh", layout.stripe), ("sv", layout.stripe_vertical)):
            factor = 1 if name == "w" else self.anchor_factor
            anchors = tiling.coarser(factor)
            if any(side % part for side, part in zip(size, tiling.window, strict=True)):
                raise ValueError(
                    f"img_size: {size} is not a multiple of the window or stripe {tiling.window}"
                )
            grid = size[0] // tiling.window[0], size[1] // tiling.window[1]
            table = log_coordinates(tiling.window, anchors.window, device, torch.float32)
            places = torch.arange(table[..., 0].numel(), device=device).view(1, *table.shape[:2])
            pairs = {"w": (tiling, tiling)}
            if name != "w":
                pairs = {f"{name}_a2w": (anchors, tiling), f"{name}_w2a": (tiling, anchors)}
            buffers[f"table_{name}"] = table[None].clone()
            for suffix, (queries, keys) in pairs.items():
                buffers[f"index_{suffix}"] = look_up(places, queries.window, keys.window)[0]
                buffers[f"mask_{suffix}"] = full_mask(queries, keys, grid, device)
        return buffers

    def size_requirement(self) -> SizeRequirement:
        """Return the input size that all windows and stripes fit; :meth:`forward` pads by itself."""
        sides = [side for side in self.stripe_size if side is not None]
        groups = [count * self.anchor_factor for count in self.stripe_groups if count is not None]
        return SizeRequirement(math.lcm(self.window_size, *sides, *groups), mode="reflect_or_zeros")

    def train(self, mode: bool = True) -> GRL:
        """Set training or evaluation mode; training frees the biases that evaluation kept."""
        if mode:
            self._cache.clear()
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, in_channels, H, W), 0..1, to (B, out_channels, H * upscale, W * upscale)."""
        height, width = x.shape[-2:]
        requirement = self.size_requirement()
        x = x if requirement.fits(x) else pad_to(x, requirement)
        x = (x - self.mean) * self.img_range
        feature = self.conv_first(x)
        feature = self.conv_after_body(self._body(feature)) + feature
        y = self._head(feature)
        if self.upsampler == "" and self.adds_to_image:
            y = x + y
        y = y / self.img_range + self.mean
        return crop_to(y, (height * self.upscale, width * self.upscale))

    def _body(self, x: Tensor) -> Tensor:
        layout = self._layout(x)
        y = self.norm_start(x.permute(0, 2, 3, 1))
        for stage in self.layers:
            y = checkpointed(stage, y, layout) if self.use_checkpoint else stage(y, layout)
        return self.norm_end(y).permute(0, 3, 1, 2)

    def _head(self, x: Tensor) -> Tensor:
        if self.upsampler == "":
            return self.conv_last(x)
        if self.upsampler == "pixelshuffledirect":
            return self.upsample["up"](x)
        x = self.conv_before_upsample(x)
        if self.upsampler == "pixelshuffle":
            return self.conv_last(self.upsample["up"](x))
        for name in ("conv_up1", "conv_up2"):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.leaky_relu(self.get_submodule(name)(x), 0.2)
        return self.conv_last(F.leaky_relu(self.get_submodule("conv_hr")(x), 0.2))

    def _layout(self, x: Tensor) -> Layout:
        size, half = (x.shape[2], x.shape[3]), self.window_size // 2
        return Layout(
            Tiling((self.window_size, self.window_size), (half, half)),
            _stripes(size, self.stripe_size, self.stripe_groups),
            _stripes(size, self.stripe_size[::-1], self.stripe_groups[::-1]),
            self._resting_biases(x),
        )

    def _resting_biases(self, x: Tensor) -> BiasCache | None:
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        if x.is_meta or type(x) is not Tensor:  # without values, as in estimates of operations and memory
            return None
        networks = [module for module in self.modules() if isinstance(module, PositionBias)]
        self._cache.refresh([parameter for network in networks for parameter in network.parameters()])
        return self._cache


def _stripes(size: Side, fixed: Sequence[int | None], groups: Sequence[int | None]) -> Tiling:
    sides = [side or length // (count or 1) for side, count, length in zip(fixed, groups, size, strict=True)]
    shifts = [0 if count == 1 else side // 2 for side, count in zip(sides, groups, strict=True)]
    return Tiling((sides[0], sides[1]), (shifts[0], shifts[1]))


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_published(**settings: tuple[object, object]) -> None:
    for name, (found, published) in settings.items():
        if found != published:
            raise ValueError(f"{name}: found {found!r}; published networks have {published!r}")


def _check_widths(embed_dim: int, depths: Sequence[int], *heads: Sequence[int]) -> None:
    if any(len(counts) != len(depths) for counts in heads):
        raise ValueError(
            "depths, num_heads_window and num_heads_stripe differ in length: "
            f"{len(depths)}, {len(heads[0])} and {len(heads[1])}"
        )
    for count in (count for counts in heads for count in counts):
        if embed_dim % (2 * count):
            raise ValueError(f"embed_dim: {embed_dim} is not a multiple of twice the heads = {2 * count}")


def _check_stripes(sides: Sequence[int | None], groups: Sequence[int | None], factor: int) -> None:
    if len(sides) != 2 or len(groups) != 2:
        raise ValueError("stripe_size and stripe_groups have two entries each: height and width")
    for side, count in zip(sides, groups, strict=True):
        if (side is None) == (count is None):
            raise ValueError("stripe_size and stripe_groups: give one of both for the height and the width")
        if side is not None and side % factor:
            raise ValueError(f"stripe_size: {side} is not a multiple of anchor_window_down_factor = {factor}")
