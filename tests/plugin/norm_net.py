"""A network whose running statistics a bad batch on one rank would spoil."""

import os

from torch import nn

from basicsr_ext.archs import NETWORKS


@NETWORKS.register()
class NormNet(nn.Sequential):
    """Enlarges by 2; training call ``bad_call`` of rank ``bad_rank`` sees NaN."""

    def __init__(self, bad_call: int = 0, bad_rank: int = 0):
        norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        super().__init__(*norm, nn.Conv2d(12, 12, 3, padding=1), nn.PixelShuffle(2))
        self.bad_call = bad_call if os.environ.get("RANK", "0") == str(bad_rank) else 0
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        bad = self.training and self.calls == self.bad_call
        return super().forward(x * float("nan") if bad else x)
