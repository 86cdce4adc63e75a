"""Loaders: worker processes, batches, and the way to the device."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data import default_collate as stack
from typing_extensions import override

from .images import run_single_threaded
from .pixels import Pixels
from .samples import EvalItem, EvalSet, SampleError, TrainSet, sample_maker
from .sampling import SampleRequest


def build_train_loader(
    dataset: TrainSet,
    sampler: Iterable[list[SampleRequest]],
    num_workers: int,
    pin_memory: bool = False,
    prefetch_factor: int = 2,
) -> DataLoader[Any]:
    """Return the loader of a whole run: one pass over it yields every micro-batch of ``sampler``.

    The same worker processes serve all stages. See :func:`batch_of` for what a micro-batch is.

    Args:
        dataset: from ``build_train_dataset``.
        sampler: decides the batches.
        num_workers: processes that make samples; 0: this one does.
        pin_memory: page-locked batches; without effect on a machine without GPU.
        prefetch_factor: batches each worker makes ahead.

    Raises:
        SampleError: while iterating; a sample could not be made, or the process making it died.
    """
    return Loader(
        _Samples(dataset, num_workers),
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=_collate_or_fail,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory and torch.cuda.is_available(),
        prefetch_factor=prefetch_factor if num_workers else None,
        persistent_workers=num_workers > 0,
        # The loader draws a number from this; from the global one, it would disturb the run.
        generator=torch.Generator(),
    )


def build_eval_loader(dataset: EvalSet, rank: int = 0, world_size: int = 1) -> Loader:
    """Return the loader of this rank's share of the items: over all ranks, each item exactly once, in order.

    Items come one at a time, as images may differ in size: tensors are (1, C, H, W); ``index``,
    ``name`` and paths are plain values. This process makes them, or as many others as the set has
    ``num_workers``; these start with an iteration and end with it, or once it is closed.

    Raises:
        SampleError: while iterating; an item could not be made, or the process making it died.
    """
    indices = range(rank, len(dataset), world_size)
    num_workers = min(getattr(dataset, "num_workers", 0), len(indices))
    return Loader(
        _Items(dataset, num_workers),
        sampler=indices,  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=_item_or_fail,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),
    )


def collate_train(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch of samples: tensors and :class:`Pixels` are stacked; texts and ``k`` come in lists.

    Raises:
        SampleError: a sample's tensors differ from the others' in shape.
    """
    for key in samples[0]:
        shapes = [tuple(getattr(sample.get(key), "shape", ())) for sample in samples]
        usual = max(shapes, key=shapes.count)
        for sample, shape in zip(samples, shapes, strict=True):
            if shape != usual:
                raise SampleError(
                    f"sample {sample['k']}, {sample.get('gt_path', 'of unknown path')}:"
                    f" {key} has shape {list(shape)}, others of its batch {list(usual)}"
                )
    batch = {key: _joined([sample[key] for sample in samples]) for key in samples[0] if key != "k"}
    return {**batch, "k": [sample["k"] for sample in samples]}


def batch_of(samples: Sequence[tuple[str, Mapping[str, Any]]]) -> Any:
    """Make a micro-batch of samples with their sources: one batch, or one of each source by its name.

    Raises:
        SampleError: a sample's tensors differ from the others' of its source in shape.
    """
    sources: dict[str, list[Mapping[str, Any]]] = {}
    for source, sample in samples:
        sources.setdefault(source, []).append(sample)
    batches = {source: collate_train(members) for source, members in sources.items()}
    return batches[""] if list(batches) == [""] else batches


def to_device(batch: Any, device: torch.device, channels_last: bool = False) -> Any:
    """Return a batch, or a nest of them, on ``device``, where :class:`Pixels` become floats in 0..1.

    ``channels_last`` is the memory layout of what has four dimensions.
    """
    if isinstance(batch, Mapping):
        return {key: to_device(value, device, channels_last) for key, value in batch.items()}
    if isinstance(batch, Pixels):
        return batch.floats(device, channels_last=channels_last)
    if not isinstance(batch, Tensor):
        return batch
    moved = batch.to(device, non_blocking=True)
    return moved.contiguous(memory_format=torch.channels_last) if channels_last and moved.ndim == 4 else moved


def collate_eval(items: Sequence[EvalItem]) -> EvalItem:
    """Make a batch of one item."""
    (item,) = items
    batch = {key: value[None] if isinstance(value, Tensor) else value for key, value in item.items()}
    return cast(EvalItem, batch)


class DevicePrefetcher:
    """Yields a loader's batches as they arrive on ``device``, see :func:`to_device`.

    To a GPU, pinned tensors are copied on a stream of their own while the previous step computes.

    Args:
        loader: yields mappings.
        device: where to.
        channels_last: memory layout of images.

    Attributes:
        wait_seconds: time spent waiting for the loader so far.
        replaced_samples: samples so far that stand for others which could not be made.
    """

    def __init__(
        self, loader: Iterable[Any], device: torch.device | str, channels_last: bool = False
    ) -> None:
        self.loader, self.device, self._channels_last = loader, torch.device(device), channels_last
        self.wait_seconds = 0.0
        self.replaced_samples = 0

    def __iter__(self) -> Generator[Any, None, None]:
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        batches = iter(self.loader)
        try:
            while True:
                start = perf_counter()
                batch = next(batches, None)
                self.wait_seconds += perf_counter() - start
                if batch is None:
                    return
                self.replaced_samples += _replaced(batch)
                yield self._move(batch, stream)
        finally:
            close = getattr(batches, "close", None)
            if close is not None:
                close()

    def _move(self, batch: Any, stream: torch.cuda.Stream | None) -> Any:
        if stream is None:
            return to_device(batch, self.device, self._channels_last)
        with torch.cuda.stream(stream):
            moved = to_device(batch, self.device, self._channels_last)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(stream)
        for value in _tensors(moved):
            # Else its memory would be free for the next copy while this step still reads it.
            value.record_stream(current)
        return moved


def _joined(values: list[Any]) -> Any:
    """Return what a batch holds of one key's values."""
    if not any(isinstance(value, Pixels) for value in values):
        return stack(values)
    if len({value.values.dtype if isinstance(value, Pixels) else None for value in values}) == 1:
        return Pixels(stack([value.values for value in values]))
    # Images of several depths, or some that a degradation has left as floats.
    return stack([value.floats() if isinstance(value, Pixels) else value for value in values])


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)


def _replaced(batch: Any) -> int:
    """Return how many samples of a batch, or of a nest of them, stand for others."""
    if not isinstance(batch, Mapping):
        return 0
    return sum(map(bool, batch.get("replaced", ()))) + sum(map(_replaced, batch.values()))


class _Watched(Dataset[Any]):
    """What a loader is to make, and a note of what each worker is making, for when one dies."""

    def __init__(self, num_workers: int) -> None:
        # Per worker: process, number of the sample or item, number of the image.
        self._notes = multiprocessing.RawArray("q", [-1] * 3 * num_workers)

    def __getitem__(self, request: Any) -> Any:
        worker = get_worker_info()
        if worker is not None:
            self._notes[3 * worker.id : 3 * worker.id + 3] = [os.getpid(), *self._numbers(request)]
        try:
            return self._made(request)
        except SampleError as error:
            # Raised where the batch is wanted: a worker would wrap its whole traceback into the message.
            return error

    def last_seen(self, message: str) -> str:
        """Return what the processes whose numbers occur in ``message`` were making."""
        notes = [self._notes[start : start + 3] for start in range(0, len(self._notes), 3)]
        return "; ".join(self._words(*numbers) for process, *numbers in notes if str(process) in message)

    def _made(self, request: Any) -> Any:
        raise NotImplementedError

    def _numbers(self, request: Any) -> tuple[int, int]:
        raise NotImplementedError

    def _words(self, number: int, index: int) -> str:
        raise NotImplementedError


class _Samples(_Watched):
    """Samples with their sources, by :class:`SampleRequest`."""

    def __init__(self, dataset: TrainSet, num_workers: int) -> None:
        super().__init__(num_workers)
        self.dataset = dataset
        self._make = sample_maker(dataset)

    @override
    def _made(self, request: SampleRequest) -> tuple[str, Mapping[str, Any]]:
        return request.source, self._make(request)

    @override
    def _numbers(self, request: SampleRequest) -> tuple[int, int]:
        return request.k, request.index

    @override
    def _words(self, number: int, index: int) -> str:
        pairs = getattr(self.dataset, "pairs", None)
        return f"sample {number}, {pairs.gt.path(index) if pairs is not None else f'image {index}'}"


class _Items(_Watched):
    """Items of an evaluation set by number."""

    def __init__(self, dataset: EvalSet, num_workers: int) -> None:
        super().__init__(num_workers)
        self.dataset = dataset

    @override
    def _made(self, request: int) -> EvalItem:
        return self.dataset[request]

    @override
    def _numbers(self, request: int) -> tuple[int, int]:
        return request, request

    @override
    def _words(self, number: int, index: int) -> str:
        return f"item {number}"


class Loader(DataLoader[Any]):
    """A loader whose processes end with an iteration, also one that is closed early."""

    def __iter__(self) -> Generator[Any, None, None]:  # type: ignore[override]
        assert isinstance(self.dataset, _Watched)
        batches = super().__iter__()
        end = partial(_end_workers, batches)
        # Workers that are left to the interpreter's exit would be sent a SIGTERM there, and waited for.
        atexit.register(end)
        try:
            for batch in batches:
                if isinstance(batch, SampleError):
                    raise batch
                yield batch
        except SampleError:
            raise
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            culprit = self.dataset.last_seen(str(error)) or "before its first sample"
            raise SampleError(f"{culprit}: the loader process died; {error}") from error
        finally:
            atexit.unregister(end)
            end()
            self._iterator = None


def _end_workers(batches: Any) -> None:
    """End the processes of a loader's iterator, if it has any: they take no notice of SIGTERM."""
    if hasattr(batches, "_shutdown_workers"):
        batches._shutdown_workers()
        for worker in batches._workers:
            if worker.is_alive():
                worker.kill()


def _collate_or_fail(samples: Sequence[tuple[str, Mapping[str, Any]] | SampleError]) -> Any:
    """Make a batch, or hand on the first error."""
    made: list[tuple[str, Mapping[str, Any]]] = []
    for sample in samples:
        if isinstance(sample, SampleError):
            return sample
        made.append(sample)
    try:
        return batch_of(made)
    except SampleError as error:
        return error


def _item_or_fail(items: Sequence[EvalItem | SampleError]) -> EvalItem | SampleError:
    (item,) = items
    return item if isinstance(item, SampleError) else collate_eval([item])


def _start_worker(worker: int) -> None:
    run_single_threaded()
    # A worker inherits its parent's handlers. The parent decides when a run ends, but what terminals and job
    # schedulers send goes to all processes alike: the parent still needs batches to finish its iteration,
    # however long that takes. torch sees to it that a worker ends when its parent is gone.
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
