"""Time networks against basicsr's SwinIR in one process: forward and backward, training mode, batch 1.

Usage: python benchmarks/networks.py [name ...] [--bf16] [--compile] [--memory] [--threads N] [--repeats N]

Repetitions of all networks are interleaved and the fastest counts, so that other work on the machine
disturbs the ratios little.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402

import basicsr_ext as bx  # noqa: E402
from basicsr_ext.archs import pixel_range  # noqa: E402

_EDT_T = {"num_feat": 8, "embed_dim": 60, "depths": [6] * 4, "num_heads": [6] * 4}
_SWINIR = {"embed_dim": 180, "depths": [6] * 6, "num_heads": [6] * 6, "mlp_ratio": 2, "img_range": 1.0}
YARDSTICK = "swinir"
NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    YARDSTICK: (
        64,
        {"type": "SwinIR", "upscale": 4, "img_size": 64, "window_size": 8, "upsampler": "pixelshuffle"}
        | _SWINIR,
    ),
    "edt_b_x2": (48, {"type": "EDT", "scales": [2]}),
    "edt_t_x2": (48, {"type": "EDT", "scales": [2], "upsampler": "pixelshuffledirect"} | _EDT_T),
    "grl_tiny_x4": (64, {"type": "GRL"}),
    "emt_x4": (64, {"type": "EMT"}),
    "restormer": (128, {"type": "Restormer"}),
    "restormer_biasfree": (128, {"type": "Restormer", "LayerNorm_type": "BiasFree"}),
}
"""Side of the input and network by name."""

Step = Callable[[], None]


def training_step(name: str, bf16: bool, compiled: bool) -> Step:
    """Return a function that runs one forward and backward pass of network ``name``."""
    size, opt = NETWORKS[name]
    torch.manual_seed(0)
    net = bx.build_network(opt).train()
    x = torch.rand(1, 3, size, size) * pixel_range(net)
    call: nn.Module = torch.compile(net) if compiled else net  # pyright: ignore[reportAssignmentType]

    def step() -> None:
        net.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = call(x)
        y.float().abs().mean().backward()

    return step


def seconds(step: Step) -> float:
    """Return how long one call takes, without what one thread waits for the processor."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    step()
    return clock() - start


def peak_gigabytes(name: str, arguments: argparse.Namespace) -> float:
    """Return the peak memory of a process that trains network ``name`` for two steps."""
    command = [sys.executable, __file__, name, "--peak-of-this-process", "--threads", str(arguments.threads)]
    command += ["--bf16"] * arguments.bf16 + ["--compile"] * arguments.compile
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print a table of seconds, ratios to the yardstick and, if asked for, peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *NETWORKS], metavar="name", help=", ".join(NETWORKS))
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--memory", action="store_true", help="peak memory, each network in its own process")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak-of-this-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    if arguments.peak_of_this_process:
        step = training_step(arguments.names[0], arguments.bf16, arguments.compile)
        step()
        step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
        return

    names = [YARDSTICK, *(name for name in arguments.names or NETWORKS if name != YARDSTICK)]
    # First, as a process counts its parent's peak as its own.
    peaks = {name: peak_gigabytes(name, arguments) for name in names * arguments.memory}
    steps = {name: training_step(name, arguments.bf16, arguments.compile) for name in names}
    first = {name: seconds(step) for name, step in steps.items()}
    best = dict.fromkeys(names, float("inf"))
    for _ in range(arguments.repeats):
        for name, step in steps.items():
            best[name] = min(best[name], seconds(step))

    columns = ["network", "input", "first s", "s", "ratio", *(["peak GB"] * arguments.memory)]
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for name in names:
        size = NETWORKS[name][0]
        row = [name, f"{size} x {size}", f"{first[name]:.2f}", f"{best[name]:.3f}"]
        row.append(f"{best[name] / best[YARDSTICK]:.3f}")
        row += [f"{peaks[name]:.2f}"] if peaks else []
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
