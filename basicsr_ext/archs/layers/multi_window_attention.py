"""Attention within windows of several sizes side by side (MSwin of V2X-ViT, arXiv:2203.10638).

Shapes: B batch, H x W map, C channels, S branches, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .window_attention import attend_within_windows, bias_from_offsets


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
