"""EDT: On Efficient Transformer-Based Image Pre-training for Low-Level Vision (arXiv:2112.10175).

An image passes the stem of its task (convolutions), the body all tasks share (transformer blocks with
shifted crossed local attention) and the tail of its task (convolutions); the tail's result is added to the
(bilinearly enlarged) image. State-dict keys are those of the official release.

Shapes: B batch, H x W at body resolution, C = embed_dim, h x w a window, N = h * w its tokens. The body works
on (B, H, W, C), which convolutions take as channels-last (B, C, H, W) without a copy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import NETWORKS
from .layers.convolution import conv3x3, pixel_shuffle_once, pixel_shuffle_steps, residual_conv
from .layers.crossed_attention import LocalAttention, attend_crosswise, both_ways, crossed_masks
from .layers.drop_path import DropPath
from .layers.mlp import DepthwiseMlp
from .layers.windows import shifted_window_mask
from .padding import SizeRequirement, crop_to, pad_to

_RGB_MEAN = (0.4488, 0.4371, 0.4040)


# --- stems and tails -------------------------------------------------------------------------------


class ResidualStage(nn.Module):
    """Two convolutions beside a 1 x 1 shortcut; no activation after the sum."""

    def __init__(self, channels_in: int, channels_mid: int, channels_out: int) -> None:
        super().__init__()
        self.conv_1 = conv3x3(channels_in, channels_mid)
        self.conv_2 = conv3x3(channels_mid, channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, H, W)."""
        y = F.leaky_relu(self.conv_1(x), 0.2)
        y = F.leaky_relu(self.conv_2(y), 0.2)
        return y + self.shortcut(x)


class StemStage(ResidualStage):
    """A residual stage that doubles the channels, then halves the size where ``down`` is set."""

    def __init__(self, channels: int, down: bool) -> None:
        super().__init__(channels, channels, 2 * channels)
        self.conv_down = nn.Conv2d(2 * channels, 2 * channels, 4, 2, 1, bias=False) if down else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the stage's output, and the full-size feature that the tail will need."""
        skip = super().forward(x)
        return (skip if self.conv_down is None else self.conv_down(skip)), skip


class Stem(nn.Sequential):
    """A task's encoder: convolution, stages, convolution to the body's width."""

    def __init__(self, image_channels: int, num_feat: int, depth: int, embed_dim: int, down: bool) -> None:
        super().__init__(
            conv3x3(image_channels, num_feat),
            *(StemStage(num_feat * 2**i, down) for i in range(depth)),
            conv3x3(num_feat * 2**depth, embed_dim),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map an image to the body's input (B, C, H, W) and the stages' skip features."""
        first, *stages, last = self
        x, skips = first(x), []
        for stage in stages:
            x, skip = stage(x)
            skips.append(skip)
        return last(x), skips


class TailStage(nn.Module):
    """Join the deep feature with the stem's, after doubling its size where ``up`` is set."""

    def __init__(self, channels_in: int, channels_out: int, up: bool) -> None:
        super().__init__()
        self.is_up = up
        if up:
            self.up = nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2)
        else:
            self.conv = conv3x3(channels_in, channels_out)
        self.block = ResidualStage(2 * channels_out, channels_out, channels_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to ``skip``'s shape."""
        x = self.up(x) if self.is_up else self.conv(x)
        return self.block(torch.cat([x, skip], 1))


class Tail(nn.Sequential):
    """A task's decoder: one stage for each of the stem's, last first, then the way to the image."""

    def __init__(
        self, num_feat: int, depth: int, embed_dim: int, up: bool, output: Sequence[nn.Module]
    ) -> None:
        widths = [embed_dim, *(num_feat * 2**i for i in range(depth, 0, -1))]
        stages = (TailStage(a, b, up) for a, b in pairwise(widths))
        super().__init__(*stages, *output)

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map the body's output (B, C, H, W) to the image's residual."""
        modules = list(self)
        for stage, skip in zip(modules[: len(skips)], reversed(skips), strict=True):
            x = stage(x, skip)
        for module in modules[len(skips) :]:
            x = module(x)
        return x


def upsampling(kind: str, scale: int, channels: int, image_channels: int) -> list[nn.Module]:
    """Return the two modules that end a super-resolution tail."""
    if kind == "pixelshuffle":
        return [pixel_shuffle_steps(scale, channels), conv3x3(channels, image_channels)]
    if kind == "pixelshuffledirect":
        return [pixel_shuffle_once(scale, channels, image_channels), nn.Identity()]
    raise ValueError(f"upsampler: found {kind!r}, expected 'pixelshuffle' or 'pixelshuffledirect'")


# --- body ------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Transformer block with (shifted) crossed local attention.

    The first half of the channels attends within (h, w) windows, the second within (w, h).
    """

    def __init__(
        self,
        dim: int,
        window: tuple[int, int],
        heads: int,
        mlp_ratio: float,
        shifted: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.attns = nn.ModuleList(LocalAttention(dim // 2, shape, heads) for shape in both_ways(window))
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = DepthwiseMlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C); ``masks`` are those of both windows, used if shifted."""
        attended = attend_crosswise(
            self.qkv(self.norm1(x)), self.attns, masks if self.shifted else (None, None)
        )
        x = x + self.drop_path(self.proj(attended))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Group(nn.Module):
    """Blocks beside an identity skip."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        super().__init__()
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})

    def forward(self, x: Tensor, masks: Sequence[Tensor]) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        y = x
        for block in self.residual_group["blocks"].children():
            y = block(y, masks)
        return x + y


class Body(nn.Module):
    """Groups of blocks, every second block shifted, and a convolution, beside an identity skip."""

    def __init__(
        self,
        dim: int,
        window: tuple[int, int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratio: float,
        resi_connection: str,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.windows = both_ways(window)
        # Stochastic depth grows linearly from the first block of all to the last.
        last = max(sum(depths) - 1, 1)
        rates = iter([drop_path_rate * i / last for i in range(sum(depths))])
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(dim)})
        self.layers = nn.ModuleList(
            Group(Block(dim, window, heads, mlp_ratio, i % 2 == 1, next(rates)) for i in range(count))
            for count, heads in zip(depths, num_heads, strict=True)
        )
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = residual_conv(resi_connection, dim, "resi_connection")
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W); H and W must be multiples of both window sides."""
        y = self.patch_embed["norm"](x.permute(0, 2, 3, 1))
        masks = crossed_masks(y, self.windows)
        for group in self.layers:
            y = group(y, masks)
        return x + self.conv_after_body(self.norm(y).permute(0, 3, 1, 2))


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


# --- network ---------------------------------------------------------------------------------------


@NETWORKS.register()
class EDT(nn.Module):
    """Encoder-decoder transformer for super-resolution, denoising and deraining; defaults are EDT-B.

    Tasks are listed scales first, then noise levels, then rain levels, and named as in the state dict:
    ``sr_x4``, ``dn_g25``, ``dr_L``; see :attr:`tasks`.

    Args:
        scales: super-resolution tasks, one an enlargement.
        noise_levels: denoising tasks, one a Gaussian sigma (0..255 units).
        rain_levels: deraining tasks, "L" (light) or "H" (heavy).
        window_size: (h, w) of the first attention's windows; the second's are (w, h).
        embed_dim: width of the body, a multiple of twice the number of heads.
        num_feat: width of the first stem convolution; every stem stage doubles it.
        depth: stages of each stem and tail.
        depths: blocks of each group of the body.
        num_heads: heads of each of the two attentions, group by group.
        mlp_ratio: hidden width of the feed-forward network over ``embed_dim``.
        image_size: body size the released code prepared masks for, which only :meth:`released_buffers` are
            of; any size works. Default: that of published configurations, 48, or 144 at full resolution.
        image_range: the body sees centred values times this; images are 0..1 whatever it is.
        in_channel: image channels.
        upsampler: "pixelshuffle", or "pixelshuffledirect" (one step, fewer parameters).
        resi_connection: "1conv" or "3conv" at the end of the body.
        downsample: accepted as in released configurations, without effect.
        device: likewise.
        drop_path_rate: stochastic depth of the last block, in training.
        full_resolution: denoising and deraining without down- and upsampling (the released "SF" variant).
    """

    repeated_blocks: ClassVar[tuple[type[nn.Module], ...]] = (Block,)
    derived_keys: ClassVar[re.Pattern[str]] = re.compile(r"\.attn_mask_[hv]$")
    """State-dict entries of the released code that follow from the image size."""

    def __init__(
        self,
        scales: Sequence[int] = (),
        noise_levels: Sequence[int] = (),
        rain_levels: Sequence[str] = (),
        window_size: Sequence[int] = (6, 24),
        embed_dim: int = 180,
        num_feat: int = 32,
        depth: int = 2,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        num_heads: Sequence[int] = (6, 6, 6, 6, 6, 6),
        mlp_ratio: float = 2.0,
        image_size: Any = None,
        image_range: float = 1.0,
        in_channel: int = 3,
        upsampler: str = "pixelshuffle",
        resi_connection: str = "1conv",
        downsample: Any = None,
        device: Any = None,
        drop_path_rate: float = 0.1,
        full_resolution: bool = False,
    ) -> None:
        super().__init__()
        _check(window_size, embed_dim, depths, num_heads)
        h, w = window_size
        self.image_range = image_range
        self.image_size = image_size or (144 if full_resolution else 48)
        self._scales = {f"sr_x{scale}": scale for scale in scales}
        denoising = [f"dn_g{level}" for level in noise_levels]
        self.tasks = [*self._scales, *denoising, *(f"dr_{level}" for level in rain_levels)]
        if not self.tasks:
            raise ValueError("EDT needs at least one task: scales, noise_levels or rain_levels")
        self._multiples: dict[str, int] = {}
        mean = _RGB_MEAN if in_channel == 3 else (0.0,)
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)

        self.body = Body(embed_dim, (h, w), depths, num_heads, mlp_ratio, resi_connection, drop_path_rate)
        for task in self.tasks:
            scale = self._scales.get(task)
            resized = scale is None and not full_resolution
            self._multiples[task] = math.lcm(h, w) * (2**depth if resized else 1)
            if scale is None:
                output = [conv3x3(2 * num_feat, in_channel)]
            else:
                output = upsampling(upsampler, scale, 2 * num_feat, in_channel)
            self.add_module(f"head_{task}", Stem(in_channel, num_feat, depth, embed_dim, resized))
            self.add_module(f"tail_{task}", Tail(num_feat, depth, embed_dim, resized, output))

    @staticmethod
    def task_of(key: str) -> str | None:
        """Return the task that a state-dict key belongs to; None for the shared body."""
        match = re.match(r"(?:head|tail)_([^.]+)\.", key)
        return match[1] if match else None

    def released_buffers(self) -> dict[str, Tensor]:
        """Return the masks of shifted blocks by key: (windows, N, N), float32, for ``image_size``.

        Raises:
            ValueError: windows do not fit ``image_size``.
        """
        size, (h, w) = self.image_size, self.body.windows[0]
        if size % math.lcm(h, w):
            raise ValueError(f"image_size: {size} is not a multiple of windows of {h} x {w} and {w} x {h}")
        device = self.mean.device
        masks = {
            name: shifted_window_mask((size, size), (h, w), (h // 2, w // 2), device, torch.float32)[:, 0]
            for name, (h, w) in zip(("attn_mask_h", "attn_mask_v"), self.body.windows, strict=True)
        }
        shifted = [key for key, block in self.named_modules() if isinstance(block, Block) and block.shifted]
        return {f"{key}.{name}": mask.clone() for key in shifted for name, mask in masks.items()}

    def size_requirement(self, task: str | None = None) -> SizeRequirement:
        """Return the input size ``task`` needs, extended as in the official test script; None: all tasks.

        :meth:`forward` pads sizes that do not fit by itself.
        """
        names = self.tasks if task is None else [self._known(task)]
        multiple = math.lcm(*(self._multiples[name] for name in names))
        return SizeRequirement(multiple, mode="flip", always=True)

    @overload
    def forward(self, x: Tensor, task: str | None = None) -> Tensor: ...
    @overload
    def forward(self, x: Sequence[Tensor], task: None = None) -> list[Tensor]: ...
    def forward(self, x: Tensor | Sequence[Tensor], task: str | None = None) -> Tensor | list[Tensor]:
        """Restore images (B, in_channel, H, W), 0..1, to (B, in_channel, H * scale, W * scale).

        Args:
            x: one tensor, or a list with one tensor a task in the order of :attr:`tasks`.
            task: what to do with one tensor; may be left out where the network has one task.

        Raises:
            ValueError: it is unclear, or unknown, which task is meant.
        """
        if isinstance(x, Tensor):
            if task is None and len(self.tasks) > 1:
                raise ValueError(f"name the task of this image, one of {self.tasks}, or pass a list")
            return self._restore([x], [self.tasks[0] if task is None else self._known(task)])[0]
        if task is not None or len(x) != len(self.tasks):
            raise ValueError(f"a list needs one image for each of {self.tasks}, in this order, and no task")
        return self._restore(x, self.tasks)

    def _restore(self, images: Sequence[Tensor], tasks: Sequence[str]) -> list[Tensor]:
        centred, shallow, skips = [], [], []
        for x, task in zip(images, tasks, strict=True):
            requirement = self.size_requirement(task)
            # Training crops fit and pass unpadded, as in the released training code.
            x = x if requirement.fits(x) else pad_to(x, requirement)
            centred.append((x - self.mean) * self.image_range)
            feature, skip = getattr(self, f"head_{task}")(centred[-1])
            shallow.append(feature)
            skips.append(skip)

        restored = []
        for i, (deep, task) in enumerate(zip(self._through_body(shallow), tasks, strict=True)):
            scale = self._scales.get(task, 1)
            base = centred[i]
            if scale > 1:
                base = F.interpolate(base, scale_factor=scale, mode="bilinear", align_corners=False)
            y = getattr(self, f"tail_{task}")(deep, skips[i]) + base
            height, width = images[i].shape[-2:]
            restored.append(crop_to(y / self.image_range + self.mean, (height * scale, width * scale)))
        return restored

    def _through_body(self, features: list[Tensor]) -> list[Tensor]:
        """Run the body; features of one size go through it as one batch while training, as released."""
        same_size = all(feature.shape[-2:] == features[0].shape[-2:] for feature in features)
        if self.training and same_size:
            return list(self.body(torch.cat(features)).split([len(feature) for feature in features]))
        return [self.body(feature) for feature in features]

    def _known(self, task: str) -> str:
        if task not in self.tasks:
            raise ValueError(f"task {task!r} is not one of this network's: {self.tasks}")
        return task


def _check(
    window_size: Sequence[int], embed_dim: int, depths: Sequence[int], num_heads: Sequence[int]
) -> None:
    if len(window_size) != 2:
        raise ValueError(f"window_size: found {window_size}, expected two sides, such as [6, 24]")
    if len(depths) != len(num_heads):
        raise ValueError(f"depths and num_heads differ in length: {len(depths)} and {len(num_heads)}")
    for heads in num_heads:
        if embed_dim % (2 * heads):
            raise ValueError(f"embed_dim: {embed_dim} is not a multiple of 2 * num_heads = {2 * heads}")
