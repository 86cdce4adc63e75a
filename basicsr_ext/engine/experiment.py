"""The folder of a run: ``experiments/<name>/`` as in BasicSR, never overwritten silently."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import Options, Problem, paths
from .checkpoint import (
    Checkpoint,
    Checkpointer,
    CheckpointError,
    ForeignStateError,
    find_checkpoint,
    refuse_foreign,
)


def run_folder(options: Options) -> Path:
    """Return the folder of checkpoints and logs."""
    return paths.run_folder(options.path.experiments_root, options.name)


def result_folder(options: Options) -> Path:
    """Return the folder of test results."""
    return Path(options.path.results_root or "results") / options.name


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
    if _is_run_itself(folder.parent) and not holds_run(folder):
        return None, [], [_root_problem(folder.parent)]
    key = "name"
    try:
        if auto_resume:
            checkpoint, warnings = Checkpointer(folder).newest()
            if checkpoint is not None:
                return checkpoint, warnings, []
            for state in folder.glob("training_states/*.state"):
                refuse_foreign(state)
        if options.path.resume_state is not None:
            key = "path.resume_state"
            state = Path(options.path.resume_state)
            outside = folder.resolve() not in state.resolve().parents
            # Without a checkpoint, a run that began with a state of another one begins with it again.
            if outside and holds_run(folder) and not auto_resume:
                return None, [], [_folder_problem(folder, key)]
            return find_checkpoint(state), [], []
    except ForeignStateError as error:
        fix = f"start a run of another name from its weights: path.pretrain_network_g: {error.weights}"
        return None, [], [Problem(key, str(error), "a state that a run can be continued from exactly", fix)]
    except CheckpointError as error:
        return None, [], [Problem(key, str(error), "an intact checkpoint", _other_checkpoints(folder, key))]
    if holds_run(folder) and not auto_resume:
        return None, [], [_folder_problem(folder, key)]
    return None, [], []


def changed_options(saved: str, options: Options) -> list[str]:
    """Return one line for each key that differs between a checkpoint's options and ``options``.

    A section that only one of them has, such as a validation set that was not there before, is one line.
    """
    return list(_differences(json.loads(saved), json.loads(options.model_dump_json())))


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{above}{name}.")
        elif old != new:
            yield f"{above}{name}: {_given(old)} -> {_given(new)}"


def _given(value: Any) -> Any:
    """Return a section without its empty keys, anything else as it is."""
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else value


def flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of everything in nested mappings."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flatten(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _is_run_itself(folder: Path) -> bool:
    return any(folder.glob("training_states/*.json"))


def _root_problem(root: Path) -> Problem:
    found = f"{root}, which holds the checkpoints of a run itself"
    fix = f"for that run, set it to {root.parent} and name to {root.name}"
    return Problem("path.experiments_root", found, "the folder above the run's", fix)


def _other_checkpoints(folder: Path, key: str) -> str:
    if key == "name" or not Checkpointer(folder).iterations():
        return ""
    return f"--auto_resume continues from the newest one of {folder}"


def _folder_problem(folder: Path, key: str) -> Problem:
    return Problem(
        key,
        f"{folder}, which already holds a run",
        "a new folder",
        f"continue it with --auto_resume, or archive it: mv {folder} {folder}_archived",
    )
