"""A tiny run in which everything random plays a part, started as a real process, watched and killed.

Needs no pytest: ``campaign.py`` beside this file uses it from the command line.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from basicsr_ext.data.images import write_image
from basicsr_ext.engine.checkpoint import Checkpointer

ROOT = Path(__file__).resolve().parents[2]
TOTAL = 48
STAGE_ENDS = (16, 32)
TIMINGS = {"iterations_per_second", "data_wait"}
PATIENCE = 300.0
"""Seconds without an end after which a process counts as hanging."""
_MARK = "CRASH_CAMPAIGN_ATTEMPT"


def make_images(folder: Path) -> None:
    """Write a few pictures for training, one of them cut short, and several for validation."""
    rng = np.random.default_rng(0)
    for side, count, shape in (("train", 6, (48, 56, 3)), ("val", 4, (40, 48, 3))):
        for number in range(count):
            write_image(folder / side / f"{number}.png", rng.integers(0, 256, shape).astype(np.uint8))
    broken = folder / "train/2.png"
    broken.write_bytes(broken.read_bytes()[:-1000])


def options(folder: Path, images: Path, workers: int) -> dict[str, Any]:
    """Return options with drop path, mixup, noise, a bad image, accumulation, averaging, three stages."""
    noise = {"type": "Dataset_GaussianDenoising", "sigma_type": "random", "sigma_range": [0, 50]}
    sizes, stage = (16, 24, 32), TOTAL // 3
    return {
        "name": folder.name,
        "scale": 1,
        "num_gpu": 0,
        "manual_seed": 5,
        "datasets": {
            "train": {
                **noise,
                "dataroot_gt": str(images / "train"),
                "num_worker_per_gpu": workers,
                "on_bad_sample": "skip",
                "stages": [{"iters": stage, "gt_size": size, "batch_size_per_gpu": 2} for size in sizes],
            },
            "val": {**noise, "sigma_test": 25, "dataroot_gt": str(images / "val"), "name": "noisy"},
        },
        "network_g": {
            "type": "EDT",
            "noise_levels": [25],
            "full_resolution": True,
            "window_size": [2, 4],
            "embed_dim": 8,
            "num_feat": 4,
            "depths": [2, 2],
            "num_heads": [2, 2],
            "drop_path_rate": 0.5,
        },
        "path": {"experiments_root": str(folder.parent)},
        "train": {
            "total_iter": TOTAL,
            "warmup_iter": 5,
            "optim_g": {"type": "AdamW", "lr": 2e-3},
            "scheduler": {"type": "MultiStepLR", "milestones": [20, 40], "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss"},
            "mixing_augs": {"mixup": True},
            "grad_accum": 2,
            "grad_clip_norm": 0.5,
            "ema_decay": 0.9,
        },
        "val": {
            "val_freq": 6,
            "save_img": True,
            "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}},
        },
        "logger": {
            "print_freq": 1,
            "save_checkpoint_freq": 4,
            "keep_checkpoints": 3,
            "use_tb_logger": False,
        },
    }


class Attempt:
    """One start of the run, as processes of their own; ``with`` makes sure that none is left.

    Args:
        folder: of the run.
        images: as :func:`make_images` made them.
        ranks: over all nodes.
        workers: of the loader of each rank.
        nodes: agents of torchrun, which find each other on this machine's loopback.
    """

    def __init__(self, folder: Path, images: Path, ranks: int, workers: int, nodes: int = 1) -> None:
        self.folder, self.nodes = folder, nodes
        folder.mkdir(parents=True, exist_ok=True)
        self._mark = uuid.uuid4().hex
        self._output = folder / "output.txt"
        option_file = folder / "victim.yml.in"
        option_file.write_text(yaml.safe_dump(options(folder, images, workers)))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        with self._output.open("wb") as output:
            self._commands = [
                subprocess.Popen(
                    [*launcher, "train.py", "-opt", str(option_file), "--auto_resume"],
                    cwd=ROOT,
                    env={**environment, _MARK: f"{self._mark}.{node}"},
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                for node, launcher in enumerate(_launchers(ranks, nodes))
            ]

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def ended(self) -> bool:
        """Say whether the command, or that of every node, has ended."""
        return all(command.poll() is not None for command in self._commands)

    def wait_until(self, happened: Callable[[], bool], pause: float = 0.01) -> bool:
        """Wait for ``happened``; return False if the command ended first.

        Raises:
            TimeoutError: neither within :data:`PATIENCE` seconds.
        """
        deadline = time.monotonic() + PATIENCE
        while not self.ended():
            if happened():
                return True
            if time.monotonic() > deadline:
                raise TimeoutError(f"no end after {PATIENCE:.0f} s:\n{self.output()[-2000:]}")
            time.sleep(pause)
        return False

    def finish(self) -> int:
        """Wait for the end and return the exit code; of several that of the worst."""
        self.wait_until(lambda: False, pause=0.05)
        return max((command.wait() for command in self._commands), key=abs)

    def processes(self, node: int | None = None) -> list[int]:
        """Return all processes of this attempt, or of a node of it, wherever torchrun has put them."""
        wanted = f"{_MARK}={self._mark}.{'' if node is None else node}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if wanted in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue  # gone, or another user's
        return found

    def kill(self, known: list[int] | None = None) -> None:
        """Send SIGKILL to ``known`` at once, then to whatever else belongs to this attempt."""
        processes = known if known is not None else self.processes()
        while processes:
            for process in processes:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            self.ended()
            processes = [process for process in self.processes() if not _is_zombie(process)]
        for command in self._commands:
            command.wait()

    def lose(self, node: int) -> None:
        """Send SIGKILL to all processes of a node, and wait until those of the others have ended.

        Raises:
            TimeoutError: they go on without it, or hang.
        """
        processes = self.processes(node)
        while processes:
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self.ended()
            processes = [process for process in self.processes(node) if not _is_zombie(process)]
        self.finish()

    def output(self) -> str:
        """Return what the processes have printed."""
        return self._output.read_text(errors="replace")

    def resumed_from(self) -> int | None:
        """Return the iteration the run said it went on from."""
        match = re.search(r"iterations (\d+) to", self.output())
        return int(match[1]) - 1 if match else None

    def iteration(self) -> int:
        """Return the last iteration that was logged by this attempt."""
        found = re.findall(rf"iter (\d+)/{TOTAL} ", self.output())
        return int(found[-1]) if found else 0


def _launchers(ranks: int, nodes: int) -> list[list[str]]:
    """Return what starts the program, on each node."""
    if ranks == 1:
        return [[sys.executable]]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks // nodes}"]
    if nodes == 1:
        return [[*torchrun, "--standalone"]]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun += [f"--nnodes={nodes}", "--master_addr=127.0.0.1", f"--master_port={port}"]
    return [[*torchrun, f"--node_rank={node}"] for node in range(nodes)]


def _is_zombie(process: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True


@dataclass(frozen=True)
class Aim:
    """A moment to kill at: after iteration ``start``, then when ``name``'s event happens."""

    name: str
    start: int
    delay: float

    def hit(self, attempt: Attempt) -> bool:
        """Wait for the moment and kill; return False if the run ended first."""
        if self.name == "start-up":
            ended = not attempt.wait_until(_after(self.delay))
            attempt.kill()
            return not ended
        if not attempt.wait_until(lambda: attempt.iteration() >= self.start):
            return False
        known = attempt.processes()
        pictures = _newest(attempt.folder / "visualization")
        if self.name.startswith("node"):
            attempt.wait_until(_after(self.delay))
            attempt.lose(int(self.name.split()[1]))
            return True
        events: dict[str, Callable[[], bool]] = {
            "anywhere": _after(self.delay),
            "checkpoint": lambda: bool(temporary_files(attempt.folder)),
            "validation": lambda: _newest(attempt.folder / "visualization") > pictures,
            "stage": lambda: attempt.iteration() in STAGE_ENDS,
        }
        # A temporary file is there for a millisecond.
        ended = not attempt.wait_until(events[self.name], 0.0002 if self.name == "checkpoint" else 0.002)
        attempt.kill(known)
        return not ended


def draw_aim(rng: random.Random, newest: int, pace: int, nodes: int = 1) -> Aim:
    """Draw where to kill a run next whose newest checkpoint is of iteration ``newest``."""
    names = ["anywhere", "anywhere", "checkpoint", "checkpoint", "validation", "start-up"]
    names += [f"node {node} alone" for node in range(nodes)] * (nodes > 1)
    start = newest + rng.randint(1, 2 * pace)
    ahead = [end for end in STAGE_ENDS if newest < end <= newest + 2 * pace]
    name = rng.choice(names + ["stage"] * (3 * len(ahead)))
    if name == "stage":
        start = ahead[0] - 1
    return Aim(name, min(start, TOTAL - 1), rng.uniform(0, 5.0 if name == "start-up" else 0.15))


def temporary_files(folder: Path) -> list[str]:
    """Return the files of ``folder`` that are being written, or were when the run was killed."""
    return [
        entry.name
        for part in ("models", "training_states", ".")
        if (folder / part).is_dir()
        for entry in os.scandir(folder / part)
        if entry.name.startswith(".") or entry.name.endswith(".tmp")
    ]


def left_behind(folder: Path) -> str:
    """Say what a kill in the middle of a checkpoint has left: parts that no manifest names."""
    found = ["temporary file"] * bool(temporary_files(folder))
    manifests = {path.stem for path in folder.glob("training_states/*.json")}
    files = {*folder.glob("models/net_g_*.pth"), *folder.glob("training_states/*.state")}
    numbers = {path.stem.rpartition("_")[2] for path in files}
    found += ["files without manifest"] * bool({n for n in numbers if n.isdigit()} - manifests)
    return ", ".join(found)


def final_state(folder: Path) -> dict[str, Any]:
    """Return everything that has to be the same however often a run was killed, by name."""
    checkpoint = Checkpointer(folder).load(TOTAL)
    labels = {
        label: torch.load(folder / f"models/net_g_{label}.pth", weights_only=True)
        for label in ("latest", "best")
    }
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in line.items() if key not in TIMINGS} for line in metrics]
    # Folders and numbers of workers are written in the options, and differ on purpose.
    state = {key: value for key, value in checkpoint.state.items() if key != "options"}
    return dict(_flatten({"networks": checkpoint.networks, "state": state, "log": log, **labels}))


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return the names under which two final states differ by as much as a bit."""
    return sorted(
        name
        for name in expected.keys() | found.keys()
        if name not in expected or name not in found or expected[name] != found[name]
    )


def _flatten(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        yield f"{name}.length", len(value)
        for position, inner in enumerate(value):
            yield from _flatten(inner, f"{name}.{position}")
    elif isinstance(value, torch.Tensor):
        # Bytes: 0 and -0 differ, a NaN equals itself.
        yield name, (str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes())
    else:
        yield name, repr(value)


def _after(seconds: float) -> Callable[[], bool]:
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() >= moment


def _newest(folder: Path) -> int:
    return max((path.stat().st_mtime_ns for path in folder.rglob("*.png")), default=0)
