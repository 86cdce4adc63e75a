"""``events.jsonl``: when a run was started, resumed and ended, where, and with what."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .logger import LOG
from .trainer import Trainer

_PACKAGES = ("basicsr_ext", "torch", "torchvision", "basicsr", "numpy", "opencv-python")


@contextmanager
def recorded(trainer: Trainer) -> Iterator[None]:
    """Record the start of a run, or of its continuation, and how it ends; a killed one has no end."""
    _record(trainer.folder, "start", trainer, environment=environment(trainer))
    try:
        yield
    except BaseException as error:
        # The folder may be what is missing: the error tells then.
        if trainer.folder.is_dir():
            _record(trainer.folder, "end", trainer, reason=f"{type(error).__name__}: {error}")
        raise
    _record(trainer.folder, "end", trainer, reason="finished", peak_memory_bytes=_peak_memory(trainer))


def environment(trainer: Trainer) -> dict[str, Any]:
    """Return what a run's speed and rounding depend on besides its options."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    world = trainer.world
    on_gpu = world.device.type == "cuda"
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(world.device) if on_gpu else f"CPU, {platform.machine()}",
        "processes": world.size,
        "threads": torch.get_num_threads(),
        **({"CUDA": str(torch.version.cuda)} if on_gpu else {}),
        **versions,
    }


def _record(folder: Path, event: str, trainer: Trainer, **values: Any) -> None:
    entry = {
        "event": event,
        "iteration": trainer.iteration,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        **values,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:  # a run is not lost for a line about it
        LOG.warning("The %s of the run could not be recorded: %s", event, error)


def _peak_memory(trainer: Trainer) -> int | None:
    """Return the most memory this process has held: of the GPU, else of the machine."""
    if trainer.world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(trainer.world.device)
    if sys.platform == "win32":
        return None
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
