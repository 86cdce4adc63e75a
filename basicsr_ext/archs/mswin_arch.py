"""MSwin: the multi-scale window attention of V2X-ViT (arXiv:2203.10638).

Features attend within windows of several sizes side by side: small ones with many heads see what is near,
large ones with few heads what is far. State-dict keys are those of the official release.

Shapes: B batch, H x W map, C channels, S branches, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import NETWORKS
from .layers.window_attention import attend_within_windows, bias_from_offsets


class WindowBranch(nn.Module):
    """Attention within windows of one size, with one learned position bias for all heads.

    Maps of any size: see :func:`attend_within_windows`.

    Args:
        dim: channels.
        window: side of the windows.
        heads: number of heads.
        head_dim: channels of a head.
        relative: learn a bias for every relative position; otherwise for every pair of tokens.
        dropout: probability that an output is dropped.
    """

    def __init__(
        self, dim: int, window: int, heads: int, head_dim: int, relative: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.window, self.heads, self.relative = (window, window), heads, relative
        side = 2 * window - 1 if relative else window**2
        self.pos_embedding = nn.Parameter(torch.randn(side, side))
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        bias = self.pos_embedding.unsqueeze(0)
        if self.relative:
            # The table's rows and columns count from the query to the key.
            bias = bias_from_offsets(bias.flip(1, 2), self.window)
        return self.to_out(attend_within_windows(x, self.to_qkv, bias, self.window, self.heads))


class SplitAttention(nn.Module):
    """Weigh branches against each other, channel by channel, by what their sum is on average (ResNeSt).

    Args:
        dim: channels.
        branches: number of branches.
    """

    def __init__(self, dim: int, branches: int = 3) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, dim, bias=False)
        self.bn1 = nn.LayerNorm(dim)
        self.fc2 = nn.Linear(dim, branches * dim, bias=False)

    def forward(self, branches: Sequence[Tensor]) -> Tensor:
        """Map S tensors (B, H, W, C) to one."""
        x = torch.stack(list(branches))
        mean = x.sum(0).mean((1, 2))
        weights = self.fc2(F.relu(self.bn1(self.fc1(mean)))).unflatten(1, (len(x), -1)).softmax(1)
        return torch.einsum("sbhwc,bsc->bhwc", x, weights)


class MultiWindowAttention(nn.Module):
    """Attention within windows of several sizes side by side.

    Args:
        dim: channels.
        windows: sides of the windows, one a branch.
        heads: numbers of heads of each branch.
        head_dims: channels of a head of each branch.
        relative: learn biases for relative positions; otherwise for pairs of tokens.
        fusion: "split_attn", or "naive", the mean of all branches.
        dropout: probability that an output of a branch is dropped.

    Raises:
        ValueError: lists differ in length, or ``fusion`` is unknown.
    """

    def __init__(
        self,
        dim: int,
        windows: Sequence[int],
        heads: Sequence[int],
        head_dims: Sequence[int],
        relative: bool = True,
        fusion: str = "split_attn",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not len(windows) == len(heads) == len(head_dims):
            raise ValueError(
                "window_size, heads and dim_heads differ in length: "
                f"{len(windows)}, {len(heads)} and {len(head_dims)}"
            )
        if fusion not in ("split_attn", "naive"):
            raise ValueError(f"fuse_method: found {fusion!r}, expected 'split_attn' or 'naive'")
        self.pwmsa = nn.ModuleList(
            WindowBranch(dim, window, count, width, relative, dropout)
            for window, count, width in zip(windows, heads, head_dims, strict=True)
        )
        self.split_attn = SplitAttention(dim, len(windows)) if fusion == "split_attn" else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        branches = [branch(x) for branch in self.pwmsa]
        return torch.stack(branches).mean(0) if self.split_attn is None else self.split_attn(branches)


@NETWORKS.register()
class MSwinTransformer(MultiWindowAttention):
    """V2X-ViT's window attention for feature maps; defaults are the published configuration.

    Neither normalisation nor a residual connection is part of it, nor of the released module. Maps of every
    size are taken, those that all windows tile, the only ones the release takes, exactly as by it.

    Args:
        dim: channels of the maps.
        heads: numbers of heads of each branch.
        dim_heads: channels of a head of each branch.
        drop_out: dropout of each branch's result.
        window_size: sides of the windows of each branch.
        relative_pos_embedding: learn biases for relative positions; otherwise for pairs of tokens.
        fuse_method: "split_attn" weighs the branches channel by channel, "naive" takes their mean. The
            release weighs three branches of 256 channels only.

    Raises:
        ValueError: arguments that do not fit together.
    """

    def __init__(
        self,
        dim: int = 256,
        heads: Sequence[int] = (16, 8, 4),
        dim_heads: Sequence[int] = (16, 32, 64),
        drop_out: float = 0.3,
        window_size: Sequence[int] = (4, 8, 16),
        relative_pos_embedding: bool = True,
        fuse_method: Literal["split_attn", "naive"] = "split_attn",
    ) -> None:
        super().__init__(dim, window_size, heads, dim_heads, relative_pos_embedding, fuse_method, drop_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, H, W), or as released, of agents (B, L, H, W, C), to the same shape."""
        if x.ndim == 5:
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
