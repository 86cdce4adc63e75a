"""The folder of a run: ``experiments/<name>/`` as in BasicSR, never overwritten silently."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import Options, Problem
from .checkpoint import Checkpoint, Checkpointer, CheckpointError, find_checkpoint


def run_folder(options: Options) -> Path:
    """Return the folder of checkpoints and logs."""
    return Path(options.path.experiments_root or Path("experiments") / options.name)


def result_folder(options: Options) -> Path:
    """Return the folder of test results."""
    return Path(options.path.results_root or Path("results") / options.name)


def holds_run(folder: Path) -> bool:
    """Say whether a training run has written to ``folder``."""
    traces = ("metrics.jsonl", "models/*.pth", "training_states/*")
    return any(next(folder.glob(trace), None) is not None for trace in traces)


def starting_point(options: Options, auto_resume: bool) -> tuple[Checkpoint | None, list[str], list[Problem]]:
    """Find what the run continues from.

    Returns:
        The checkpoint (``None``: from the beginning), warnings about damaged newer ones, and problems.
    """
    folder = run_folder(options)
    try:
        if options.path.resume_state is not None:
            state = Path(options.path.resume_state)
            if holds_run(folder) and folder.resolve() not in state.resolve().parents:
                return None, [], [_folder_problem(folder, "path.resume_state")]
            return find_checkpoint(state), [], []
        if auto_resume:
            checkpoint, warnings = Checkpointer(folder).newest()
            return checkpoint, warnings, []
    except CheckpointError as error:
        key = "path.resume_state" if options.path.resume_state is not None else "name"
        return None, [], [Problem(key, str(error), "an intact checkpoint")]
    if holds_run(folder):
        return None, [], [_folder_problem(folder, "name")]
    return None, [], []


def changed_options(saved: str, options: Options) -> list[str]:
    """Return one line for each key that differs between a checkpoint's options and ``options``."""
    before, now = dict(flatten(json.loads(saved))), dict(flatten(json.loads(options.model_dump_json())))
    return [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of everything in nested mappings."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flatten(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _folder_problem(folder: Path, key: str) -> Problem:
    return Problem(
        key,
        f"{folder}, which already holds a run",
        "a new folder",
        f"continue it with --auto_resume, or archive it: mv {folder} {folder}_archived",
    )
