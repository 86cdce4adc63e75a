"""A kind of training of one's own: how strong is the noise of an image?

``model_type: NoiseLevelModel`` trains on pairs of a clean and a noisy image, scores beside a constant guess,
and lets ``infer.py`` say what it finds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from typing_extensions import override

from basicsr_ext.config import Options
from basicsr_ext.data.transforms import to_unit
from basicsr_ext.inference.pictures import Picture
from basicsr_ext.inference.reading import Reading
from basicsr_ext.metrics import METRICS, Mean
from basicsr_ext.models import MODELS, Judgement, ModelKind, Networks
from basicsr_ext.registry import NETWORKS


@NETWORKS.register()
class NoiseMeter(nn.Module):
    """(N, 3, H, W) in 0..1 -> standard deviation of the noise, (N, 1) in 0..255 units."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.filters = nn.Conv2d(3, width, 3, bias=False)
        self.weights = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a weighted mean of how strongly filters respond."""
        return 255 * self.weights(self.filters(x).abs().mean((2, 3)))


@METRICS.register()
class AbsoluteError(Mean):
    """How far off the estimates are, in 0..255 units."""

    better = "lower"

    @override
    def statistic(self, prediction: Tensor, target: Tensor) -> float:
        return float((prediction - target).abs().mean())


class NoiseLevelOptions(Options):
    """A run of it: the usual sections, and networks that give no images."""

    restores_images: ClassVar[bool] = False


@MODELS.register()
class NoiseLevelModel(ModelKind[NoiseLevelOptions]):
    """Trains a network to tell the standard deviation of ``lq - gt``."""

    Options = NoiseLevelOptions

    @override
    def losses(
        self, phase: str, networks: Networks, batch: Mapping[str, Any], earlier: dict[str, Any]
    ) -> dict[str, Tensor]:
        return {"l_noise": l1_loss(networks["net_g"](batch["lq"]), deviation(batch["lq"] - batch["gt"]))}

    @override
    def evaluate(
        self, networks: Mapping[str, nn.Module], item: Mapping[str, Any], dataset: str, index: int, draw: bool
    ) -> Judgement:
        truth = deviation(item["lq"] - item["gt"])
        guesses = networks["net_g"](item["lq"]), torch.full_like(truth, 25)
        found, constant = (self.statistics(guess, truth) for guess in guesses)
        return Judgement(found, baselines={"always_25": constant})

    @override
    @classmethod
    def reader(cls, network: nn.Module, notes: Mapping[str, Any]) -> "NoiseReader":
        return NoiseReader(network)


class NoiseReader:
    """Says how noisy pictures are: what ``infer.py`` prints, and the columns of its table."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def prepare(self, picture: Picture) -> np.ndarray:
        """Return (3, H, W) in 0..1."""
        return np.repeat(to_unit(picture.pixels).transpose(2, 0, 1), 3 if picture.is_grey else 1, axis=0)

    def read(self, batch: Tensor) -> Sequence[Reading]:
        """Return the noise of (N, 3, H, W)."""
        levels = self._network(batch)[:, 0].tolist()
        return [Reading(f"noise {level:.1f} of 255", {"noise": round(level, 3)}) for level in levels]


def deviation(noise: Tensor) -> Tensor:
    """Return the standard deviation of (N, 3, H, W), (N, 1) in 0..255 units."""
    return 255 * noise.flatten(1).std(1, keepdim=True)
