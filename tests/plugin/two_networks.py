"""A kind of training without restoration: a critic tells noisy rings from what a generator makes."""

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn.functional import softplus

from basicsr_ext.archs import NETWORKS
from basicsr_ext.config import Options, Section, Train
from basicsr_ext.config.schema import NetworkSpec, OptimizerOptions
from basicsr_ext.config.values import PositiveFloat, PositiveInt
from basicsr_ext.data import DATASETS
from basicsr_ext.data.sampling import sample_rng
from basicsr_ext.data.sections import DatasetSection
from basicsr_ext.metrics import METRICS, Mean
from basicsr_ext.models import MODELS, Judgement, ModelKind, Phase


@NETWORKS.register()
class PointNet(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, width: int = 8):
        hidden = nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1)
        super().__init__(*hidden, nn.Linear(width, outputs))


@DATASETS.register("NoisyRings")
class NoisyRings(DatasetSection):
    """Points on circles."""

    radius: PositiveFloat = Field(description="Of the circle.")

    def train_set(self, scale, seed):
        return Rings(self.radius, seed)

    def eval_set(self, scale):
        return Rings(self.radius, seed=None)


class Rings:
    def __init__(self, radius, seed):
        self.radius, self.seed = radius, seed

    def __len__(self):
        return 10

    def __getitem__(self, request):
        drawn = sample_rng(1, request) if self.seed is None else sample_rng(self.seed, request.k)
        place = np.append(np.cos(drawn.uniform(0, 7)), drawn.normal()) * self.radius
        sample = {"mask": torch.tensor(place > 0), "point": torch.tensor(place, dtype=torch.float32)}
        return sample if self.seed is None else {**sample, "k": request.k}


@METRICS.register()
class AgreementMetric(Mean):
    def statistic(self, prediction, target):
        return float((prediction == target).float().mean())


class CriticOptions(Section):
    """How the critic is trained."""

    slope: PositiveFloat = Field(default=1.0, description="Steepness of its loss.")
    every: PositiveInt = Field(default=1, description="It is trained in every so many iterations.")


class TwoTrain(Train):
    optim_d: OptimizerOptions = Field(description="Optimizer of network_d.")


class TwoOptions(Options):
    """Two networks and a section of their own."""

    network_d: NetworkSpec
    critic: CriticOptions = CriticOptions()
    train: TwoTrain | None = None


@MODELS.register()
class TwoNetworkModel(ModelKind[TwoOptions]):
    Options = TwoOptions

    def phases(self):
        return Phase("g", ("net_g",)), Phase("d", ("net_d",), "optim_d", every=self.options.critic.every)

    def losses(self, phase, networks, batch, earlier):
        critic, slope = networks["net_d"], self.options.critic.slope
        if phase == "g":
            earlier["made"] = networks["net_g"](batch["point"] * batch["mask"])
            return {"l_g": softplus(-slope * critic(earlier["made"])).mean()}
        made, real = critic(earlier["made"].detach()), critic(batch["point"])
        return {"l_real": softplus(-slope * real).mean(), "l_made": softplus(slope * made).mean()}

    def evaluate(self, networks, item, dataset, index, draw):
        made = networks["net_g"](item["point"]) > 0
        metrics = {name: AgreementMetric().statistic(made, item["mask"]) for name in self.options.val.metrics}
        return Judgement(metrics, baselines={"all_true": dict.fromkeys(metrics, float(item["mask"].all()))})
