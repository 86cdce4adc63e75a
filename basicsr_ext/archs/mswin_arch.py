"""MSwin: the multi-scale window attention of V2X-ViT (arXiv:2203.10638).

Features attend within windows of several sizes side by side: small ones with many heads see what is near,
large ones with few heads what is far. State-dict keys are those of the official release.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from . import NETWORKS
from .layers.multi_window_attention import MultiWindowAttention, over_maps, window_branches


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
        branches = window_branches(dim, window_size, heads, dim_heads, relative_pos_embedding, drop_out)
        super().__init__(dim, branches, fuse_method)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (B, C, H, W), or as released, of agents (B, L, H, W, C), to the same shape."""
        return over_maps(super().forward, x)
