"""Looking through whole data sets for images and volumes that would fail in a run.

A run itself only reads headers (:func:`.datasets.check_sizes`); here every image is decoded, ahead of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from ..config import DatasetOptions
from . import build_eval_dataset, build_train_dataset
from .episodes import AbsentClassError
from .few_shot_dataset import FewShotSection
from .images import ImageError, run_single_threaded
from .opening import open_source, partner_names, select
from .pairs import in_pixels
from .samples import SampleError
from .sampling import SampleRequest
from .sections import ImageSection
from .sources import FileSource, ImageSource, StoredSource
from .volumes import VolumeSource, VoxelError

Kind = Literal["folder", "unpaired", "unreadable", "channels", "size", "small", "grid", "content"]
"""Folder, LMDB or meta-info file; partner; file; colours; size against the partner's; against the patch;
a volume's voxels against its image's; what training or evaluation looks for in it."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong with one image or folder."""

    kind: Kind
    path: str
    message: str


@dataclass(frozen=True)
class InspectedSet:
    """A data set as it is looked through.

    Args:
        sources: images by the option that names them; ground truth first, where there is any.
        groups: images that belong together: (option, index) of each.
        scale: side of ground truth over side of low quality.
        smallest: least side of the first image of a group.
        exact: ground truth must be exactly ``scale`` times as large; otherwise it may be larger.
        colours: demand 1 (grey) or 3; ``None``: the images of a group must agree.
    """

    sources: Mapping[str, ImageSource]
    groups: Sequence[Sequence[tuple[str, int]]]
    scale: int = 1
    smallest: int = 1
    exact: bool = True
    colours: int | None = None

    unit: ClassVar[str] = "images"

    def __len__(self) -> int:
        return len(self.groups)

    def path(self, number: int) -> str:
        """Return what messages call the first image of a group."""
        key, index = self.groups[number][0]
        return self.sources[key].path(index)

    def inspect(self, number: int) -> list[Finding]:
        """Decode a group's images and compare them."""
        findings: list[Finding] = []
        shapes: list[tuple[int, int] | None] = []
        for key, index in self.groups[number]:
            source = self.sources[key]
            shape, found = _decode(source, index)
            shapes.append(shape)
            findings += found
        return findings + self._compare_sizes(number, shapes) + self._compare_colours(number, shapes)

    def _compare_sizes(self, number: int, shapes: Sequence[tuple[int, int] | None]) -> list[Finding]:
        path, first = self.path(number), shapes[0]
        if first is None:
            return []
        findings = []
        rows, columns = first[0] // self.scale, first[1] // self.scale
        if min(rows, columns) * self.scale < self.smallest:
            findings.append(Finding("small", path, f"{in_pixels(*first)}, less than {self.smallest}"))
        for (key, index), shape in zip(self.groups[number][1:], shapes[1:], strict=True):
            if shape is None or shape == (rows, columns):
                continue
            if self.exact or shape[0] > rows or shape[1] > columns:
                expected = f"{in_pixels(rows, columns)}: {path} divided by {self.scale}"
                message = f"{in_pixels(*shape)}, expected {expected}"
                findings.append(Finding("size", self.sources[key].path(index), message))
        return findings

    def _compare_colours(self, number: int, shapes: Sequence[tuple[int, int] | None]) -> list[Finding]:
        findings: list[Finding] = []
        expected = self.colours
        for (key, index), shape in zip(self.groups[number], shapes, strict=True):
            source = self.sources[key]
            found = _colours(source.path(index)) if shape and isinstance(source, FileSource) else None
            if found is None:
                continue
            if expected is None and found in (1, 3):
                expected = found
            elif found != expected:
                wanted = "1 or 3" if expected is None else str(expected)
                message = f"{found} colour channel{'s'[: found > 1]}, expected {wanted}"
                findings.append(Finding("channels", source.path(index), message))
        return findings


@dataclass(frozen=True)
class VolumeSet:
    """Volumes as they are looked through.

    Args:
        source: of volumes.
        numbers: which of them.
        episodes: what is trained with, where all files fit.
        gt_size: side of an episode's slices.
    """

    source: VolumeSource
    numbers: Sequence[int]
    episodes: Any = None
    gt_size: int = 1

    unit: ClassVar[str] = "volumes"

    def __len__(self) -> int:
        return len(self.numbers)

    def path(self, number: int) -> str:
        """Return what messages call a volume."""
        return self.source.path(self.numbers[number], "image")

    def inspect(self, number: int) -> list[Finding]:
        """Read all files of a volume; if nothing is wrong with them, make an episode of it."""
        index, findings = self.numbers[number], []
        for kind in self.source.kinds(index):
            try:
                getattr(self.source, kind)(index)
            except ValueError as error:
                path = self.source.path(index, kind)
                findings.append(Finding("unreadable", path, str(error).removeprefix(f"{path}: ")))
        if not findings and self.episodes is not None:
            try:
                self.episodes[SampleRequest(number, self.gt_size, number)]
            except SampleError as error:
                findings.append(Finding("content", self.path(number), str(error.__cause__ or error)))
        return findings


@dataclass(frozen=True)
class OtherSet:
    """A data set that is not made of image pairs: all that can be done is to ask for each item."""

    dataset: Any
    gt_size: int | None

    unit: ClassVar[str] = "images"

    def __len__(self) -> int:
        return len(self.dataset)

    def path(self, number: int) -> str:
        """Return what messages call an item."""
        return f"image {number}"

    def inspect(self, number: int) -> list[Finding]:
        """Make one item."""
        try:
            self.dataset[number if self.gt_size is None else SampleRequest(number, self.gt_size, number)]
        except Exception as error:  # whatever foreign code raises
            return [Finding("unreadable", self.path(number), str(error))]
        return []


Opened = InspectedSet | VolumeSet | OtherSet


def open_set(
    option: DatasetOptions, scale: int, gt_size: int | None = None, colours: int | None = None
) -> tuple[Opened, list[Finding]]:
    """Open all folders of a data set and pair their images.

    Args:
        option: the section of the option file.
        scale: of the option file; the section's own takes precedence.
        gt_size: side of the largest crop, for a training set; ``None`` for evaluation.
        colours: see :class:`InspectedSet`.

    Returns:
        What can be looked through, and what is wrong with folders, lists and pairs.
    """
    scale = option.scale or scale
    try:
        if isinstance(option, FewShotSection):
            return _open_volumes(option, scale, gt_size)
        if not isinstance(option, ImageSection):
            if gt_size is None:
                return OtherSet(build_eval_dataset(option, scale), None), []
            return OtherSet(build_train_dataset(option, scale, 0), gt_size), []
        sources, findings = _open_sources(option)
        if not option.roots():
            sources = {option.type: cast(StoredSource, option.pairs(scale).gt)}
        listed = bool(option.meta_info_file or option.meta_info)
        groups, unpaired = pair(sources, option.filename_tmpl, allow_extra=listed)
    except Exception as error:  # a foreign constructor may raise anything
        return InspectedSet({}, ()), [Finding("folder", option.type, str(error))]
    smallest = gt_size if gt_size is not None and option.small_images == "stop" else scale
    rules = InspectedSet(sources, groups, scale, smallest, gt_size is not None, colours)
    return rules, findings + unpaired


def _open_volumes(option: FewShotSection, scale: int, gt_size: int | None) -> tuple[VolumeSet, list[Finding]]:
    """Find all volumes of a data set, and what is wrong with files, folds and classes."""
    training = gt_size is not None
    source, numbers = option.volumes(training, whatever=True)
    findings = [Finding(misfit.kind, misfit.path, misfit.message) for misfit in source.misfits]
    episodes = None
    with suppress(VoxelError):  # which is found when the volume is looked through
        if training and not findings:
            episodes = option.train_set(scale, 0)
        elif not findings:
            try:
                option.eval_set(scale)
            except AbsentClassError as error:
                path, _, message = str(error).partition(": ")
                findings.append(Finding("content", path, message))
    return VolumeSet(source, numbers, episodes, gt_size or 1), findings


def pair(
    sources: Mapping[str, StoredSource], template: str, *, allow_extra: bool
) -> tuple[list[list[tuple[str, int]]], list[Finding]]:
    """Find to each image of the first source its partners in the others, and all that have none."""
    if not sources:
        return [], []
    (first, gt), *others = sources.items()
    groups = [[(first, index)] for index in range(len(gt))]
    findings: list[Finding] = []
    for key, source in others:
        unclaimed = {name: index for index, name in enumerate(source.names)}
        for index, name in enumerate(partner_names(gt, source, template)):
            partner = unclaimed.pop(name, None)
            if partner is None:
                message = f"has no partner {name} in {source.folder}"
                findings.append(Finding("unpaired", gt.path(index), message))
            else:
                groups[index].append((key, partner))
        # Images of no partner may be damaged too.
        groups += [[(key, index)] for index in unclaimed.values()]
        if not allow_extra:
            findings += [
                Finding("unpaired", source.path(index), f"has no partner in {gt.folder}")
                for index in unclaimed.values()
            ]
    return groups, findings


def inspect_all(opened: Opened, workers: int) -> Iterator[list[Finding]]:
    """Yield what is wrong with each group of images, in order, inspected by ``workers`` processes."""
    if workers <= 1 or len(opened) < 2:
        yield from map(opened.inspect, range(len(opened)))
        return
    done = 0
    try:
        with ProcessPoolExecutor(workers, initializer=_start, initargs=(opened,)) as pool:
            for findings in pool.map(_inspect, range(len(opened)), chunksize=4):
                yield findings
                done += 1
    except BrokenProcessPool:
        yield [Finding("unreadable", opened.path(done), "a decoder crashed on this image or one after it")]


_inspected: Opened


def _start(opened: Opened) -> None:
    global _inspected
    _inspected = opened
    run_single_threaded()


def _inspect(number: int) -> list[Finding]:
    return _inspected.inspect(number)


def _open_sources(option: ImageSection) -> tuple[dict[str, StoredSource], list[Finding]]:
    sources: dict[str, StoredSource] = {}
    findings: list[Finding] = []
    listed = option.meta_info_file or option.meta_info
    for position, (key, root) in enumerate(option.roots().items()):
        try:
            source = open_source(root, key)
            _probe(source)
            sources[key] = select(source, listed, "meta_info_file") if listed and not position else source
        except ValueError as error:
            findings.append(Finding("folder", root, str(error)))
    return sources, findings


def _probe(source: StoredSource) -> None:
    """Raise ValueError if a database cannot be opened, rather than once for each of its images."""
    try:
        source.read(0)
    except ImageError:
        return
    except Exception as error:
        raise ValueError(f"cannot be opened: {error}") from error


def _decode(source: ImageSource, index: int) -> tuple[tuple[int, int] | None, list[Finding]]:
    path = source.path(index)
    try:
        height, width = source.read(index).shape[:2]
        listed = source.size(index)
    except Exception as error:  # decoders and databases have exceptions of their own
        message = str(error).removeprefix(f"{path}: ")
        return None, [Finding("unreadable", path, message)]
    if (height, width) != tuple(listed):
        return (height, width), [
            Finding("size", path, f"{in_pixels(height, width)}, but listed with {in_pixels(*listed)}")
        ]
    return (height, width), []


def _colours(path: str) -> int | None:
    """Return the number of an image file's channels without alpha; ``None`` if its header does not say."""
    from PIL import Image

    try:
        with Image.open(path) as header:
            bands = [band for band in header.getbands() if band not in ("A", "a")]
            return 3 if header.mode == "P" else len(bands)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
