"""What is looked into: a network with its weights, one of its tasks, and inputs for that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lcm
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..archs import pixel_range
from ..archs.padding import pad_to, requirement_of
from ..data.degradations import degraded_pairs
from ..data.pairs import CropPlace, ImagePairs
from ..data.sampling import Purpose, sample_rng
from ..data.sources import ImageSource, LazyImage
from ..data.transforms import Color, Conversion, Orientation
from ..inference.channels import to_channels
from ..inference.description import describe, open_network
from ..inference.pictures import Picture
from ..inference.restore import channel_guesses, check_task, try_network
from ..models.multitask_model import Task


@dataclass(frozen=True)
class Subject:
    """A network in eval mode, and what of it is looked into.

    Attributes:
        name: for pictures: the run's or the file's, and the task's.
        network: with weights.
        scale: output side over input side.
        channels: of its images.
        task: of a network with several; None for others.
        color: which grey a network of one channel was trained on.
        window_size: ``val.window_size``.
    """

    name: str
    network: nn.Module
    scale: int
    channels: int
    task: str | None = None
    color: Color | None = None
    window_size: int | None = None

    @classmethod
    def open(
        cls,
        weights: Path,
        task: str | None = None,
        option_file: Path | None = None,
        plugins: Sequence[str] = (),
        device: torch.device | None = None,
    ) -> Subject:
        """Open weights as ``infer.py`` does.

        Args:
            weights: a checkpoint, ours or published.
            task: of a network with several.
            option_file: for weights that do not tell their network.
            plugins: modules to import.
            device: default: the CPU.

        Raises:
            ValueError: it is unclear which network or task is meant, or the weights do not fit; likewise
                the errors of :func:`.describe` and :func:`.open_network`.
        """
        described = describe(weights, option_file, plugins)
        described.require_restoring(weights)
        network = open_network(weights, described).to(device).requires_grad_(False)
        check_task(network, task)
        requirement = requirement_of(network, described.window_size, task)
        trial = try_network(network, requirement, channel_guesses(network), task)
        run = weights.resolve().parent
        name = run.parent.name if run.name == "models" else weights.stem
        name = name if task is None else f"{name}, {task}"
        window = described.window_size
        return cls(name, network, trial.scale, trial.channels, task, described.color, window)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def __call__(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) in 0..1 to (B, C', H * scale, W * scale), not clamped.

        Images are mirrored where windows need a larger one, and only there: the features of others are of
        nothing but the image.
        """
        return self.restored(self.fitted(x))[..., : x.shape[2] * self.scale, : x.shape[3] * self.scale]

    def fitted(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W), mirrored at bottom and right where windows need a larger one."""
        requirement = requirement_of(self.network, self.window_size, self.task)
        return x if requirement.fits(x) else pad_to(x, requirement)

    def restored(self, x: Tensor) -> Tensor:
        """Return what the network makes of images that are :meth:`fitted`."""
        white = pixel_range(self.network)
        y = self.network(x * white) if self.task is None else self.network(x * white, self.task)
        return y / white

    def input(self, image: np.ndarray) -> Tensor:
        """Return an image (H, W, 3 or 1), RGB or grey, uint8 or uint16, as the network takes it: (C, H, W).

        Raises:
            ImageError: the network takes two views.
        """
        return torch.from_numpy(Conversion()(to_channels([Picture(image)], self.channels, self.color)))


def input_batches(
    subjects: Sequence[Subject], source: ImageSource, size: int, batch: int, count: int, seed: int = 0
) -> Iterator[list[Tensor]]:
    """Yield batches of examples, for each subject the input that its task has for them: (n, C, h, w).

    Example k is a crop of image k, and again from the first image on, at a place that ``seed`` and k decide.
    Pictures are taken for ground truth: super-resolution gets them reduced (MATLAB's bicubic), the tasks that
    EDT knows their noise or rain, every other one the picture itself.

    Args:
        subjects: of one or more networks.
        source: pictures; ones smaller than a crop are mirrored.
        size: side of a crop in the pictures' pixels.
        batch: examples of a batch.
        count: examples, rounded up to whole batches.
        seed: decides about places, noise and rain.

    Raises:
        ValueError: ``size`` is not a multiple of all scales.
    """
    multiple = lcm(*(subject.scale for subject in subjects))
    if size % multiple:
        raise ValueError(f"size: {size} is not a multiple of {multiple}, the scale")
    pairs = [_pairs(subject, source) for subject in subjects]
    for first in range(0, count, batch):
        examples = [_example(subjects, pairs, source, size, seed, k) for k in range(first, first + batch)]
        yield [torch.stack(inputs) for inputs in zip(*examples, strict=True)]


def _pairs(subject: Subject, source: ImageSource) -> ImagePairs | None:
    """Return what the task makes of pictures; None where they are its inputs."""
    steps = None if subject.task is None else Task(name=subject.task).steps()
    if steps is None and subject.scale == 1:
        return None
    return degraded_pairs(source, steps, subject.scale, Conversion())


def _example(
    subjects: Sequence[Subject],
    pairs: Sequence[ImagePairs | None],
    source: ImageSource,
    size: int,
    seed: int,
    k: int,
) -> list[Tensor]:
    index, multiple = k % len(source), lcm(*(subject.scale for subject in subjects))
    gt = LazyImage(source, index, multiple, size)
    rng = sample_rng(seed, k)
    top, left = (int(rng.integers((side - size) // multiple + 1)) * multiple for side in gt.shape)
    inputs = []
    for subject, pair in zip(subjects, pairs, strict=True):
        place = CropPlace(top, left, size, Orientation())
        if pair is None:
            crop = gt[place.window]
        else:
            scale, noise = subject.scale, sample_rng(seed, k, Purpose.EVALUATION)
            place = CropPlace(top // scale, left // scale, size // scale, Orientation())
            crop = pair.lq.oriented_crop(index, gt, place, noise)
        inputs.append(subject.input(crop))
    return inputs
