"""Several sources as one training set, each asked for by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def __getitem__(self, request: SampleRequest) -> TrainSample:
        return self._sources[request.source][request]

    def compact(self, request: SampleRequest) -> Mapping[str, Any]:
        """Return the sample as it is sent to the device."""
        return self._makers[request.source](request)
