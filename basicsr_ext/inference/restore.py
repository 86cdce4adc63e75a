"""Run a restoration network on images of any size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..archs import pixel_range
from ..archs.padding import SizeRequirement, crop_to, pad_to, requirement_of
from .memory import PeakMemory, free_memory, is_out_of_memory
from .tiles import bands, spans

Tile = int | Literal["auto"] | None
Call = Callable[[Tensor], Tensor]

_TRIED = 64
"""Side of the image that a network's memory is measured with."""
_USED_SHARE = 0.5
"""Of free memory; the rest is for operators' scratch space, and for the picture itself."""
_LARGEST = {"cpu": 512}
"""Side of the largest tile chosen on a kind of device: larger ones are no faster there."""
_LARGEST_ELSEWHERE = 2048
_SMALLEST = 32
_ROWS = 64
"""Rows that are converted to the picture's data type at a time."""


def restore(
    net: nn.Module,
    image: np.ndarray,
    scale: int = 4,
    tile: Tile = None,
    tile_overlap: int = 32,
    *,
    window_size: int | None = None,
    self_ensemble: bool = False,
) -> np.ndarray:
    """Return ``image`` restored by ``net``.

    Args:
        net: a network that maps NCHW to NCHW ``scale`` times as large; it is put in eval mode for the call.
        image: (H, W, C) or (H, W), RGB; uint8, uint16, or float in 0..1.
        scale: output side over input side.
        tile: side of the square tiles (input pixels) that are run one after the other, halved where memory
            runs out; ``"auto"``: as large as free memory allows; ``None``: the whole image at once.
        tile_overlap: pixels that neighbouring tiles share. They are blended in its middle quarter: what a
            network that sees no further than 3/8 of it gives is that of the whole image, to rounding.
        window_size: for networks that neither pad themselves nor are known: sides are padded to a multiple
            of it.
        self_ensemble: average over the eight orientations of the image, at eight times the cost (the "+" of
            published tables).

    Returns:
        The restored image in the same layout and data type.

    Raises:
        TypeError: the image's data type is none of those.
        ValueError: the image has no pixels or a wrong number of dimensions, the overlap is not smaller
            than the tile, or the network's output is not ``scale`` times as large.
    """
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"expected an image (H, W, C) or (H, W), got shape {image.shape}")
    was_training = net.training
    net.eval()
    try:
        run = Restorer(net, scale, tile, tile_overlap, window_size=window_size, self_ensemble=self_ensemble)
        restored = run(np.atleast_3d(image)[None])[0]
    finally:
        net.train(was_training)
    return restored[..., 0] if image.ndim == 2 else restored


def restore_tensor(
    net: nn.Module,
    lq: Tensor,
    scale: int,
    requirement: SizeRequirement,
    tile: int | None = None,
    tile_overlap: int = 32,
    task: str | None = None,
    self_ensemble: bool = False,
) -> Tensor:
    """Return ``net``'s output for ``lq`` (N, C, H, W) in 0..1, of any size: (N, C, H * scale, W * scale).

    The caller chooses eval mode and gradient mode. The output is not clamped.
    """
    call = any_size(net, scale, requirement, task=task)
    if self_ensemble:
        call = in_eight_orientations(call)
    if tile is None:
        return call(lq)
    height, width = lq.shape[-2:]
    rows, columns = (spans(side, tile, tile_overlap, requirement.multiple_of) for side in (height, width))
    result: Tensor | None = None
    for top, band in bands(lambda r, c: call(lq[..., r, c]), rows, columns, scale):
        if result is None:
            result = band.new_empty(*band.shape[:2], height * scale, width * scale)
        result[:, :, top : top + band.shape[2]] = band
    assert result is not None, "there is at least one band"
    return result


class Restorer:
    """A network that restores whole images in tiles of a fitting size.

    Args:
        net: in eval mode, on its device.
        scale: output side over input side.
        tile: see :func:`restore`.
        tile_overlap: see :func:`restore`.
        window_size: see :func:`restore`.
        self_ensemble: see :func:`restore`.
        precision: of the network's arithmetic, by autocast; ``None``: its weights'.
        task: of a network with several (EDT), the one to call.
        trial: what is known of the network; needed for ``tile="auto"``, tried where it is not given.
    """

    def __init__(
        self,
        net: nn.Module,
        scale: int,
        tile: Tile = "auto",
        tile_overlap: int = 32,
        *,
        window_size: int | None = None,
        self_ensemble: bool = False,
        precision: torch.dtype | None = None,
        task: str | None = None,
        trial: Trial | None = None,
    ) -> None:
        self.scale, self._overlap = scale, tile_overlap
        self._like = next(net.parameters())
        self._requirement = requirement_of(net, window_size, task)
        self._call = any_size(net, scale, self._requirement, precision, task)
        if self_ensemble:
            self._call = in_eight_orientations(self._call)
        self._tile: Tile = tile
        self._whole_up_to = 0
        self._net, self._task, self._trial = net, task, trial

    def __call__(
        self, images: np.ndarray, progress: Callable[[float], None] = lambda share: None
    ) -> np.ndarray:
        """Return restored images (N, H * scale, W * scale, C') of the same data type.

        Args:
            images: (N, H, W, C); uint8, uint16, or float in 0..1.
            progress: is told, after every tile, which share of the work it was.

        Raises:
            TypeError: the data type is none of those.
            ValueError: see :func:`restore`.
        """
        if images.dtype not in (np.uint8, np.uint16) and not np.issubdtype(images.dtype, np.floating):
            raise TypeError(f"expected uint8, uint16 or float, got {images.dtype}")
        while True:
            tile = self._tile_for(images)
            try:
                return self._run(images, tile, progress)
            except (RuntimeError, MemoryError) as error:
                if self._tile is None or not is_out_of_memory(error):
                    raise
                half = (tile or max(images.shape[1:3])) // 2
                if half < max(_SMALLEST, self._overlap + 1):
                    raise
            # Out of the handler: its exception would keep the tensors of the attempt alive.
            self._tile, self._whole_up_to = half, 0
            torch.cuda.empty_cache()  # nothing where CUDA is not in use

    def _tile_for(self, images: np.ndarray) -> int | None:
        """Return the tile for images (N, H, W, C); None: they are run whole."""
        tile = self._tile
        if tile == "auto":
            if self._trial is None:
                self._trial = try_network(self._net, self._requirement, [images.shape[3]], self._task)
            tile = self._tile = self._whole_up_to = self._trial.largest_tile(self._like.device)
        pixels = len(images) * images.shape[1] * images.shape[2]
        return None if pixels <= self._whole_up_to**2 else tile

    @torch.inference_mode()
    def _run(self, images: np.ndarray, tile: int | None, progress: Callable[[float], None]) -> np.ndarray:
        count, height, width, _ = images.shape
        multiple, side = self._requirement.multiple_of, tile or max(height, width)
        overlap = self._overlap if tile else 0
        rows, columns = (spans(length, side, overlap, multiple) for length in (height, width))
        peak = np.iinfo(images.dtype).max if np.issubdtype(images.dtype, np.integer) else 1

        def run(row: slice, column: slice) -> Tensor:
            pixels = images[:, row, column].astype(np.float32) / np.float32(peak)
            planes = torch.from_numpy(pixels).permute(0, 3, 1, 2)
            restored = self._call(planes.to(self._like.device, self._like.dtype))
            progress(1 / (len(rows) * len(columns)))
            return restored

        result: np.ndarray | None = None
        for top, band in bands(run, rows, columns, self.scale):
            if result is None:
                shape = (count, height * self.scale, width * self.scale, band.shape[1])
                result = np.empty(shape, images.dtype)
            _store(band, result[:, top : top + band.shape[2]], peak)
        assert result is not None, "there is at least one band"
        return result


def _store(band: Tensor, place: np.ndarray, peak: int) -> None:
    """Write (N, C, H, W) in 0..1, clamped, to (N, H, W, C) in 0..``peak``, rounded where that is not 1."""
    for start in range(0, band.shape[2], _ROWS):
        part = band[:, :, start : start + _ROWS].clamp(0, 1).permute(0, 2, 3, 1).cpu().double().numpy()
        place[:, start : start + _ROWS] = part if peak == 1 else np.rint(part * peak)


# --- calls of networks ------------------------------------------------------------------------------


def any_size(
    net: nn.Module,
    scale: int,
    requirement: SizeRequirement,
    precision: torch.dtype | None = None,
    task: str | None = None,
) -> Call:
    """Return the function from images (N, C, H, W) in 0..1, of any size, to the restored ones.

    Raises, when called:
        ValueError: the output is not ``scale`` times as large.
    """
    white = pixel_range(net)

    def call(x: Tensor) -> Tensor:
        padded = pad_to(x * white, requirement)
        in_precision = nullcontext() if precision is None else torch.autocast(x.device.type, precision)
        with in_precision:
            y = net(padded) if task is None else net(padded, task)
        expected = padded.shape[-2] * scale, padded.shape[-1] * scale
        if tuple(y.shape[-2:]) != expected:
            raise ValueError(
                f"the network makes {tuple(y.shape[-2:])} of {tuple(padded.shape[-2:])}, not {scale} times it"
            )
        y = y if precision is None else y.to(x.dtype)
        return crop_to(y, (x.shape[-2] * scale, x.shape[-1] * scale)) / white

    return call


def in_eight_orientations(call: Call) -> Call:
    """Return the mean of what ``call`` gives for the eight orientations of an image, turned back."""

    def averaged(x: Tensor) -> Tensor:
        total: Tensor | None = None
        for transposed, *flipped in product([False, True], repeat=3):
            axes = [axis for axis, is_flipped in zip((-2, -1), flipped, strict=True) if is_flipped]
            turned = (x.transpose(-2, -1) if transposed else x).flip(axes)
            y = call(turned).flip(axes)
            y = y.transpose(-2, -1) if transposed else y
            total = y.clone() if total is None else total.add_(y)
        assert total is not None, "there are eight orientations"
        return total / 8

    return averaged


@dataclass(frozen=True)
class Trial:
    """What calling a network on a small image has shown.

    Attributes:
        channels: of the image it takes.
        channels_out: of the image it returns.
        scale: output side over input side.
        bytes_per_pixel: memory it takes for an input pixel.
    """

    channels: int
    channels_out: int
    scale: int
    bytes_per_pixel: float

    def largest_tile(self, device: torch.device) -> int:
        """Return the side of the largest tile to be run with the memory that is free on ``device``."""
        pixels = _USED_SHARE * free_memory(device) / self.bytes_per_pixel
        return max(_SMALLEST, min(int(pixels**0.5), _LARGEST.get(device.type, _LARGEST_ELSEWHERE)))


@torch.inference_mode()
def try_network(
    net: nn.Module, requirement: SizeRequirement, channels: Iterable[int], task: str | None = None
) -> Trial:
    """Call ``net``, in eval mode, on a black image of the first number of channels that it takes.

    Raises:
        ValueError: it takes none; the message says why it did not take the first.
    """
    parameter, refusals = next(net.parameters()), []
    side = requirement.padded_length(_TRIED)
    for count in channels:
        image = torch.zeros(1, count, side, side, device=parameter.device, dtype=parameter.dtype)
        try:
            with PeakMemory(net) as memory:
                y = net(image) if task is None else net(image, task)
            scale, rest = divmod(y.shape[-1], side)
            if y.ndim != 4 or scale < 1 or rest:
                raise ValueError(f"made {tuple(y.shape)} of it")
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split())
            refusals.append(f"{type(net).__name__} does not take an image of {count} channels: {reason}")
            continue
        return Trial(count, y.shape[1], scale, memory.peak / side**2)
    raise ValueError(refusals[0])


def check_task(net: nn.Module, task: str | None) -> None:
    """Raise a ValueError unless ``task``, or None, says what ``net`` is to do; ``--task`` in commands."""
    tasks = list(getattr(net, "tasks", ()))
    if task is not None and task not in tasks:
        raise ValueError(f"--task {task}: the weights are for {tasks or 'one task without a name'}")
    if task is None and len(tasks) > 1:
        raise ValueError(f"the weights are for several tasks; choose one with --task: {' '.join(tasks)}")


def channel_guesses(net: nn.Module) -> Sequence[int]:
    """Return how many channels the images of ``net`` may have: colour, grey, two views, or others."""
    first = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    return list(dict.fromkeys([3, 1, 6, *([] if first is None else [first.in_channels])]))
