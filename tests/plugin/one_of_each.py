"""An extension of every kind for restoration, as a user keeps them outside of the repository."""

import torch
from pydantic import Field
from torch import nn

from basicsr_ext.config import Scheduler
from basicsr_ext.config.values import PositiveFloat
from basicsr_ext.data.degradations import Step
from basicsr_ext.data.degradations.operation import Operation, on_floats
from basicsr_ext.data.sample_dataset import SampleImages
from basicsr_ext.registry import (
    DATASETS,
    DEGRADATIONS,
    FEED_FORWARDS,
    LOSSES,
    METRICS,
    MIXERS,
    NETWORKS,
    OPTIMIZERS,
    SCHEDULERS,
)


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


@LOSSES.register()
class BrightnessLoss(nn.Module):
    def __init__(self, loss_weight: float = 1.0):
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred, target):
        return self.loss_weight * (pred.mean() - target.mean()).abs()


@METRICS.register()
def largest_error(img, img2, crop_border: int = 0):
    return float(abs(img.astype(float) - img2.astype(float)).max())


@OPTIMIZERS.register()
class SignSGD(torch.optim.SGD):
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad.sign_()
        return super().step(closure)


@SCHEDULERS.register("Halving")
class Halving(Scheduler):
    """Half the rate after every period."""

    period: PositiveFloat = Field(description="Iterations.")

    def rate(self, base, warmup_iter):
        return lambda iteration: base * 0.5 ** ((iteration - 1) // self.period)


@DEGRADATIONS.register("darken")
class Darken(Step):
    """Less light."""

    factor: PositiveFloat = Field(default=0.5, description="Of every value.")

    def draw(self, rng):
        return Operation(on_floats(lambda image: image * self.factor))


@DATASETS.register("FewPhotographs")
class FewPhotographs(SampleImages):
    """The bundled photographs under another name."""
