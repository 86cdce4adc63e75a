"""Draw what is trained on: the first batches of every stage, as one picture.

    python scripts/show_batch.py -opt options/quickstart.yml --output sheet.png

Each row of three is a sample: the photograph with the crop's frame, the low-quality crop, enlarged to the
ground truth's size without smoothing, and the ground truth, both turned as the network sees them. The
samples are those of a run with these options and one process, except that mixing (mixup) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _command import CommandError, parser, positive, run
from PIL import Image, ImageDraw, ImageFont

from basicsr_ext.config import accumulated, load_options, resolved_stages
from basicsr_ext.config.schema import Options
from basicsr_ext.files import user_path

SIDE = 192
"""Of the crops on the sheet, in its pixels."""

_THUMBNAIL = (256, SIDE)
_GAP, _MARGIN, _LINE, _TITLE = 8, 24, 20, 40
_PAPER, _INK, _FAINT, _FRAME = "#ffffff", "#1b1f24", "#6e7781", "#e5484d"


@dataclass(frozen=True)
class Sample:
    """One sample as pictures, and its captions."""

    source: Image.Image | None
    lq: Image.Image
    gt: Image.Image
    name: str
    detail: str


@dataclass(frozen=True)
class Rows:
    """A stage's title and samples."""

    title: str
    samples: Sequence[Sample]


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = parser(__doc__)
    command.add_argument("-opt", "--opt", required=True, metavar="FILE", help="option file (YAML)")
    command.add_argument("--output", type=user_path, default=Path("sheet.png"), help="default: sheet.png")
    command.add_argument("--samples", type=positive, default=8, help="of a stage; default: 8")
    command.add_argument("--columns", type=positive, default=2, help="samples side by side; default: 2")
    command.add_argument(
        "--force_yml", nargs="+", default=[], metavar="KEY:KEY=VALUE", help="set options, as for train.py"
    )
    options = command.parse_args(arguments)

    sheet = draw(
        list(stages(load_options(options.opt, options.force_yml, phases=["train"]), options.samples)),
        options.columns,
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(options.output)
    print(f"{options.output}: {sheet.width}x{sheet.height} pixels")
    return []


# --- samples ----------------------------------------------------------------------------------------


def stages(options: Options, count: int) -> Iterator[Rows]:
    """Yield the first ``count`` samples of every stage.

    Raises:
        CommandError: nothing to train on, or a sample that cannot be made.
    """
    from basicsr_ext.data import build_train_dataset
    from basicsr_ext.data.samples import SampleError
    from basicsr_ext.data.sampling import ProgressiveBatchSampler, Stage
    from basicsr_ext.data.sections import DatasetSection

    section, loader, train = options.datasets.train, options.datasets.loader, options.train
    if not isinstance(section, DatasetSection) or loader is None or train is None:
        raise CommandError("datasets.train: the option file trains nothing")
    dataset = build_train_dataset(section, options.scale, options.manual_seed)
    planned = [
        Stage(stage.iters, stage.gt_size, stage.batch_size_total)
        if stage.batch_size_total
        else Stage(stage.iters, stage.gt_size, stage.batch_size_per_gpu or 1, grad_accum)
        for stage, grad_accum in zip(resolved_stages(options), accumulated(options), strict=True)
    ]
    problems = section.problems(dataset, "datasets.train", max(stage.gt_size for stage in planned))
    if problems:
        raise CommandError("\n".join(problem.line(options.source) for problem in problems))
    first = 1
    for number, stage in enumerate(planned, 1):
        batches = ProgressiveBatchSampler(
            planned,
            len(dataset),
            options.manual_seed,
            shuffle=loader.use_shuffle,
            enlarge=loader.dataset_enlarge_ratio,
            start_iter=first - 1,
        )
        requests = [request for _, batch in zip(range(count), batches, strict=False) for request in batch]
        try:
            samples = [_sample(dataset, request, section) for request in requests[:count]]
        except SampleError as error:
            raise CommandError(str(error)) from error
        last = first + stage.iters - 1
        lq = "x".join(map(str, samples[0].lq.size))
        yield Rows(
            f"Stage {number} of {len(planned)}: iterations {first:,} to {last:,}, crops of"
            f" {stage.gt_size}x{stage.gt_size} pixels (low quality {lq}), {stage.batch_size} in a batch",
            samples,
        )
        first = last + 1


def _sample(dataset: Any, request: Any, section: Any) -> Sample:
    from basicsr_ext.data.datasets import TrainPairs

    item = dataset[request]
    lq, gt = (_picture(item[side], section) for side in ("lq", "gt"))
    path = str(item.get("gt_path", f"image {request.index}"))
    detail = f"sample {request.k}"
    source = None
    if isinstance(dataset, TrainPairs) and dataset.pairs.gt is not None:
        place = dataset.place(request)
        detail += f", at row {place.top}, column {place.left}"
        for turned, word in (
            (place.orientation.hflip, "mirrored"),
            (place.orientation.vflip, "upside down"),
            (place.orientation.transpose, "transposed"),
        ):
            detail += f", {word}" if turned else ""
        source = _framed(dataset.pairs.gt.read(request.index), place.top, place.left, place.size)
    return Sample(source, lq, gt, Path(path).name, detail)


def _picture(tensor: Any, section: Any) -> Image.Image:
    """Return a (C, H, W) tensor as a picture: normalisation undone, of several views the first."""
    pixels = tensor.numpy().astype(np.float64)
    channels = len(pixels)
    for values, undo in ((section.std, np.multiply), (section.mean, np.add)):
        if values is not None:
            pixels = undo(pixels, np.tile(values, channels // len(values))[:, None, None])
    pixels = pixels[:3] if channels >= 3 else pixels[:1].repeat(3, axis=0)
    return Image.fromarray(np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0).copy())


def _framed(image: np.ndarray, top: int, left: int, size: int) -> Image.Image:
    """Return a thumbnail of the photograph with the crop's frame."""
    eight = image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
    picture = Image.fromarray(eight.repeat(3, axis=2) if eight.shape[2] == 1 else eight)
    whole = picture.width, picture.height
    picture.thumbnail(_THUMBNAIL, Image.Resampling.BOX)
    across, down = picture.width / whole[0], picture.height / whole[1]
    box = [left * across, top * down, (left + size) * across - 1, (top + size) * down - 1]
    pen = ImageDraw.Draw(picture)
    pen.rectangle([box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1], outline="white")
    pen.rectangle(box, outline=_FRAME, width=2)
    return picture


# --- drawing ----------------------------------------------------------------------------------------


def draw(rows: Sequence[Rows], columns: int) -> Image.Image:
    """Return the sheet."""
    cell_width = _THUMBNAIL[0] + 2 * SIDE + 2 * _GAP
    cell_height = SIDE + 2 * _LINE + _GAP
    lines = [-(-len(row.samples) // columns) for row in rows]
    width = 2 * _MARGIN + columns * cell_width + (columns - 1) * _MARGIN
    height = _MARGIN + sum(_TITLE + count * (cell_height + _GAP) + _MARGIN for count in lines)
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for row, count in zip(rows, lines, strict=True):
        pen.text((_MARGIN, top), row.title, _INK, font=ImageFont.load_default(18))
        top += _TITLE
        for place, sample in enumerate(row.samples):
            left = _MARGIN + place % columns * (cell_width + _MARGIN)
            _draw_sample(sheet, pen, sample, left, top + place // columns * (cell_height + _GAP))
        top += count * (cell_height + _GAP) + _MARGIN
    return sheet


def _draw_sample(sheet: Image.Image, pen: ImageDraw.ImageDraw, sample: Sample, left: int, top: int) -> None:
    if sample.source is not None:
        sheet.paste(sample.source, (left, top))
    second = left + _THUMBNAIL[0] + _GAP
    for picture, corner in ((sample.lq, second), (sample.gt, second + SIDE + _GAP)):
        smooth = picture.width > SIDE
        method = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
        sheet.paste(picture.resize((SIDE, SIDE), method), (corner, top))
    small = ImageFont.load_default(13)
    pen.text((left, top + SIDE + 4), sample.name, _INK, font=small)
    pen.text((left, top + SIDE + 4 + _LINE), sample.detail, _FAINT, font=small)
    for word, corner in (("low quality", second), ("ground truth", second + SIDE + _GAP)):
        pen.text((corner, top + SIDE + 4), word, _FAINT, font=small)


if __name__ == "__main__":
    raise SystemExit(run(main))
