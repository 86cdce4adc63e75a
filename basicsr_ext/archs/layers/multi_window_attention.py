"""Attention within windows of several sizes side by side (MSwin of V2X-ViT, arXiv:2203.10638).

Shapes: B batch, H x W map, C channels, S branches, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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

    def forward(self, branches: Sequence[Tensor], share: Tensor | None = None) -> Tensor:
        """Map S tensors (B, H, W, C) to one.

        Args:
            branches: the tensors.
            share: (C), what part of its weight the last branch gets: with 0 the result is that of the others
                alone, with 1 that of all.
        """
        x = torch.stack(list(branches))
        if share is None:
            return _weighted(x, self._logits(x.sum(0)).softmax(1))
        others, last = x[:-1], x[-1]
        logits = self._logits(others.sum(0) + share * last)
        y = _weighted(others, logits[:, :-1].softmax(1))
        return y + (share * logits.softmax(1)[:, -1])[:, None, None] * (last - y)

    def _logits(self, total: Tensor) -> Tensor:
        """Map the branches' sum (B, H, W, C) to (B, S, C)."""
        y = self.fc2(F.relu(self.bn1(self.fc1(total.mean((1, 2))))))
        return y.unflatten(1, (-1, total.shape[3]))


def _weighted(x: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("sbhwc,bsc->bhwc", x, weights)


class MultiWindowAttention(nn.Module):
    """Branches of attention side by side, such as windows of several sizes.

    Args:
        dim: channels.
        branches: each maps (B, H, W, C) to the same.
        fusion: "split_attn", or "naive", the mean of all branches.
        newcomer: the last branch has a learned share of its weight in each channel, which starts as 0.

    Raises:
        ValueError: ``fusion`` is unknown.
    """

    def __init__(
        self, dim: int, branches: Sequence[nn.Module], fusion: str = "split_attn", newcomer: bool = False
    ) -> None:
        super().__init__()
        if fusion not in ("split_attn", "naive"):
            raise ValueError(f"fuse_method: found {fusion!r}, expected 'split_attn' or 'naive'")
        self.pwmsa = nn.ModuleList(branches)
        self.split_attn = SplitAttention(dim, len(branches)) if fusion == "split_attn" else None
        self.share = nn.Parameter(torch.zeros(dim)) if newcomer else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        branches = [branch(x) for branch in self.pwmsa]
        if self.split_attn is not None:
            return self.split_attn(branches, self.share)
        if self.share is None:
            return torch.stack(branches).mean(0)
        *others, last = branches
        y = torch.stack(others).mean(0)
        return y + self.share / len(branches) * (last - y)


def window_branches(
    dim: int,
    windows: Sequence[int],
    heads: Sequence[int],
    head_dims: Sequence[int],
    relative: bool = True,
    dropout: float = 0.0,
) -> list[nn.Module]:
    """Return a :class:`WindowBranch` for each size of windows.

    Args:
        dim: channels.
        windows: sides of the windows, one a branch.
        heads: numbers of heads of each branch.
        head_dims: channels of a head of each branch.
        relative: learn biases for relative positions; otherwise for pairs of tokens.
        dropout: probability that an output of a branch is dropped.

    Raises:
        ValueError: lists differ in length.
    """
    check_lengths(windows, heads, head_dims)
    return [
        WindowBranch(dim, window, count, width, relative, dropout)
        for window, count, width in zip(windows, heads, head_dims, strict=True)
    ]


def check_lengths(windows: Sequence[int], heads: Sequence[int], head_dims: Sequence[int]) -> None:
    """Raise a ValueError if these are not as many."""
    if not len(windows) == len(heads) == len(head_dims):
        raise ValueError(
            "window_size, heads and dim_heads differ in length: "
            f"{len(windows)}, {len(heads)} and {len(head_dims)}"
        )


def over_maps(attend: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply attention of (B, H, W, C) to maps (B, C, H, W), or as V2X-ViT has them, (B, L, H, W, C)."""
    if x.ndim == 5:
        return attend(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return attend(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
