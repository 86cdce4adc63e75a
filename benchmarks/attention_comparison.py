"""Does attention differ? Train every token mixer in one body, with as many parameters, on the same data.

    python benchmarks/attention_comparison.py run --mixer swin --task sr_x2 --seed 0
    python benchmarks/attention_comparison.py all --jobs 2            # every run that has no record yet
    python benchmarks/attention_comparison.py all --share 1/4         # the second quarter of them
    python benchmarks/attention_comparison.py report                  # writes docs/attention_comparison.md

A run is one process, goes on where it was stopped, and leaves one record (JSON). All runs differ in nothing
but mixer, task and seed: mixers have the arguments they come with, and learning rate, schedule, batches and
crops are the same for all. The width (a multiple of four) and the hidden width of the feed-forward networks
are chosen so that parameters are equal within 5 %: of the widths that allow that, the one whose feed-forward
ratio is nearest to 2.

With its defaults a comparison is 66 runs. An iteration of each of the eleven mixers, one after the other,
takes 3.3 s of CPU time on a thread of an AMD EPYC that other programs keep busy: about 40 minutes on two
cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch

import basicsr_ext as bx
from basicsr_ext.archs.counting import count as counted
from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.data.sample_dataset import SPLITS
from basicsr_ext.files import write_atomically
from basicsr_ext.registry import MIXERS

ROOT = Path(__file__).resolve().parents[1]
TASKS = {"sr_x2": 2, "denoise_25": 1}
"""Scale of each task."""
DEPTHS = [4]
PATCH = 48
"""Side of the patches that networks see in training; windows of all mixers tile or extend them."""
TOLERANCE = 0.05
_PIECE = 4 * PATCH


@dataclass(frozen=True)
class Settings:
    """What all runs of a comparison share.

    Attributes:
        iterations: of training.
        batch: patches an iteration.
        parameters: aimed at.
        data: folder of training images; empty: photographs that come with scikit-image.
        val_data: folder of images to evaluate on; empty: pieces of others of those.
        threads: of the CPU.
        device: "cpu" or "cuda".
    """

    iterations: int = 200
    batch: int = 4
    parameters: int = 110_000
    data: str = ""
    val_data: str = ""
    threads: int = 1
    device: str = "cpu"


# --- what is compared ------------------------------------------------------------------------------


@cache
def network(mixer: str, task: str, parameters: int) -> dict[str, Any]:
    """Return the network of a mixer that has about so many parameters.

    Raises:
        ValueError: no width gives them within the tolerance.
    """
    candidates = []
    for dim in range(12, 200, 4):
        opt = _network(mixer, task, dim, 2.0)
        found = count(opt)
        if found > 2 * parameters:
            break
        # Each hidden channel has 2 dim weights and a bias in every block.
        hidden = 2 * dim + round((parameters - found) / (sum(DEPTHS) * (2 * dim + 1)))
        opt = _network(mixer, task, dim, hidden / dim)
        if 0.5 * dim < hidden < 4 * dim and abs(count(opt) / parameters - 1) <= TOLERANCE:
            candidates.append((abs(hidden / dim - 2), opt))
    if not candidates:
        raise ValueError(f"no width gives {mixer} {parameters} parameters within {TOLERANCE:.0%}")
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _network(mixer: str, task: str, dim: int, ratio: float) -> dict[str, Any]:
    return {
        "type": "AttentionRestorer",
        "mixer": mixer,
        # Rounded up by less than a channel, as the hidden width is rounded down.
        "feed_forward": {"type": "mlp", "ratio": round(ratio + 1e-4, 4)},
        "upscale": TASKS[task],
        "dim": dim,
        "depths": DEPTHS,
    }


def count(opt: dict[str, Any]) -> int:
    """Return how many parameters a network has."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in bx.build_network(opt).parameters())


def options(mixer: str, task: str, seed: int, settings: Settings, folder: Path) -> dict[str, Any]:
    """Return the options of one run."""
    scale = TASKS[task]
    degradation = (
        [{"type": "matlab_bicubic", "scale": scale}]
        if scale > 1
        else [{"type": "gaussian_noise", "sigma": 25}]
    )

    def images(folder: str) -> dict[str, Any]:
        if not folder:
            return {"type": "SampleImages", "split": "train", "degradation": degradation}
        return {"type": "PairedImageDataset", "dataroot_gt": folder, "degradation": degradation}

    return {
        "name": f"{mixer}_{task}_{seed}",
        "scale": scale,
        "num_gpu": int(settings.device == "cuda"),
        "manual_seed": seed,
        "datasets": {
            "train": {
                **images(settings.data),
                "num_worker_per_gpu": 0,
                "gt_size": PATCH * scale,
                "batch_size_per_gpu": settings.batch,
                "use_hflip": True,
                "use_rot": True,
            },
            "val": {**images(settings.val_data or str(folder / "pieces")), "name": "val"},
        },
        "network_g": network(mixer, task, settings.parameters),
        "path": {"experiments_root": str(folder)},
        "train": {
            "total_iter": settings.iterations,
            "warmup_iter": settings.iterations // 20,
            "grad_clip_norm": 1.0,
            "optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99]},
            "scheduler": {
                "type": "CosineAnnealingRestartLR",
                "periods": [settings.iterations],
                "restart_weights": [1],
                "eta_min": 1e-5,
            },
            "pixel_opt": {"type": "L1Loss"},
        },
        "val": {
            "val_freq": max(settings.iterations // 5, 1),
            "tile": _PIECE,
            "tile_overlap": 16,
            "metrics": {
                "psnr": {"type": "calculate_psnr", "crop_border": scale, "test_y_channel": scale > 1}
            },
        },
        "logger": {
            "print_freq": max(settings.iterations // 5, 1),
            "save_checkpoint_freq": max(settings.iterations // 4, 1),
            "keep_checkpoints": 1,
            "use_tb_logger": False,
        },
    }


def make_pieces(folder: Path) -> None:
    """Write two pieces of each photograph for validation: whole ones would take longer than the training."""
    import skimage

    for name in SPLITS["val"]:
        image = read_image(Path(skimage.__file__).parent / "data" / name)
        row = (len(image) - _PIECE) // 2
        for number, column in enumerate((0, image.shape[1] - _PIECE)):
            piece = image[row : row + _PIECE, column : column + _PIECE]
            write_image(folder / f"{Path(name).stem}_{number}.png", piece)


# --- one run ---------------------------------------------------------------------------------------


def run(mixer: str, task: str, seed: int, settings: Settings, folder: Path) -> dict[str, Any]:
    """Train once and return the record."""
    torch.set_num_threads(settings.threads)
    opt = network(mixer, task, settings.parameters)
    cost = measured_cost(opt, settings)
    if not settings.val_data:
        make_pieces(folder / "pieces")
    started = time.perf_counter()
    summary = bx.train(bx.load_options(options(mixer, task, seed, settings, folder)), auto_resume=True)
    lines = [json.loads(line) for line in (summary.folder / "metrics.jsonl").read_text().splitlines()]
    scored = [line for line in lines if line["kind"] == "val/val"]
    return {
        "mixer": mixer,
        "task": task,
        "seed": seed,
        "settings": asdict(settings),
        "network": opt,
        "parameters": count(opt),
        "multiply_adds": multiply_adds(opt),
        **cost,
        "wall_seconds": round(time.perf_counter() - started, 1),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if settings.device == "cuda" else processor(),
        "bicubic": scored[-1].get("bicubic_psnr"),
        "curve": [{"iteration": line["iteration"], "psnr": line["psnr"]} for line in scored],
    }


def measured_cost(opt: dict[str, Any], settings: Settings, repeats: int = 7) -> dict[str, float]:
    """Return seconds of a forward and backward pass of one batch, and what memory it adds to the process.

    With one CPU thread the time is that of the processor, which other programs disturb little.
    """
    torch.manual_seed(0)
    before = _memory(settings.device)
    net = bx.build_network(opt).to(settings.device)
    x = torch.rand(settings.batch, 3, PATCH, PATCH, device=settings.device)
    alone = settings.device == "cpu" and settings.threads == 1
    clock = time.process_time if alone else time.perf_counter
    times = []
    for _ in range(repeats + 2):
        net.zero_grad()
        start = clock()
        net(x).abs().mean().backward()
        if settings.device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return {
        "seconds_per_iteration": round(median(times[2:]), 4),
        "peak_megabytes": round((_memory(settings.device, peak=True) - before) / 2**20, 1),
    }


def _memory(device: str, peak: bool = False) -> int:
    """Return the memory in use, or the most there was since the last call for that, in bytes."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats() if not peak else None
        return torch.cuda.max_memory_allocated()
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def multiply_adds(opt: dict[str, Any]) -> int:
    """Return the multiply-adds of one patch; every product of matrices and every convolution counts."""
    return counted(bx.build_network(opt), (3, PATCH, PATCH)).multiply_adds


def processor() -> str:
    """Return the name of the CPU."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"


# --- all runs --------------------------------------------------------------------------------------


def record_file(records: Path, mixer: str, task: str, seed: int) -> Path:
    """Return where the record of a run is kept."""
    return records / f"{task}-{mixer}-{seed}.json"


def missing(
    arguments: argparse.Namespace, mixers: list[str], tasks: list[str], seeds: int
) -> Iterator[tuple[str, str, int]]:
    """Yield this machine's share of the runs without a record; all mixers of a seed before the next seed."""
    part, parts = (int(number) for number in arguments.share.split("/"))
    runs = [(mixer, task, seed) for seed in range(seeds) for task in tasks for mixer in mixers]
    for mixer, task, seed in itertools.islice(runs, part, None, parts):
        if not record_file(arguments.records, mixer, task, seed).is_file():
            yield mixer, task, seed


def run_all(arguments: argparse.Namespace) -> int:
    """Start a process for each missing run, so many at a time; return how many failed."""
    runs = list(missing(arguments, arguments.mixers, arguments.tasks, arguments.seeds))
    passed_on = [
        f"--{name.replace('_', '-')}={getattr(arguments, name)}"
        for name in (*Settings.__dataclass_fields__, "records", "work")
    ]

    def start(chosen: tuple[str, str, int]) -> int:
        mixer, task, seed = chosen
        command = [sys.executable, __file__, "run", *passed_on]
        command += ["--mixer", mixer, "--task", task, "--seed", str(seed)]
        # Threads of one run must not wait for those of another.
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        begun = time.perf_counter()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        failed = done.returncode != 0
        print(f"{task} {mixer} seed {seed}: {'failed' if failed else 'done'}, ", end="")
        print(f"{time.perf_counter() - begun:.0f} s", flush=True)
        if failed:
            print(done.stderr[-2000:], flush=True)
        return int(failed)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        return sum(pool.map(start, runs))


def main() -> int:
    """Run, run all, or report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["run", "all", "report"])
    defaults = Settings()
    parser.add_argument("--iterations", type=int, default=defaults.iterations)
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--parameters", type=int, default=defaults.parameters)
    parser.add_argument("--data", default="", help="folder of training images; default: SampleImages")
    parser.add_argument("--val-data", default="", help="folder of images to evaluate on; likewise")
    parser.add_argument("--threads", type=int, default=defaults.threads)
    parser.add_argument("--device", choices=["cpu", "cuda"], default=defaults.device)
    parser.add_argument("--records", type=Path, default=ROOT / "benchmarks/records/attention")
    parser.add_argument("--work", type=Path, default=ROOT / "experiments/attention_comparison")
    parser.add_argument("--mixer", choices=MIXERS.names(), help="run: which one")
    parser.add_argument("--task", choices=list(TASKS), help="run: which one")
    parser.add_argument("--seed", type=int, default=0, help="run: which one")
    parser.add_argument("--mixers", nargs="+", default=MIXERS.names(), help="all: default: every one")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS), help="all")
    parser.add_argument("--seeds", type=int, default=3, help="all: how many")
    parser.add_argument("--jobs", type=int, default=1, help="all: processes at a time")
    parser.add_argument("--share", default="0/1", help="all: which part of how many, such as 1/4")
    parser.add_argument("--page", type=Path, default=ROOT / "docs/attention_comparison.md", help="report")
    arguments = parser.parse_args()
    if arguments.command == "report":
        from attention_report import write_report

        write_report(arguments.records, arguments.page)
        return 0
    if arguments.command == "all":
        return run_all(arguments)
    if arguments.mixer is None or arguments.task is None:
        parser.error("run: --mixer and --task are needed")
    chosen = (arguments.mixer, arguments.task, arguments.seed)
    file = record_file(arguments.records, *chosen)
    if not file.is_file():
        settings = Settings(**{name: getattr(arguments, name) for name in Settings.__dataclass_fields__})
        # A stopped run goes on with the settings it began with.
        size = (settings.iterations, settings.batch, settings.parameters)
        folder = arguments.work / "-".join(map(str, (*chosen, *size)))
        record = run(*chosen, settings, folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, (json.dumps(record, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
