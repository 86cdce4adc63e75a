"""Checkpoints that survive a crash: BasicSR's file names, atomic writes, verified reads.

One checkpoint is three files of the run's folder::

    models/net_g_<iter>.pth            {"params": …, "params_ema": …}, loads in BasicSR, spandrel, chaiNNer;
                                       which network it is stands beside: inference/description.py
    training_states/<iter>.state       optimizer, loss scaler, random generators of all ranks, best metrics
    training_states/<iter>.json        manifest: SHA-256 of both and of the options; written last

A checkpoint without a manifest does not exist; one whose files do not match it is damaged.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import make_folder, remove_leftovers, write_atomically
from .logger import LOG


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not match its manifest."""


class ForeignStateError(CheckpointError):
    """A training state that BasicSR itself has written; ``weights`` is the file of the same iteration."""

    def __init__(self, state: Path) -> None:
        self.weights = state.parent.parent / f"models/net_g_{state.stem}.pth"
        super().__init__(
            f"{state}, which BasicSR itself has written: it holds optimizers and schedules, but neither the"
            " random generators nor how far the images have been gone through"
        )


@dataclass(frozen=True)
class Checkpoint:
    """What was read back: an iteration, the networks' file content and the training state."""

    iteration: int
    networks: dict[str, dict[str, Any]]
    state: dict[str, Any]


class Checkpointer:
    """Writes and finds the checkpoints of one run.

    Writing happens in the background: :meth:`save` returns once the tensors are copied to host memory,
    and a failed write raises at the next call of :meth:`save`, :meth:`raise_failure` or :meth:`finish`.

    Args:
        folder: the run's folder, ``experiments/<name>``.
        keep: number of newest checkpoints to keep; ``None``: all.
    """

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        self.folder = folder
        self._keep = keep
        self._models = folder / "models"
        self._states = folder / "training_states"
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: list[Future[Any]] = []

    def save(
        self, iteration: int, networks: Mapping[str, Mapping[str, Any]], state: Mapping[str, Any]
    ) -> None:
        """Write a checkpoint, then remove those that ``keep`` no longer covers.

        Args:
            iteration: number of finished iterations.
            networks: file content by network name, ``{"net_g": {"params": state_dict, …}}``.
            state: tensors and plain values only; ``options``, if there, is the run's option file as
                text.

        Raises:
            OSError: an earlier write failed (disk full, no permission); what was written before is intact.
        """
        self.finish()
        files = {self._network_path(name, iteration): _on_host(content) for name, content in networks.items()}
        files[self._states / f"{iteration}.state"] = _on_host({"iter": iteration, **state})
        options_digest = hashlib.sha256(state.get("options", "").encode()).hexdigest()
        self._pending.append(self._writer.submit(self._write, iteration, files, options_digest))

    def save_networks(self, label: str, networks: Mapping[str, Mapping[str, Any]]) -> None:
        """Write weights alone, as ``models/<name>_<label>.pth``."""
        self.raise_failure()
        for name, content in networks.items():
            path = self._network_path(name, label)
            self._pending.append(self._writer.submit(_save, path, _on_host(content)))

    def raise_failure(self) -> None:
        """Raise what went wrong in a finished write, without waiting for unfinished ones."""
        while self._pending and self._pending[0].done():
            self._pending.pop(0).result()

    def finish(self) -> None:
        """Wait until everything is written.

        Raises:
            OSError: a write failed.
        """
        while self._pending:
            self._pending.pop(0).result()

    def remove_leftovers(self) -> None:
        """Remove what writes cut short by a crash have left."""
        for folder in (self.folder, self._models, self._states):
            remove_leftovers(folder)

    def set_newer_aside(self, iteration: int) -> Path | None:
        """Move what lies beyond ``iteration`` to a folder of its own, from which it can be continued.

        Logs and weights without an iteration are copied.

        Returns:
            The folder, laid out like the run's, or ``None`` if there was nothing.
        """
        patterns = ("*.jsonl", "models/*.pth", "training_states/*.state", "training_states/*.json")
        files = {path: _iteration_of(path) for pattern in patterns for path in self.folder.glob(pattern)}
        newer = [
            (number, path) for path, number in files.items() if number is not None and number > iteration
        ]
        if not newer:
            return None
        aside = self.folder / f"newer_than_{iteration}_{time.strftime('%Y%m%d_%H%M%S')}"
        for folder in (self._models, self._states):
            make_folder(aside / folder.name)
        for path in (path for path, number in files.items() if number is None):
            shutil.copy2(path, aside / path.relative_to(self.folder))
        # The newest goes first, and its manifest before the rest: without it, that is no checkpoint.
        for _, path in sorted(newer, key=lambda file: (-file[0], file[1].suffix != ".json")):
            path.rename(aside / path.relative_to(self.folder))
        return aside

    def iterations(self) -> list[int]:
        """Return the iterations of all checkpoints with a manifest, oldest first."""
        return sorted(int(path.stem) for path in self._states.glob("*.json") if path.stem.isdigit())

    def newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest checkpoint that matches its manifest, and what was wrong with newer ones.

        Raises:
            CheckpointError: there are checkpoints, but none is intact.
        """
        warnings: list[str] = []
        for iteration in reversed(self.iterations()):
            try:
                return self.load(iteration), warnings
            except CheckpointError as error:
                warnings.append(str(error))
        if warnings:
            raise CheckpointError("no intact checkpoint is left: " + "; ".join(warnings))
        return None, warnings

    def load(self, iteration: int) -> Checkpoint:
        """Read and verify the checkpoint of ``iteration``.

        Raises:
            CheckpointError: it is missing, damaged, or holds anything but tensors and plain values.
        """
        manifest_path = self._manifest(iteration)
        try:
            digests: dict[str, str] = json.loads(manifest_path.read_bytes())["sha256"]
            contents = {name: _load(self.folder / name, digest) for name, digest in digests.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{manifest_path}: not a readable manifest ({error})") from error
        states = [content for name, content in contents.items() if name.endswith(".state")]
        if len(states) != 1:
            raise CheckpointError(f"{manifest_path}: names {len(states)} training states, expected 1")
        suffix = f"_{iteration}.pth"
        networks = {
            Path(name).name.removesuffix(suffix): content
            for name, content in contents.items()
            if name.endswith(suffix)
        }
        if not networks:
            raise CheckpointError(f"{manifest_path}: names no network of iteration {iteration}")
        return Checkpoint(iteration, networks, states[0])

    def _write(self, iteration: int, files: Mapping[Path, Mapping[str, Any]], options_digest: str) -> None:
        digests = {
            str(path.relative_to(self.folder)): _save(path, content) for path, content in files.items()
        }
        manifest = {"iteration": iteration, "sha256": digests, "options_sha256": options_digest}
        write_atomically(self._manifest(iteration), json.dumps(manifest, indent=1).encode())
        self._prune()
        LOG.info("Saved checkpoint %d", iteration)

    def _prune(self) -> None:
        if self._keep is None:
            return
        for iteration in self.iterations()[: -self._keep]:
            # The manifest goes first: without it, what is left is not taken for a checkpoint.
            self._manifest(iteration).unlink(missing_ok=True)
            (self._states / f"{iteration}.state").unlink(missing_ok=True)
            for path in self._models.glob(f"*_{iteration}.pth"):
                path.unlink(missing_ok=True)

    def _network_path(self, name: str, label: int | str) -> Path:
        return self._models / f"{name}_{label}.pth"

    def _manifest(self, iteration: int) -> Path:
        return self._states / f"{iteration}.json"


def _iteration_of(path: Path) -> int | None:
    """Return the iteration that a file's name ends with, if there is one."""
    number = path.stem.rpartition("_")[2]
    return int(number) if number.isdecimal() else None


def find_checkpoint(state_path: Path) -> Checkpoint:
    """Read the checkpoint that ``…/training_states/<iter>.state`` belongs to.

    Raises:
        ForeignStateError: it is none of ours.
        CheckpointError: the path is not of that form, or the checkpoint is damaged.
    """
    if not (state_path.suffix == ".state" and state_path.stem.isdigit()):
        raise CheckpointError(f"{state_path}: expected a file such as training_states/5000.state")
    if not state_path.with_suffix(".json").exists():
        refuse_foreign(state_path)
    return Checkpointer(state_path.resolve().parent.parent).load(int(state_path.stem))


def refuse_foreign(state_path: Path) -> None:
    """Raise :class:`ForeignStateError` if a state is what BasicSR's ``save_training_state`` writes."""
    try:
        content = torch.load(state_path, map_location="cpu", weights_only=True)
    except Exception:  # whatever is wrong with it, that is said elsewhere
        return
    if isinstance(content, dict) and content.keys() == {"epoch", "iter", "optimizers", "schedulers"}:
        raise ForeignStateError(state_path)


def seed_random_generators(seed: int) -> None:
    """Set every global random generator of this process to where ``seed`` leads."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of every global random generator of this process, as tensors and plain values."""
    name, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.array(keys, dtype=np.int64)), *rest),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set every global random generator of this process to what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def _on_host(value: Any) -> Any:
    """Return nested ``value`` with every tensor copied to host memory, so that training may go on."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _on_host(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_host(inner) for inner in value)
    return value


def _save(path: Path, content: Mapping[str, Any]) -> str:
    """Write ``content`` and return its SHA-256."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    data = buffer.getvalue()
    write_atomically(path, data)
    return hashlib.sha256(data).hexdigest()


def _load(path: Path, digest: str) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f"{path}: damaged, its checksum does not match the manifest")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # its checksum is right, so it was made by someone else
        raise CheckpointError(f"{path}: refused, holds more than tensors and plain values") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not named values")
    return content
