"""Option files small enough for tests: real networks, real photographs, seconds of training."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
# Results are the same to the bit only with the same number of threads.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

TINY_EDT: dict[str, Any] = {
    "type": "EDT",
    "scales": [2],
    "window_size": [2, 8],
    "num_feat": 4,
    "embed_dim": 12,
    "depths": [2],
    "num_heads": [2],
    "upsampler": "pixelshuffledirect",
}


def tiny_options(folder: Path, **train: Any) -> dict[str, Any]:
    """Return options for a tiny EDT x2 in three stages, whose run is in ``folder``; ``train`` adds keys."""
    return {
        "name": folder.name,
        "scale": 2,
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {
            "train": {
                "type": "SampleImages",
                "num_worker_per_gpu": 0,
                "stages": [
                    {"iters": 3, "gt_size": 16, "batch_size_per_gpu": 4},
                    {"iters": 2, "gt_size": 32, "batch_size_per_gpu": 2},
                    {"iters": 3, "gt_size": 48, "batch_size_per_gpu": 2},
                ],
            },
            "val": {"type": "SampleImages", "split": "val", "name": "photos"},
        },
        "network_g": {**TINY_EDT, "drop_path_rate": 0.0},
        "path": {"experiments_root": str(folder.parent)},
        "train": {
            "total_iter": 8,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "scheduler": {"type": "MultiStepLR", "milestones": [5], "gamma": 0.5},
            "pixel_opt": {"type": "L1Loss"},
            "ema_decay": 0.9,
            **train,
        },
        "val": {
            "val_freq": 8,
            "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}},
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 4, "use_tb_logger": False, "report": False},
    }


def run_command(
    *arguments: str | Path,
    timeout: float = 300,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command, by default in the repository's root, on one thread a process."""
    return subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env={**ENVIRONMENT, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def same_bits(a: Any, b: Any) -> bool:
    """Say whether nested values are equal, tensors to the last bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_bits(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same_bits, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return a == b


def start_ranks(options_files: Sequence[Path], *arguments: str) -> tuple[list[int], list[str]]:
    """Train with one rank a file, as on nodes that have a file each; return exit codes and outputs."""
    return start_processes([["train.py", "-opt", str(file), *arguments] for file in options_files])


def start_processes(commands: Sequence[Sequence[str]]) -> tuple[list[int], list[str]]:
    """Run Python with each rank's arguments, as ranks of one run; return exit codes and outputs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**ENVIRONMENT, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    return [process.returncode for process in processes], outputs
