"""A network of one's own: ``network_g: {type: SmallNet, width: 16}``."""

from torch import Tensor, nn

from basicsr_ext.registry import NETWORKS


@NETWORKS.register()
class SmallNet(nn.Module):
    """(N, 3, H, W) in 0..1 -> (N, 3, H * scale, W * scale): what the nearest pixels lack.

    Args:
        scale: output side over input side.
        width: channels inside.
    """

    def __init__(self, scale: int = 2, width: int = 32) -> None:
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 3 * scale**2, 3, padding=1),
            nn.PixelShuffle(scale),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge images."""
        return self.body(x) + nn.functional.interpolate(x, scale_factor=self.scale)
