"""Looking through whole data sets for images that would fail in a run.

A run itself has :func:`check_sizes`, which reads headers. The rest decodes every image, once, ahead of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..config.errors import Problem
from ..config.schema import EvalDataset, ForeignDataset, GaussianDenoisingKeys, SampleKeys, TrainDataset
from . import DATASETS, build_eval_dataset, build_train_dataset
from .datasets import EvalPairs, TrainPairs
from .images import ImageError, run_single_threaded
from .opening import open_source, partner_names, select
from .pairs import in_pixels
from .samples import EvalSet, TrainSet
from .sampling import SampleRequest
from .sources import FileSource, ImageSource, StoredSource, first_few

Kind = Literal["folder", "unpaired", "unreadable", "channels", "size", "small"]
"""Folder, LMDB or meta-info file; partner; file; colours; size against the partner's; against the patch."""


def check_sizes(
    dataset: TrainSet | EvalSet, largest_gt_size: int = 1, key: str = "datasets.train"
) -> list[Problem]:
    """Find images that would fail in a run, from their headers alone.

    Unreadable ones; ones smaller than the largest patch or than one low-quality pixel; and
    low-quality images whose size does not fit the ground truth's: for training it must be that divided
    by the scale, for evaluation ground truth may exceed it. A data set that is not ours cannot be
    looked into.

    Args:
        dataset: from ``build_train_dataset`` or ``build_eval_dataset``.
        largest_gt_size: side of the largest stage's crop, in ground-truth pixels.
        key: of the data set in the option file.
    """
    if not isinstance(dataset, TrainPairs | EvalPairs):
        return []
    pairs, scale, training = dataset.pairs, dataset.pairs.scale, isinstance(dataset, TrainPairs)
    broken, small, odd = [], [], []
    for index in range(len(dataset)):
        try:
            stored = pairs.lq.sizes(index)
            if pairs.gt is None:
                continue
            path, (height, width) = pairs.gt.path(index), pairs.gt.size(index)
        except ImageError as error:
            broken.append(str(error))
            continue
        rows, columns = height // scale, width // scale
        if min(rows, columns) * scale < largest_gt_size:
            small.append(f"{Path(path).name} ({height}x{width})")
        for lq_path, *size in stored:
            fits = tuple(size) == (rows, columns) or not (training or size[0] > rows or size[1] > columns)
            if not fits:
                odd.append(
                    f"{Path(lq_path).name} ({in_pixels(*size)}, ground truth {in_pixels(height, width)})"
                )
    side = max(largest_gt_size, scale)
    least = in_pixels(side, side)
    findings = (
        (broken, "that cannot be read", "complete image files", "replace or remove them"),
        (
            small,
            "smaller than the largest patch" if training else "smaller than the scale",
            f"at least {least}",
            "use smaller patches or remove these images" if training else "remove these images",
        ),
        (
            odd,
            "whose low-quality side has another size",
            f"the ground truth's size divided by scale {scale}",
            "check scale and dataroot_lq",
        ),
    )
    return [
        Problem(
            key, f"{len(images)} image{'s'[: len(images) > 1]} {what}: {first_few(images)}", expected, fix
        )
        for images, what, expected, fix in findings
        if images
    ]


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
class ForeignSet:
    """A data set of basicsr's or of a plug-in's: all that can be done is to ask for each item."""

    dataset: Any
    gt_size: int | None

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


def open_set(
    option: TrainDataset | EvalDataset, scale: int, gt_size: int | None = None, colours: int | None = None
) -> tuple[InspectedSet | ForeignSet, list[Finding]]:
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
        if isinstance(option, ForeignDataset):
            dataset = (
                build_eval_dataset(option, scale)
                if gt_size is None
                else build_train_dataset(option, scale, 0)  # type: ignore[arg-type]
            )
            return ForeignSet(dataset, gt_size), []
        if isinstance(option, SampleKeys):
            sources, findings = {"SampleImages": DATASETS.find(option.type)(option, scale).gt}, []
        else:
            sources, findings = _open_sources(option)
        listed = bool(option.meta_info_file or option.meta_info)
        groups, unpaired = pair(sources, option.filename_tmpl, allow_extra=listed)
    except Exception as error:  # a foreign constructor may raise anything
        return InspectedSet({}, ()), [Finding("folder", option.type, str(error))]
    rules = InspectedSet(sources, groups, scale, gt_size or scale, gt_size is not None, colours)
    return rules, findings + unpaired


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


def inspect_all(opened: InspectedSet | ForeignSet, workers: int) -> Iterator[list[Finding]]:
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


_inspected: InspectedSet | ForeignSet


def _start(opened: InspectedSet | ForeignSet) -> None:
    global _inspected
    _inspected = opened
    run_single_threaded()


def _inspect(number: int) -> list[Finding]:
    return _inspected.inspect(number)


def _open_sources(option: Any) -> tuple[dict[str, StoredSource], list[Finding]]:
    keys = [key for key in type(option).model_fields if key.startswith("dataroot_")]
    roots = {key: root for key in keys if (root := getattr(option, key)) is not None}
    if isinstance(option, GaussianDenoisingKeys):
        roots.pop("dataroot_lq", None)  # Restormer's files name one that is not used
    sources: dict[str, StoredSource] = {}
    findings: list[Finding] = []
    listed = option.meta_info_file or option.meta_info
    for position, (key, root) in enumerate(roots.items()):
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
