"""Does anything grow in a long run? Train a tiny network and watch its processes from outside.

    python benchmarks/long_run.py --iterations 20000

Starts train.py on generated images with loader workers, checkpoints and validation, and records over time
the resident memory of the main process and of the workers, open file descriptors, shared memory, and the
size of the log files. After a warm-up of a quarter of the run nothing may grow; exits with 1 if it does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from basicsr_ext.data.images import write_image

ROOT = Path(__file__).resolve().parents[1]

WARM_UP = 0.25
"""Share of the run in which caches and allocators may still grow."""
ROWS = 12
MIB = 2**20


@dataclass(frozen=True)
class Reading:
    """One look at the run: memory in bytes, log size in bytes for each logged iteration."""

    iteration: int
    main_memory: int
    worker_memory: int
    descriptors: int
    shared_memory: int
    log_rate: float


TOLERANCE = {
    "main_memory": 8 * MIB,
    "worker_memory": 8 * MIB,
    "descriptors": 2,
    "shared_memory": 1 * MIB,
}
"""How far the end of a run may lie above its middle before it counts as growth."""
LOG_TOLERANCE = 0.1
"""The same for the log's size per report, as a share of it: pictures come in lumps."""


def allowed(readings: Sequence[Reading]) -> dict[str, float]:
    """Return how much each quantity may rise."""
    return {**TOLERANCE, "log_rate": LOG_TOLERANCE * median(reading.log_rate for reading in readings)}


def growing(readings: Sequence[Reading]) -> list[str]:
    """Return the quantities that rose by more than is allowed."""
    limits = allowed(readings)
    return [name for name, value in growth(readings).items() if value > limits[name]]


def growth(readings: Sequence[Reading]) -> dict[str, float]:
    """Return by how much the median of each quantity rose from the first to the last third after warm-up."""
    last = readings[-1].iteration
    settled = [reading for reading in readings if reading.iteration >= WARM_UP * last]
    third = max(len(settled) // 3, 1)
    return {
        name: median(getattr(reading, name) for reading in settled[-third:])
        - median(getattr(reading, name) for reading in settled[:third])
        for name in (*TOLERANCE, "log_rate")
    }


def watch(folder: Path, iterations: int, workers: int, interval: float) -> list[Reading]:
    """Run the training to its end, taking a reading every ``interval`` seconds.

    Raises:
        ChildProcessError: the run failed.
    """
    make_images(folder / "images")
    option_file = folder / "options.yml"
    option_file.write_text(yaml.safe_dump(options(folder, iterations, workers)))
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "train.py", "-opt", str(option_file)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        readings: list[Reading] = []
        try:
            while process.poll() is None:
                reading = read(process.pid, folder / "run", workers)
                if reading is not None and (not readings or reading.iteration > readings[-1].iteration):
                    readings.append(reading)
                time.sleep(interval)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise ChildProcessError((folder / "output.txt").read_text()[-3000:])
    return readings


def read(process: int, run: Path, workers: int) -> Reading | None:
    """Look at a running training; ``None`` while it starts or ends."""
    lines, size = _log(run)
    children = _children(process)
    if not lines or len(children) != workers:
        return None
    try:
        return Reading(
            iteration=lines * PRINT_FREQ,
            main_memory=_resident(process),
            worker_memory=sum(map(_resident, children)),
            descriptors=sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (process, *children)),
            shared_memory=_shared_memory(),
            log_rate=size / lines,
        )
    except (OSError, LookupError):
        return None


PRINT_FREQ = 10


def options(folder: Path, iterations: int, workers: int) -> dict[str, Any]:
    """Return options in which everything a long run does happens often."""
    noise = {"type": "Dataset_GaussianDenoising", "sigma_type": "constant", "sigma_range": 25}
    images = str(folder / "images")
    stages = [(iterations // 2, 8, 2), (iterations - iterations // 2, 16, 1)]
    return {
        "name": "run",
        "num_gpu": 0,
        "datasets": {
            "train": {
                **noise,
                "dataroot_gt": images,
                "num_worker_per_gpu": workers,
                "stages": [{"iters": n, "gt_size": s, "batch_size_per_gpu": b} for n, s, b in stages],
            },
            "val": {**noise, "sigma_test": 25, "dataroot_gt": images, "name": "noisy"},
        },
        "network_g": {
            "type": "EDT",
            "noise_levels": [25],
            "full_resolution": True,
            "window_size": [2, 4],
            "embed_dim": 4,
            "num_feat": 2,
            "depths": [1],
            "num_heads": [2],
        },
        "path": {"experiments_root": str(folder)},
        "train": {
            "total_iter": iterations,
            "optim_g": {"type": "Adam", "lr": 1e-3},
            "pixel_opt": {"type": "L1Loss"},
            "ema_decay": 0.99,
        },
        "val": {
            "val_freq": max(iterations // 100, 50),
            "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}},
        },
        "logger": {
            "print_freq": PRINT_FREQ,
            "save_checkpoint_freq": max(iterations // 100, 50),
            "keep_checkpoints": 3,
        },
    }


def make_images(folder: Path) -> None:
    """Write a few small pictures of noise."""
    rng = np.random.default_rng(0)
    for number in range(4):
        write_image(folder / f"{number}.png", rng.integers(0, 256, (24, 24, 3)).astype(np.uint8))


def print_table(readings: Sequence[Reading]) -> None:
    """Print a dozen of the readings, and what has grown."""
    grown, limits = growth(readings), allowed(readings)
    table = Table(box=box.SIMPLE)
    for field in fields(Reading):
        table.add_column(field.name.replace("_", " "), justify="right")
    step = max(len(readings) // ROWS, 1)
    for reading in [*readings[::step], readings[-1]]:
        table.add_row(*map(_shown, (field.name for field in fields(Reading)), astuple(reading)))
    table.add_section()
    table.add_row("growth", *(_shown(name, value) for name, value in grown.items()))
    table.add_row("allowed", *(_shown(name, limits[name]) for name in grown))
    Console(highlight=False, width=None if sys.stdout.isatty() else 120).print(table)


def _shown(name: str, value: float) -> str:
    if name.endswith("memory"):
        return f"{value / MIB:.1f} MiB"
    return f"{value:,.1f} B" if name == "log_rate" else f"{value:,.0f}"


def _log(run: Path) -> tuple[int, int]:
    """Return the number of reports and the size of everything written for people."""
    metrics = run / "metrics.jsonl"
    if not metrics.exists():
        return 0, 0
    with metrics.open("rb") as file:
        lines = sum(b'"kind": "train"' in line for line in file)
    logs = [metrics, *run.glob("*.log"), *run.glob("tb_logger/*")]
    return lines, sum(path.stat().st_size for path in logs)


def _children(process: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{process}/task").glob("*/children")
        for child in task.read_text().split()
    ]


def _resident(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["VmRSS"].split()[0]) * 1024


def _shared_memory() -> int:
    """Return what this user's files in /dev/shm take."""
    total = 0
    for entry in os.scandir("/dev/shm"):
        try:
            total += entry.stat().st_size if entry.stat().st_uid == os.getuid() else 0
        except FileNotFoundError:
            continue
    return total


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=20_000, help="default: 20000")
    parser.add_argument("--workers", type=int, default=2, help="loader processes; default: 2")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between readings; default: 1")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="long_run_") as folder:
        start = time.monotonic()
        readings = watch(Path(folder), given.iterations, given.workers, given.interval)
        seconds = time.monotonic() - start
    print_table(readings)
    print(f"{given.iterations:,} iterations in {seconds:.0f} s, {len(readings)} readings")
    excess = growing(readings)
    print(f"GROWING: {', '.join(excess)}" if excess else "nothing grows")
    return int(bool(excess))


if __name__ == "__main__":
    raise SystemExit(main())
