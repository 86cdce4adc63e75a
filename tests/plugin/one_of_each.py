"""An extension of every kind for restoration, as a user keeps them outside of the repository.

Those that are good examples are in ``examples``.
"""

import torch
from torch import nn

from basicsr_ext.data.sample_dataset import SampleImages
from basicsr_ext.registry import DATASETS, FEED_FORWARDS, MIXERS, NETWORKS, OPTIMIZERS
from examples import degradation, loss, metric, schedule  # noqa: F401


@NETWORKS.register()
class TwoLayers(nn.Sequential):
    def __init__(self, width: int = 4):
        shuffle = nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2)
        super().__init__(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), *shuffle)


@MIXERS.register("average")
class Average(nn.Module):
    multiple_of = 2

    def __init__(self, dim: int, index: int, side: int = 2):
        super().__init__()
        self.side = side + index

    def forward(self, x):
        assert not any(length % 2 for length in x.shape[1:3])
        x = x.permute(0, 3, 1, 2)
        return nn.functional.interpolate(
            nn.functional.avg_pool2d(x, self.side, ceil_mode=True), x.shape[2:]
        ).permute(0, 2, 3, 1)


@FEED_FORWARDS.register("linear")
class OneLinear(nn.Linear):
    def __init__(self, dim: int):
        super().__init__(dim, dim)


@OPTIMIZERS.register()
class SignSGD(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.sign_()
        return super().step(closure)


@DATASETS.register("FewPhotographs")
class FewPhotographs(SampleImages):
    """The bundled photographs under another name."""
