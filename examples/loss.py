"""A loss of one's own: ``train: {losses: {light: {type: BrightnessLoss, loss_weight: 0.1}}}``."""

from torch import Tensor, nn

from basicsr_ext.registry import LOSSES


@LOSSES.register()
class BrightnessLoss(nn.Module):
    """How far apart the mean values of result and ground truth, (N, 3, H, W) in 0..1, are."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the difference, a scalar."""
        return self.loss_weight * (pred.mean() - target.mean()).abs()
