"""A network as a file that other programs open: safetensors, ONNX, ``torch.export``.

What an exported program computes is what ``infer.py`` computes of a whole image: images are 0..1 whatever the
network's own range. A program is returned only after it has been read back and compared with the network.
"""

from __future__ import annotations

import copy
import importlib
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..archs import pixel_range
from ..archs.padding import SizeRequirement, requirement_of
from ..archs.weights import DESCRIPTION
from .description import Description
from .onnx_images import with_images
from .restore import any_size, channel_guesses, try_network

Side = tuple[int, int]
Run = Callable[[Tensor], Tensor]

TOLERANCE = 1e-4
"""Largest difference between two float32 programs, over the largest value (or 1, if that is more)."""
_SMALLEST_RECORDED = 16
"""Side from which on a recording for all sizes holds by itself; what is below is tried."""
_SIDE, _CLASSIFIED_SIDE = 64, 224
_STEPS_DOWN = (48, 32, 24, 16, 8, 4, 2, 1)


class ExportError(RuntimeError):
    """The network cannot be exported so; the message says why."""


@dataclass(frozen=True)
class Exported:
    """A file's content, and what there is to be said about it, line by line."""

    content: bytes
    notes: Sequence[str]


@dataclass(frozen=True)
class Subject:
    """A network to export, in eval mode on the CPU.

    Attributes:
        network: the network with its weights.
        description: what the file says about it.
        channels: of the images it takes.
        scale: output side over input side; 0 where it gives no image (classification).
        task: of a network with several, the one to export.
    """

    network: nn.Module
    description: Description
    channels: int
    scale: int
    task: str | None = None

    @classmethod
    def of(cls, network: nn.Module, description: Description, task: str | None = None) -> Subject:
        """Find out by a trial what images the network takes.

        Raises:
            ValueError: it takes none, or has no such task, or several of which none is named.
        """
        tasks = list(getattr(network, "tasks", ()))
        if task is not None and task not in tasks:
            raise ValueError(f"--task {task}: the weights are for {tasks or 'one task without a name'}")
        if task is None and len(tasks) > 1:
            raise ValueError(f"the weights are for several tasks; choose one with --task: {' '.join(tasks)}")
        if description.purpose:
            first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
            return cls(network, description, 3 if first is None else first.in_channels, 0, task)
        requirement = requirement_of(network, description.window_size)
        trial = try_network(network, requirement, channel_guesses(network), task)
        return cls(network, description, trial.channels, trial.scale, task)

    @property
    def own_requirement(self) -> SizeRequirement:
        """What ``infer.py`` pads images to."""
        return requirement_of(self.network, self.description.window_size, self.task)

    @property
    def requirement(self) -> SizeRequirement:
        """What images are padded to.

        Parts of EMT pad their own features, by lengths that no recording can leave open: images are padded
        instead, to sides at which they do not.
        """
        own: Callable[[], SizeRequirement] | None = getattr(self.network, "unpadded_sides", None)
        return own() if own else self.own_requirement

    @property
    def multiple_of(self) -> int:
        """What sides of a recording for all sizes must be multiples of."""
        return self.requirement.multiple_of if self.scale else 1

    def reference(self, requirement: SizeRequirement) -> Run:
        """Return what a program that pads so has to compute, of images (N, C, H, W) in 0..1."""
        if not self.scale:
            return self.network
        return any_size(self.network, self.scale, requirement, task=self.task)


# --- formats ----------------------------------------------------------------------------------------


def metadata(description: Description) -> dict[str, str]:
    """Return what a file says about a network, as text; :data:`DESCRIPTION` is the entry of checkpoints."""
    arguments = description.network
    scale = arguments.get("upscale", arguments.get("scale", arguments.get("scales")))
    return {
        DESCRIPTION: json.dumps(description.entry()),
        "architecture": str(arguments["type"]),
        **({} if scale is None else {"scale": json.dumps(scale)}),
    }


def to_safetensors(network: nn.Module, description: Description) -> Exported:
    """Return weights under the keys of the network's release, and its :func:`metadata`.

    Raises:
        ExportError: safetensors is not installed.
    """
    (save,) = _needed("safetensors", "safetensors.torch")
    tensors = {key: value.detach().clone() for key, value in network.state_dict().items()}
    content = save.save(tensors, {"format": "pt", **metadata(description)})
    return Exported(content, [f"{len(tensors)} tensors, and the network's options in the metadata"])


def to_torch_export(subject: Subject, size: Side | None = None) -> Exported:
    """Return a program of ``torch.export``, which ``torch.export.load`` opens without this package.

    It takes float images (N, C, H, W) in 0..1 and pads nothing: sides must be multiples of what the network
    needs.

    Args:
        subject: what to export.
        size: height and width, for a program of this size only; default: any, where the network allows it.

    Raises:
        ExportError: it cannot be recorded, or computes something else.
    """

    def finish(program: Any, takes: _Takes) -> Exported:
        buffer = io.BytesIO()
        told = json.dumps(metadata(subject.description))
        torch.export.save(program, buffer, extra_files={f"{DESCRIPTION}.json": told})
        opened = torch.export.load(io.BytesIO(buffer.getvalue())).module()
        differences = [_compare(opened, _Program(subject), subject, shape) for shape in takes.shapes()]
        stepped = takes.any_size and takes.multiple_of > 1
        step = f" (sides: multiples of {takes.multiple_of})" if stepped else ""
        return Exported(buffer.getvalue(), [takes.in_words() + step, *differences])

    return _first_that_works(subject, size, finish)


def to_onnx(subject: Subject, size: Side | None = None, eight_bit: bool = False) -> Exported:
    """Return an ONNX program that maps ``image`` to ``restored``, padding and cutting to size within.

    Both are float (N, C, H, W) in 0..1, or uint8 (N, H, W, C); of a network that gives no image, there is
    ``output`` instead.

    Args:
        subject: what to export.
        size: height and width, for a program of this size only; default: any, where the network allows it.
        eight_bit: take and give uint8 images.

    Raises:
        ExportError: it cannot be recorded, or onnxruntime computes something else.
    """
    onnx, onnxruntime, _ = _needed("onnx onnxruntime onnxscript", "onnx", "onnxruntime", "onnxscript")
    if eight_bit and not subject.scale:
        raise ExportError(f"{subject.description.network['type']} gives no image: leave out --uint8")

    def finish(program: Any, takes: _Takes) -> Exported:
        recorded = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=["image"],
            output_names=["output"],
        )
        assert recorded is not None, "it is None only where a file is named"
        _simplify(recorded.model)
        model = recorded.model_proto
        requirement = subject.requirement if takes.any_size else SizeRequirement()
        if subject.scale:
            sides = ("height", "width") if takes.any_size else takes.example[1:]
            model = with_images(model, requirement, subject.scale, subject.channels, sides, eight_bit)
        for key, value in metadata(subject.description).items():
            model.metadata_props.add(key=key, value=value)
        onnx.checker.check_model(model)
        content = model.SerializeToString()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4  # what fails when it is tried is not the user's concern
        session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])

        def run(image: Tensor) -> Tensor:
            if not eight_bit:
                return torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
            levels = image.permute(0, 2, 3, 1).mul(255).round().byte().numpy()
            (restored,) = session.run(None, {"image": levels})
            return torch.from_numpy(restored).permute(0, 3, 1, 2).float() / 255

        reference = subject.reference(requirement)
        odd = takes.any_size and subject.scale > 0
        shapes = [(n, h - odd, w - 3 * odd) for n, h, w in takes.shapes()]
        differences = [_compare(run, reference, subject, shape, eight_bit) for shape in shapes]
        smallest = ""
        if takes.any_size:
            smallest = _smallest(run, reference, subject, eight_bit, min(min(h, w) for _, h, w in shapes))
        layout = "8-bit images (N, H, W, C), " if eight_bit else ""
        notes = [layout + takes.in_words() + smallest, *differences]
        if requirement != subject.own_requirement and takes.any_size:
            notes.append(
                f"images are mirrored to multiples of {requirement.multiple_of}; infer.py mirrors features in"
                " the network, so others' results differ near the right and lower border"
            )
        return Exported(content, notes)

    return _first_that_works(subject, size, finish)


# --- recording --------------------------------------------------------------------------------------


class _Program(nn.Module):
    """What is recorded: the network on images in 0..1, of sides that it takes without padding."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        # A copy: what networks keep of earlier calls must not become part of the recording, nor the reverse.
        self.network, self.task = copy.deepcopy(subject.network), subject.task
        self.white = pixel_range(subject.network) if subject.scale else 1.0

    def forward(self, image: Tensor) -> Tensor:
        image = image if self.white == 1 else image * self.white
        y = self.network(image) if self.task is None else self.network(image, self.task)
        return y if self.white == 1 else y / self.white


@dataclass(frozen=True)
class _Takes:
    """What a recording takes: images of any number and size, or as ``example`` (N, H, W)."""

    any_size: bool
    any_number: bool
    example: tuple[int, int, int]
    multiple_of: int

    def in_words(self) -> str:
        _, height, width = self.example
        number = "any number of images" if self.any_number else "one image"
        return f"{number} of {'any size' if self.any_size else f'{height} x {width} pixels'}"

    def shapes(self) -> list[tuple[int, int, int]]:
        """Return (N, H, W) to try: two sizes beside the recorded one, or numbers where the size is fixed."""
        n, height, width = self.example
        if not self.any_size:
            return list(dict.fromkeys([(n, height, width), (1, height, width)]))
        step = max(self.multiple_of, 8 // self.multiple_of * self.multiple_of)
        return [(n, height + step, width), (1, height + 2 * step, width + step)]

    def dimensions(self) -> dict[int, Any]:
        from torch.export import Dim

        dimensions: dict[int, Any] = {0: Dim("batch", min=1)} if self.any_number else {}
        if self.any_size:
            least = max(2, -(-_SMALLEST_RECORDED // self.multiple_of))
            sides = (Dim("rows", min=least), Dim("columns", min=least))
            dimensions |= {2 + i: self.multiple_of * side for i, side in enumerate(sides)}
        return dimensions


def _attempts(subject: Subject, size: Side | None) -> Iterator[_Takes]:
    """Yield what a recording could take, best first."""
    multiple = subject.multiple_of
    if size is None and subject.scale:
        rows = max(3, -(-_SMALLEST_RECORDED // multiple))
        for any_number in (True, False):
            example = (2 if any_number else 1, rows * multiple, (rows + 1) * multiple)
            yield _Takes(True, any_number, example, multiple)
    side = _SIDE if subject.scale else _CLASSIFIED_SIDE
    height, width = size or (-(-side // multiple) * multiple,) * 2
    # What a network pads by itself can be recorded for one size.
    own = subject.own_requirement.multiple_of if subject.scale else 1
    for any_number in (True, False):
        yield _Takes(False, any_number, (2 if any_number else 1, height, width), own)


def _first_that_works(
    subject: Subject, size: Side | None, finish: Callable[[Any, _Takes], Exported]
) -> Exported:
    """Return the best file that can be made, and why it is not a better one."""
    refusals: list[str] = []
    for takes in _attempts(subject, size):
        try:
            with _quiet():
                made = finish(_record(subject, takes), takes)
            return Exported(made.content, [*made.notes, *refusals])
        except MemoryError:
            raise
        except Exception as error:  # exporters raise dozens of types for what they do not know
            refusals.append(f"not for {takes.in_words()}: {_reason(error)}")
    raise ExportError("\n".join([f"{type(subject.network).__name__} cannot be exported so", *refusals]))


def _record(subject: Subject, takes: _Takes) -> Any:
    n, height, width = takes.example
    for side in (height, width):
        if side % takes.multiple_of:
            raise ExportError(f"--size: {side} is not a multiple of {takes.multiple_of}")
    image = torch.rand(n, subject.channels, height, width, generator=torch.Generator().manual_seed(0))
    return torch.export.export(
        _Program(subject), (image,), dynamic_shapes={"image": takes.dimensions()}, strict=False
    )


def _simplify(model: Any) -> None:
    """Compute beforehand what does not depend on the image, and drop what is there twice or not needed.

    The exporter's own simplification takes a time with the square of the number of nodes besides.
    """
    optimizer, passes = _needed("onnxscript", "onnxscript.optimizer", "onnx_ir.passes.common")
    optimizer.fold_constants(model)
    optimizer.remove_unused_nodes(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.DeduplicateInitializersPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    optimizer.remove_unused_nodes(model)
    passes.ClearMetadataAndDocStringPass()(model)


def _reason(error: Exception) -> str:
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "specialized" in line or "unsupported" in line.lower()), "")
    return (told or (lines[0] if lines else type(error).__name__))[:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """Record nothing for gradients, and keep the exporters' remarks on themselves from the terminal."""
    chatty = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch.fx", "onnxscript")]
    levels = [logger.level for logger in chatty]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for logger in chatty:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(chatty, levels, strict=True):
                logger.setLevel(level)


# --- trying what was made ---------------------------------------------------------------------------


def _compare(
    made: Run, reference: Run, subject: Subject, shape: tuple[int, int, int], eight_bit: bool = False
) -> str:
    """Say how far a program is from the network on a made image.

    Raises:
        ExportError: too far.
    """
    difference, bound = _difference(made, reference, subject, shape, eight_bit)
    size = " x ".join(map(str, (shape[0], subject.channels, *shape[1:])))
    told = f"largest difference from torch for {size}: {difference:.1e}"
    if not difference <= bound:
        raise ExportError(f"{told}, more than {bound:.1e}")
    return told


def _difference(
    made: Run, reference: Run, subject: Subject, shape: tuple[int, int, int], eight_bit: bool
) -> tuple[float, float]:
    image = _made_image((shape[0], subject.channels, *shape[1:]))
    with torch.no_grad():
        expected, result = reference(image), made(image)
    if result.shape != expected.shape:
        made_of = f"{tuple(result.shape)} of {tuple(image.shape)}"
        raise ExportError(f"it makes {made_of}, not {tuple(expected.shape)}")
    if eight_bit:
        # Half a level, which rounding may take, and what the programs may differ by.
        return (result - expected.clamp(0, 1)).abs().max().item(), 0.5 / 255 + TOLERANCE
    return (result - expected).abs().max().item(), TOLERANCE * max(1.0, expected.abs().max().item())


def _made_image(shape: tuple[int, int, int, int]) -> Tensor:
    """Return smooth colours with some noise, in 256 levels from 0 to 1.

    Of noise alone, networks for photographs may make anything: EMT's released x4 weights multiply rounding
    errors by millions there.
    """
    n, channels, height, width = shape
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.rand(n, channels, height // 8 + 2, width // 8 + 2, generator=generator)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")
    noise = 0.03 * torch.randn(shape, generator=generator)
    return (smooth + noise).clamp(0, 1).mul(255).round() / 255


def _smallest(made: Run, reference: Run, subject: Subject, eight_bit: bool, right: int) -> str:
    """Say from which side on, below one that is known, a program for all sizes is right; empty: all are."""
    for side in (side for side in _STEPS_DOWN if side < right):
        try:
            difference, bound = _difference(made, reference, subject, (1, side, side), eight_bit)
        except Exception:  # the program, or the network itself, does not take so small an image
            difference, bound = 1.0, 0.0
        if not difference <= bound:
            return f" from {right} x {right} pixels on"
        right = side
    return ""


def _needed(packages: str, *modules: str) -> list[Any]:
    """Import optional modules.

    Raises:
        ExportError: one is not installed.
    """
    try:
        return [importlib.import_module(module) for module in modules]
    except ImportError as error:
        raise ExportError(f"this needs packages that are not installed: pip install {packages}") from error
