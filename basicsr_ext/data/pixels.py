"""Images as the integers they are stored as, until they are on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_PEAKS = {torch.uint8: 255.0, torch.uint16: 65535.0}


@dataclass(frozen=True)
class Pixels:
    """An image, or a batch of them, that becomes floats in 0..1 on the device.

    Between loader processes, pinned memory and the device it takes a quarter of the room (16 bits: half). A
    data set marks its images by this type; integers without it, such as labels, arrive as they are.

    Args:
        values: (..., C, H, W), uint8 or uint16; 255 or 65535 becomes 1.

    Raises:
        TypeError: values of another type.
    """

    values: Tensor

    def __post_init__(self) -> None:
        if self.values.dtype not in _PEAKS:
            raise TypeError(f"pixels are uint8 or uint16, not {self.values.dtype}")

    @property
    def shape(self) -> torch.Size:
        """Of the values."""
        return self.values.shape

    def pin_memory(self) -> Pixels:
        """Return the same in page-locked memory; called by torch's loader."""
        return Pixels(self.values.pin_memory())

    def floats(self, device: torch.device | str = "cpu", *, channels_last: bool = False) -> Tensor:
        """Return the values on ``device`` as float32 in 0..1, with the bits of NumPy's division on the host.

        Args:
            device: where to.
            channels_last: memory layout of the result where it has four dimensions.
        """
        values = self.values.to(device, non_blocking=True)
        if channels_last and values.ndim == 4:
            values = values.contiguous(memory_format=torch.channels_last)
        # By a tensor on the device: CUDA multiplies with the reciprocal of a number, which rounds twice.
        peak = torch.full((), _PEAKS[values.dtype], dtype=torch.float32, device=values.device)
        return values.to(torch.float32).div_(peak)
