"""Which sample is read when: everything is a function of (options, seed, sample number).

Samples are numbered from 0 over the whole run and all ranks. Sample k decides its own image, crop,
flips and noise through :func:`sample_rng`, so that the stream of batches depends neither on worker
processes, ranks and prefetching, nor on where a run was interrupted.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np

_WORD = 2**64


class Purpose(IntEnum):
    """What random numbers are for; each purpose has streams of its own."""

    SAMPLE = 0
    ORDER = 1
    MIXING = 2
    FOREIGN = 3
    EVALUATION = 4
    REPLACEMENT = 5


def sample_rng(seed: int, k: int, purpose: int = Purpose.SAMPLE) -> np.random.Generator:
    """Return the generator of sample ``k``: counter-based, the same on every machine and in any order.

    Philox (Salmon et al., SC 2011) keyed with (seed, k); the purpose starts its counter so far apart
    that streams of different purposes cannot meet.
    """
    key = np.array([seed % _WORD, k], np.uint64)
    counter = np.array([0, 0, 0, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@contextmanager
def global_generators(rng: np.random.Generator) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators from ``rng``; restore them on leaving."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seeds = rng.integers(2**32, size=3)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    # torch.manual_seed would reach for GPUs, which loader processes must not touch.
    torch.default_generator.manual_seed(int(seeds[2]))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@dataclass(frozen=True)
class Stage:
    """One stage of progressive learning (Restormer, arXiv:2111.09881).

    Args:
        iters: iterations it lasts.
        gt_size: side of the ground-truth crop, in pixels.
        batch_size: samples of a micro-batch of one rank.
    """

    iters: int
    gt_size: int
    batch_size: int


@dataclass(frozen=True)
class SampleRequest:
    """What a training data set is indexed with.

    Args:
        index: image.
        gt_size: side of the ground-truth crop, in pixels.
        k: number of the sample in the run.
    """

    index: int
    gt_size: int
    k: int


class ProgressiveBatchSampler:
    """Yields one rank's micro-batches, from iteration ``start_iter + 1`` to the end of the last stage.

    Iterations count from 1. Within an iteration, samples are numbered micro-batch by micro-batch, rank
    by rank: the ranks' batches laid end to end are the batch of one process, and two ranks see what
    one rank with two accumulated micro-batches sees.

    Args:
        stages: in order.
        dataset_size: number of images.
        seed: of the run.
        rank: of this process.
        world_size: number of ranks.
        grad_accum: micro-batches an iteration.
        shuffle: visit images in a new order each pass; otherwise 0, 1, 2, ... over and over.
        enlarge: how often an image occurs in one pass.
        start_iter: iterations already done.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        dataset_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        grad_accum: int = 1,
        *,
        shuffle: bool = True,
        enlarge: int = 1,
        start_iter: int = 0,
    ) -> None:
        if dataset_size < 1:
            raise ValueError("the data set holds no images")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size}")
        self.stages = tuple(stages)
        self.total_iter = sum(stage.iters for stage in self.stages)
        if not 0 <= start_iter <= self.total_iter:
            raise ValueError(f"cannot start after iteration {start_iter} of {self.total_iter}")
        self.start_iter = start_iter
        self.rank, self.world_size, self.grad_accum = rank, world_size, grad_accum
        self._dataset_size, self._pass_size = dataset_size, dataset_size * enlarge
        self._seed, self._shuffle = seed, shuffle
        # Ranks and micro-batches may straddle the border between two passes.
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def __len__(self) -> int:
        return (self.total_iter - self.start_iter) * self.grad_accum

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        for iteration in range(self.start_iter + 1, self.total_iter + 1):
            stage = self.stages[self.stage_index(iteration)]
            first = self.first_sample(iteration)
            for micro in range(self.grad_accum):
                start = first + (micro * self.world_size + self.rank) * stage.batch_size
                yield [
                    SampleRequest(self._image(k), stage.gt_size, k)
                    for k in range(start, start + stage.batch_size)
                ]

    def stage_index(self, iteration: int) -> int:
        """Return the stage, from 0, that ``iteration`` belongs to.

        Raises:
            ValueError: there is no such iteration.
        """
        end = 0
        for index, stage in enumerate(self.stages):
            end += stage.iters
            if 0 < iteration <= end:
                return index
        raise ValueError(f"iteration {iteration} is not in 1..{self.total_iter}")

    def first_sample(self, iteration: int) -> int:
        """Return the number of the first sample of ``iteration``, over all ranks.

        One past the last iteration gives the number of samples of the whole run.
        """
        before, samples = iteration - 1, 0
        for stage in self.stages:
            iters = min(before, stage.iters)
            samples += iters * stage.batch_size * self.world_size * self.grad_accum
            before -= iters
        return samples

    def _image(self, k: int) -> int:
        epoch, position = divmod(k, self._pass_size)
        if self._shuffle:
            position = int(self._order(epoch)[position])
        return position % self._dataset_size

    def _draw_order(self, epoch: int) -> np.ndarray:
        return sample_rng(self._seed, epoch, Purpose.ORDER).permutation(self._pass_size)
