"""Mixers without a matrix of pixels by pixels."""

from __future__ import annotations

from torch import Tensor

from ..layers.context_convolution import AttnConv
from ..layers.pixel_mixing import PixelMixer
from ..layers.transposed_attention import ChannelAttention
from . import MIXERS, require_divisor
from .regions import in_regions


@MIXERS.register("attn_conv")
class ContextConvolution(AttnConv):
    """CloFormer's convolutions of weights that depend on the context, beside global heads (arXiv:2303.17803).

    Args:
        dim: channels, a multiple of the number of heads.
        index: of the block.
        local_heads: heads that are convolutions.
        global_heads: heads that attend to keys of the pooled map.
        kernel: side of the convolutions, odd.
        pool: side of what is averaged to one key.
        region: longest side of the regions that larger maps are divided into, for global heads' sake.
    """

    def __init__(
        self,
        dim: int,
        index: int,
        local_heads: int = 2,
        global_heads: int = 2,
        kernel: int = 5,
        pool: int = 4,
        region: int = 64,
    ) -> None:
        require_divisor(dim, "local_heads and global_heads", local_heads + global_heads)
        super().__init__(dim, (local_heads, global_heads), (kernel,), pool)
        self.region = region

    def attend_globally(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to what the global heads make of its regions: (B, H, W, their channels)."""
        return in_regions(super().attend_globally, x, self.region)


@MIXERS.register("pixel_mixer")
class NeighbourDifferences(PixelMixer):
    """EMT's differences of each pixel and a neighbour, without weights (arXiv:2305.11403).

    Args:
        dim: channels.
        index: of the block.
    """

    def __init__(self, dim: int, index: int) -> None:
        super().__init__(dim)


@MIXERS.register("transposed")
class Transposed(ChannelAttention):
    """Restormer's attention between channels (arXiv:2111.09881).

    Args:
        dim: channels, a multiple of ``heads``.
        index: of the block.
        heads: number of heads.
        bias: give its convolutions a bias.
    """

    def __init__(self, dim: int, index: int, heads: int = 4, bias: bool = False) -> None:
        require_divisor(dim, "heads", heads)
        super().__init__(dim, heads, bias)
