"""The interface between a kind of training and the trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..config.schema import Train

Forward = Callable[[Tensor], Tensor]


class BaseModel(ABC):
    """The network to train and the losses of one batch.

    The trainer owns devices, precision, optimizer and averaging; a model owns what is computed.

    Args:
        network: the network, on its device.
        train: the option file's ``train`` section.
        seed: the run's seed.
    """

    def __init__(self, network: nn.Module, train: Train, seed: int) -> None:
        self.network = network
        self.train_options = train
        self.seed = seed

    @abstractmethod
    def training_step(self, forward: Forward, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the batch's losses by name (scalars); their sum is minimised.

        Args:
            forward: the network as the trainer wrapped it (distributed, compiled).
            batch: ``lq`` and ``gt`` (N, C, H, W) in 0..1 on the network's device, ``k`` the numbers of
                the samples in the run.
        """
