"""What a run writes for people: log lines, ``metrics.jsonl``, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Options
from ..data.images import ImageError, write_image
from ..files import write_atomically

LOG = logging.getLogger("basicsr_ext")
_FORMAT = logging.Formatter("%(asctime)s %(levelname)s: %(message)s", "%Y-%m-%d %H:%M:%S")


def log_to_console(enabled: bool) -> None:
    """Send log lines to standard output, or from non-writing ranks nowhere."""
    LOG.handlers.clear()
    LOG.propagate = False
    LOG.setLevel(logging.INFO)
    if enabled:
        # rich draws below what is printed while a progress bar is alive, and passes through in a pipe.
        handler = logging.StreamHandler(_Stdout())
        handler.setFormatter(_FORMAT)
        LOG.addHandler(handler)
    else:
        LOG.addHandler(logging.NullHandler())


class RunLogger:
    """The records of one run in its folder.

    Args:
        options: the run's options.
        folder: the run's folder.
        enabled: false on ranks that do not write; every method is then without effect.
        iteration: finished iterations; later entries of an earlier attempt are removed.
        validated: whether the last of them has had its validation; if not, entries of that are removed, too.
    """

    def __init__(
        self, options: Options, folder: Path, enabled: bool, iteration: int, validated: bool = True
    ) -> None:
        self._enabled = enabled
        self._tensorboard: Any = None
        self._wandb: Any = None
        if not enabled:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._report = folder, options.logger.report
        self._file = logging.FileHandler(
            folder / f"train_{options.name}_{time.strftime('%Y%m%d_%H%M%S')}.log"
        )
        self._file.setFormatter(_FORMAT)
        LOG.addHandler(self._file)
        self._metrics_path = folder / "metrics.jsonl"
        _drop_entries_after(self._metrics_path, iteration, validated)
        self._metrics = self._metrics_path.open("a", encoding="utf-8")
        if options.logger.use_tb_logger:
            from torch.utils.tensorboard import SummaryWriter

            purge = iteration + 1 if iteration else None
            self._tensorboard = SummaryWriter(str(folder / "tb_logger"), purge_step=purge)
        if options.logger.wandb is not None and options.logger.wandb.project:
            import wandb  # pyright: ignore[reportMissingImports]

            settings = options.logger.wandb
            self._wandb = wandb.init(
                project=settings.project,
                name=options.name,
                id=settings.resume_id,
                resume="allow",
                dir=str(folder),
            )

    def require_files(self) -> None:
        """Make sure that what has been written is still there: a deleted file would take all that follows.

        Raises:
            FileNotFoundError: the run's folder, or one of its logs, has been deleted or moved.
        """
        if not self._enabled:
            return
        # The log's name has the time of the start: a run that took over the folder has no such file.
        for path in (self._metrics_path, Path(self._file.baseFilename)):
            if not path.exists():
                raise FileNotFoundError(
                    f"{path} was deleted or moved while the run was writing to it. Nothing more is written; "
                    "checkpoints that are left can be continued with --auto_resume"
                )

    def scalars(self, iteration: int, values: Mapping[str, Any], prefix: str) -> None:
        """Record numbers of one iteration; ``prefix`` groups them in TensorBoard.

        Raises:
            FileNotFoundError: see :meth:`require_files`.
        """
        if not self._enabled:
            return
        self.require_files()
        self._metrics.write(json.dumps({"iteration": iteration, "kind": prefix, **values}) + "\n")
        self._metrics.flush()
        numbers = {
            f"{prefix}/{name}": value for name, value in values.items() if isinstance(value, int | float)
        }
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, iteration)
        if self._wandb is not None:
            self._wandb.log(numbers, step=iteration)

    def images(self, iteration: int, images: Mapping[str, np.ndarray], prefix: str) -> None:
        """Record pictures (H, W, 3) uint8."""
        if self._enabled and self._tensorboard is not None:
            for name, image in images.items():
                self._tensorboard.add_image(f"{prefix}/{name}", image, iteration, dataformats="HWC")

    def samples(
        self,
        iteration: int,
        number: int,
        dataset: str,
        scores: Mapping[str, Mapping[str, float]],
        pictures: Mapping[str, np.ndarray],
        panels: Sequence[str],
    ) -> None:
        """Record scores and pictures of single samples of the last validation, for the report.

        Args:
            iteration: of the validation.
            number: of the data set, whose name may be unfit for a file's.
            dataset: its display name.
            scores: by sample and metric.
            pictures: (H, W, 3) uint8 by sample.
            panels: what stands in each picture from left to right; none: pictures are not recorded.
        """
        if not self._enabled or not self._report:
            return
        place = self._folder / "samples" / str(number)
        shown = pictures if panels else {}
        content = {
            "iteration": iteration,
            "dataset": dataset,
            "scores": scores,
            "pictures": {name: list(panels) for name in shown},
        }
        try:
            for index, picture in enumerate(shown.values()):
                write_image(place / f"{index}.png", picture)
            write_atomically(place.with_suffix(".json"), json.dumps(content).encode(), durable=False)
        except (OSError, ImageError) as error:
            LOG.warning("Scores and pictures for the report could not be written: %s", error)

    def close(self) -> None:
        """Write what is buffered."""
        if not self._enabled:
            return
        self._metrics.close()
        if self._tensorboard is not None:
            # Where the run's folder is gone, the run has said so.
            with suppress(FileNotFoundError):
                self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
        LOG.removeHandler(self._file)
        self._file.close()


class _Stdout:
    """Standard output as it is when a line is written: a live progress bar replaces ``sys.stdout``."""

    def write(self, text: str) -> None:
        sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


def _drop_entries_after(path: Path, iteration: int, validated: bool) -> None:
    if not path.exists():
        return
    last = iteration, validated
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _moment_of(line) <= last]
    write_atomically(path, "".join(line + "\n" for line in kept).encode())


def _moment_of(line: str) -> tuple[float, bool]:
    """Return an entry's iteration and whether it is of its validation, which comes last.

    A line cut short by a crash counts as infinitely late.
    """
    try:
        entry = json.loads(line)
        return entry["iteration"], entry["kind"].startswith("val/")
    except (ValueError, KeyError):
        return float("inf"), True
