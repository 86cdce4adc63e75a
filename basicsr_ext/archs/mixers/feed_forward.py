"""What follows a token mixer: position by position, or with a small convolution."""

from __future__ import annotations

from ..layers.mlp import ConvFFN, DepthwiseMlp, GatedFeedForward, Mlp
from . import FEED_FORWARDS


@FEED_FORWARDS.register("mlp")
class PlainMlp(Mlp):
    """Linear, GELU, linear.

    Args:
        dim: channels.
        ratio: hidden width over ``dim``.
    """

    def __init__(self, dim: int, ratio: float = 2.0) -> None:
        super().__init__(dim, int(dim * ratio))


@FEED_FORWARDS.register("depthwise_mlp")
class BetweenGelus(DepthwiseMlp):
    """EDT's: linear, GELU, 5 x 5 depthwise convolution, GELU, linear (arXiv:2112.10175).

    Args:
        dim: channels.
        ratio: hidden width over ``dim``.
    """

    def __init__(self, dim: int, ratio: float = 2.0) -> None:
        super().__init__(dim, int(dim * ratio))


@FEED_FORWARDS.register("conv_ffn")
class AfterGelu(ConvFFN):
    """CloFormer's: linear, GELU, depthwise convolution, linear (arXiv:2303.17803).

    Args:
        dim: channels.
        ratio: hidden width over ``dim``.
        kernel: side of the convolution, odd.
    """

    def __init__(self, dim: int, ratio: float = 2.0, kernel: int = 5) -> None:
        super().__init__(dim, int(dim * ratio), dim, kernel, 1, 0.0)


@FEED_FORWARDS.register("gated")
class Gated(GatedFeedForward):
    """Restormer's: one half of the hidden channels gates the other (arXiv:2111.09881).

    Args:
        dim: channels.
        ratio: width of each half over ``dim``.
        bias: give its convolutions a bias.
    """

    def __init__(self, dim: int, ratio: float = 2.66, bias: bool = False) -> None:
        super().__init__(dim, int(dim * ratio), bias)
