"""Training past samples that cannot be made: other images take their places, the same ones every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from .pairs import ImagePairs
from .samples import SampleError, TrainSample, TrainSet, sample_maker, source_sizes
from .sampling import Purpose, SampleRequest, sample_rng

TRIES = 20
"""Images tried in place of one; a set in which all of them fail is no longer worth training on."""


class Replacing:
    """A training data set that replaces what cannot be made: ``on_bad_sample`` or ``on_small_image: skip``.

    The image that takes a bad one's place is drawn from (seed, k), so that a resumed run, or one with
    other workers, replaces the same way, as long as the files stay as they are. Samples say under
    ``"replaced"`` what was wrong with the image they stand for; it is empty for all others.

    Args:
        dataset: from ``build_train_dataset``.
        seed: of the run.
        kind: of errors that mark what is replaced; others are raised.

    Raises:
        SampleError: when indexed; the image and :data:`TRIES` others cannot be used.
    """

    def __init__(self, dataset: TrainSet, seed: int, kind: type[SampleError] = SampleError) -> None:
        self.dataset, self.seed, self._kind = dataset, seed, kind

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def sizes(self) -> dict[str, int]:
        """How many images each source has."""
        return source_sizes(self.dataset)

    def __getitem__(self, request: SampleRequest) -> TrainSample:
        return self._made(self.dataset.__getitem__, request)

    def compact(self, request: SampleRequest) -> Mapping[str, Any]:
        """Return the sample as it is sent to the device."""
        return self._made(sample_maker(self.dataset), request)

    def _made(self, make: Callable[[SampleRequest], Any], request: SampleRequest) -> Any:
        try:
            return {**make(request), "replaced": ""}
        except self._kind as error:
            reason = str(error)
        for index in self._others(request):
            try:
                return {**make(replace(request, index=index)), "replaced": reason}
            except self._kind:
                continue
        raise SampleError(f"{reason}; none of {TRIES} other images could take its place")

    @property
    def pairs(self) -> ImagePairs | None:
        """The pairs of images, or ``None`` for a data set that is not ours."""
        return getattr(self.dataset, "pairs", None)

    def _others(self, request: SampleRequest) -> Iterator[int]:
        rng = sample_rng(self.seed, request.k, Purpose.REPLACEMENT)
        size = self.sizes[request.source]
        drawn = rng.choice(size, min(TRIES + 1, size), replace=False)
        return (index for index in drawn.tolist() if index != request.index)
