"""Several sources as one training set, each asked for by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .pairs import ImagePairs
from .samples import TrainSample, TrainSet, sample_maker
from .sampling import SampleRequest


class SourceSets:
    """Training sets by the name of the source that :class:`.SampleRequest` has.

    Attributes:
        sizes: images of each.
    """

    def __init__(self, sources: Mapping[str, TrainSet]) -> None:
        self._sources = dict(sources)
        self._makers = {name: sample_maker(source) for name, source in sources.items()}
        self.sizes = {name: len(source) for name, source in sources.items()}

    @property
    def pairs(self) -> ImagePairs | None:
        """The pairs of the first source, where all sources make theirs of the same ground truth."""
        all_pairs = [getattr(source, "pairs", None) for source in self._sources.values()]
        first = all_pairs[0]
        shared = first is not None and all(pairs is not None and pairs.gt is first.gt for pairs in all_pairs)
        return first if shared else None

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __getitem__(self, request: SampleRequest) -> TrainSample:
        return self._sources[request.source][request]

    def compact(self, request: SampleRequest) -> Mapping[str, Any]:
        """Return the sample as it is sent to the device."""
        return self._makers[request.source](request)
