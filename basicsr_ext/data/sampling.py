"""Which sample is read when: everything is a function of (options, seed, sample number).

Samples are numbered from 0 over the whole run, all ranks and all sources. Sample k decides its own image,
crop, flips and noise through :func:`sample_rng`, so that the stream of batches depends neither on worker
processes, ranks and prefetching, nor on where a run was interrupted.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import accumulate
from typing import Any
from zlib import crc32

import numpy as np
from numpy.random.bit_generator import ISeedSequence

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
    key: Any = _Key(np.array([seed % _WORD, k], np.uint64))
    counter = np.array([0, 0, 0, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key, counter=counter))


class _Key(ISeedSequence):
    """Philox's key as it is; given as ``key=``, NumPy would ask the system for random numbers first."""

    def __init__(self, words: np.ndarray) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray:
        return self._words


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
        grad_accum: micro-batches an iteration.
    """

    iters: int
    gt_size: int
    batch_size: int
    grad_accum: int = 1

    @property
    def samples(self) -> int:
        """Samples of an iteration of one rank."""
        return self.batch_size * self.grad_accum

    @property
    def pixels(self) -> int:
        """Ground-truth pixels of these."""
        return self.samples * self.gt_size**2


@dataclass(frozen=True)
class Share:
    """Part of a micro-batch of one rank.

    Args:
        source: what its samples are drawn from, such as a task; empty where there is only one.
        batch_size: number of samples.
        gt_size: side of the ground-truth crop, in pixels.
    """

    source: str
    batch_size: int
    gt_size: int


@dataclass(frozen=True)
class SampleRequest:
    """What a training data set is indexed with.

    Args:
        index: image, or whatever else the source counts.
        gt_size: side of the ground-truth crop, in pixels.
        k: number of the sample in the run.
        source: what the sample is drawn from.
    """

    index: int
    gt_size: int
    k: int
    source: str = ""


def stage_of(iteration: int, stages: Sequence[Stage]) -> int:
    """Return the 0-based stage that holds ``iteration`` (1-based); past the end it is the last one."""
    ends = list(accumulate(stage.iters for stage in stages))
    return min(bisect_left(ends, iteration), len(ends) - 1)


class ProgressiveBatchSampler:
    """Yields one rank's micro-batches, from iteration ``start_iter + 1`` to the end of the last stage.

    Iterations count from 1. Within an iteration, samples are numbered share by share, micro-batch by
    micro-batch, rank by rank: the ranks' shares laid end to end are the share of one process, and two ranks
    see what one rank with two accumulated micro-batches sees. Each source is visited in an order of its own.

    Args:
        stages: in order.
        dataset_size: number of images; of each source, by name, where there are several.
        seed: of the run.
        rank: of this process.
        world_size: number of ranks.
        shares: what a micro-batch of a stage consists of; by default one share of all its samples.
        shuffle: visit images in a new order each pass; otherwise 0, 1, 2, ... over and over.
        enlarge: how often an image occurs in one pass.
        start_iter: iterations already done.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        dataset_size: int | Mapping[str, int],
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        shares: Callable[[Stage], Sequence[Share]] | None = None,
        shuffle: bool = True,
        enlarge: int = 1,
        start_iter: int = 0,
    ) -> None:
        sizes = dict(dataset_size) if isinstance(dataset_size, Mapping) else {"": dataset_size}
        if not sizes or min(sizes.values()) < 1:
            raise ValueError("the data set holds no images")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of {world_size}")
        self.stages = tuple(stages)
        self.total_iter = sum(stage.iters for stage in self.stages)
        if not 0 <= start_iter <= self.total_iter:
            raise ValueError(f"cannot start after iteration {start_iter} of {self.total_iter}")
        self.start_iter = start_iter
        self.rank, self.world_size = rank, world_size
        self._shares = [
            tuple(shares(stage)) if shares is not None else (Share("", stage.batch_size, stage.gt_size),)
            for stage in self.stages
        ]
        for stage in self._shares:
            if len({share.source for share in stage}) < len(stage):
                raise ValueError("a source has several shares of one micro-batch")
        unknown = {share.source for stage in self._shares for share in stage} - sizes.keys()
        if unknown:
            raise ValueError(f"no data set is called {', '.join(sorted(unknown))}; known: {', '.join(sizes)}")
        self._sizes, self._enlarge = sizes, enlarge
        self._seed, self._shuffle = seed, shuffle
        # Ranks and micro-batches may straddle the border between two passes.
        self._order = lru_cache(maxsize=2 * len(sizes))(self._draw_order)

    def __len__(self) -> int:
        done, batches = self.start_iter, 0
        for stage in self.stages:
            skipped = min(done, stage.iters)
            batches += (stage.iters - skipped) * stage.grad_accum
            done -= skipped
        return batches

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        for iteration in range(self.start_iter + 1, self.total_iter + 1):
            index = self.stage_index(iteration)
            shares, micro_batches = self._shares[index], self.stages[index].grad_accum
            first = self.first_sample(iteration)
            drawn = self._drawn_before(iteration)
            for micro in range(micro_batches):
                part = micro * self.world_size + self.rank
                share_first, requests = first, []
                for share in shares:
                    start = drawn[share.source] + part * share.batch_size
                    k = share_first + part * share.batch_size
                    requests += [
                        SampleRequest(
                            self._image(share.source, start + n), share.gt_size, k + n, share.source
                        )
                        for n in range(share.batch_size)
                    ]
                    share_first += share.batch_size * self.world_size * micro_batches
                yield requests

    def stage_index(self, iteration: int) -> int:
        """Return the stage, from 0, that ``iteration`` belongs to.

        Raises:
            ValueError: there is no such iteration.
        """
        if not 0 < iteration <= self.total_iter:
            raise ValueError(f"iteration {iteration} is not in 1..{self.total_iter}")
        return stage_of(iteration, self.stages)

    def first_sample(self, iteration: int) -> int:
        """Return the number of the first sample of ``iteration``, over all ranks and sources.

        One past the last iteration gives the number of samples of the whole run.
        """
        return sum(self._drawn_before(iteration).values())

    def _drawn_before(self, iteration: int) -> dict[str, int]:
        """Return how many samples of each source all ranks have drawn before ``iteration``."""
        before, drawn = iteration - 1, dict.fromkeys(self._sizes, 0)
        for stage, shares in zip(self.stages, self._shares, strict=True):
            iters = min(before, stage.iters)
            for share in shares:
                drawn[share.source] += iters * share.batch_size * self.world_size * stage.grad_accum
            before -= iters
        return drawn

    def _image(self, source: str, number: int) -> int:
        """Return the image that is sample ``number`` of a source."""
        size = self._sizes[source]
        epoch, position = divmod(number, size * self._enlarge)
        if self._shuffle:
            position = int(self._order(source, epoch)[position])
        return position % size

    def _draw_order(self, source: str, epoch: int) -> np.ndarray:
        seed = self._seed + crc32(source.encode())  # 0 for the source without a name
        return sample_rng(seed, epoch, Purpose.ORDER).permutation(self._sizes[source] * self._enlarge)
