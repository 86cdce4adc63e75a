"""MSwin with deformable attention, in two ways. Designs of this package, not published ones.

MSwin (:mod:`.mswin_arch`) sees what is near in small windows and what is far in large ones, but which tokens
it sees is fixed by the grid of windows. Deformable attention (arXiv:2201.00520) samples keys where the
queries ask for them. Either a deformable branch stands beside the window branches, or every window branch
moves its own keys; both start as plain MSwin, and memory stays linear in pixels:
:mod:`.layers.deformable_window_attention` has the arithmetic.

Shapes: B batch, C channels, H x W map, L agents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor

from . import NETWORKS
from .layers.deformable_window_attention import DeformableWindowBranch, deformable_window_branches
from .layers.multi_window_attention import MultiWindowAttention, over_maps, window_branches

Fusion = Literal["split_attn", "naive"]


@NETWORKS.register()
class MSwinDeformableBranch(MultiWindowAttention):
    """MSwin with a deformable branch beside its windows.

    The branch attends within large regions to few keys that move. It joins the fusion as one more branch,
    with a learned share of its weight that starts as 0 in every channel: the network starts as
    :class:`.mswin_arch.MSwinTransformer`, whose weights load (``strict_load_g: false``).

    Args:
        dim: channels of the maps.
        heads: numbers of heads of each window branch.
        dim_heads: channels of a head of each window branch.
        drop_out: dropout of each branch's result.
        window_size: sides of the windows of each branch.
        relative_pos_embedding: learn biases for relative positions; otherwise for pairs of tokens.
        fuse_method: "split_attn" weighs the branches channel by channel, "naive" takes their mean.
        region: side of the regions of the deformable branch, a multiple of ``stride``.
        region_heads: its heads.
        region_dim_head: channels of each of its heads.
        stride: pixels from one of its reference points to the next.
        offset_groups: groups of its heads that have offsets of their own.
        reach: its largest offset, in regions.
        offsets: look for offsets; otherwise the keys stay at their reference points.

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
        fuse_method: Fusion = "split_attn",
        region: int = 32,
        region_heads: int = 4,
        region_dim_head: int = 64,
        stride: int = 4,
        offset_groups: int = 1,
        reach: float = 0.5,
        offsets: bool = True,
    ) -> None:
        branches = window_branches(dim, window_size, heads, dim_heads, relative_pos_embedding, drop_out)
        deformable = DeformableWindowBranch(
            dim,
            region,
            region_heads,
            region_dim_head,
            relative=relative_pos_embedding,
            dropout=drop_out,
            stride=stride,
            groups=offset_groups,
            reach=reach,
            offsets=offsets,
        )
        super().__init__(dim, [*branches, deformable], fuse_method, newcomer=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, H, W), or of agents (B, L, H, W, C), to the same shape."""
        return over_maps(super().forward, x)

    def adapt_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights of a plain MSwin with logits of 0 for the deformable branch."""
        adapted, key = dict(weights), "split_attn.fc2.weight"
        own = self.state_dict().get(key)
        if own is not None and key in weights and len(weights[key]) == len(own) - own.shape[1]:
            adapted[key] = own.new_zeros(own.shape)
            adapted[key][: len(weights[key])] = weights[key]
        return adapted


@NETWORKS.register()
class MSwinDeformableKeys(MultiWindowAttention):
    """MSwin whose window branches sample their keys at learned offsets.

    With strides of 1 it starts as :class:`.mswin_arch.MSwinTransformer`, whose weights load
    (``strict_load_g: false``).

    Args:
        dim: channels of the maps.
        heads: numbers of heads of each branch.
        dim_heads: channels of a head of each branch.
        drop_out: dropout of each branch's result.
        window_size: sides of the windows of each branch.
        relative_pos_embedding: learn biases for relative positions; otherwise for pairs of tokens.
        fuse_method: "split_attn" weighs the branches channel by channel, "naive" takes their mean.
        strides: pixels from one reference point of each branch to the next; divide the windows' sides.
        offset_groups: groups of each branch's heads that have offsets of their own.
        reach: largest offset, in windows.
        offsets: look for offsets; otherwise the keys stay at their reference points.

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
        fuse_method: Fusion = "split_attn",
        strides: Sequence[int] = (1, 1, 1),
        offset_groups: int = 1,
        reach: float = 0.5,
        offsets: bool = True,
    ) -> None:
        branches = deformable_window_branches(
            dim,
            window_size,
            heads,
            dim_heads,
            strides,
            relative=relative_pos_embedding,
            dropout=drop_out,
            groups=offset_groups,
            reach=reach,
            offsets=offsets,
        )
        super().__init__(dim, branches, fuse_method)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, H, W), or of agents (B, L, H, W, C), to the same shape."""
        return over_maps(super().forward, x)
