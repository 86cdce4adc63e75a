"""Time networks against a yardstick in one process: forward and backward, training mode, batch 1.

Usage: python benchmarks/networks.py [name ...] [--bf16] [--compile | --starts] [--memory] [--device cuda]

The yardstick of restoration is basicsr's SwinIR, that of classifiers timm's Swin-T, where timm is installed.
Repetitions of all networks are interleaved and the fastest counts, so that other work on the machine
disturbs the ratios little. --bf16 and --compile time each network that way too; given together, also both.
On CPUs, --compile also tells how much of the eager time is spent in library operators, which compiled code
calls as well. --starts tells what compiling costs a first process, which finds an empty cache, and a second.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import basicsr_ext as bx
from basicsr_ext.archs import pixel_range
from basicsr_ext.engine.compiling import compile_blocks, compile_whole

_EDT_T = {"num_feat": 8, "embed_dim": 60, "depths": [6] * 4, "num_heads": [6] * 4}
_SWINIR = {"embed_dim": 180, "depths": [6] * 6, "num_heads": [6] * 6, "mlp_ratio": 2, "img_range": 1.0}
_CLOFORMER_S = {
    "embed_dims": [64, 128, 224, 448],
    "num_heads": [4, 8, 14, 28],
    "group_splits": [[3, 1], [4, 4], [7, 7], [7, 21]],
}
Case = tuple[int, dict[str, Any]]
"""Side of the input, and network."""

RESTORERS: dict[str, Case] = {
    "swinir": (
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
TIMM = "timm_swin_t"
CLASSIFIERS: dict[str, Case] = {
    TIMM: (224, {"type": "timm", "model": "swin_tiny_patch4_window7_224", "drop_path_rate": 0.2}),
    "swin_t": (224, {"type": "SwinTransformer", "drop_path_rate": 0.2}),
    "cloformer_xxs": (224, {"type": "CloFormer"}),
    "cloformer_s": (224, {"type": "CloFormer", "drop_path_rate": 0.06} | _CLOFORMER_S),
    "dat_t": (224, {"type": "DAT"}),
    "dat_t_plus_plus": (224, {"type": "DATPlusPlus"}),
    "mswin": (64, {"type": "MSwinTransformer"}),
}
NETWORKS = RESTORERS | CLASSIFIERS

CHANNELS = {"mswin": 256}
"""Channels of the input, where it is no picture."""

LIBRARY = re.compile(
    r"aten::(mm|addmm|bmm|baddbmm|mkldnn_convolution|_slow_conv2d_(for|back)ward|convolution_backward"
    r"|_scaled_dot_product_\w+)$"
)
"""Names of the operators for matrix products, convolutions and fused attention."""

Step = Callable[[], None]
Variant = tuple[bool, bool]
"""In bfloat16, compiled."""

Row = dict[str, str]


def training_step(name: str, variant: Variant, device: str) -> Step:
    """Return a function that runs one forward and backward pass of network ``name``."""
    size, opt = NETWORKS[name]
    bf16, compiled = variant
    torch.manual_seed(0)
    net = (timm_model(opt) if opt["type"] == "timm" else bx.build_network(opt)).train().to(device)
    x = (torch.rand(1, CHANNELS.get(name, 3), size, size) * pixel_range(net)).to(device)
    call = net if compile_blocks(net, compiled, shapes=1) else compile_whole(net, compiled, shapes=1)

    def step() -> None:
        net.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            y = call(x)
        y.float().abs().mean().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def timm_model(opt: dict[str, Any]) -> nn.Module:
    """Return a model of timm's, untrained."""
    return import_module("timm").create_model(opt["model"], drop_path_rate=opt["drop_path_rate"])


def yardstick(name: str) -> str:
    """Return the network to compare ``name`` to."""
    return next(iter(RESTORERS if name in RESTORERS else CLASSIFIERS))


def seconds(step: Step, device: str) -> float:
    """Return how long one call takes; of one CPU thread, without what it waits for the processor."""
    alone = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    start = clock()
    step()
    return clock() - start


def library_share(step: Step) -> float:
    """Return the share of one call's CPU time in operators that compiled code calls as well."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        step()
    spent = {event.key: event.self_cpu_time_total for event in record.key_averages()}
    return sum(spent[name] for name in spent if LIBRARY.match(name)) / sum(spent.values())


def peak_gigabytes(name: str, arguments: argparse.Namespace) -> float:
    """Return the peak memory of a process that trains network ``name`` for two steps."""
    command = [sys.executable, __file__, name, "--peak-of-this-process", "--threads", str(arguments.threads)]
    command += ["--device", arguments.device]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def start_seconds(name: str, bf16: bool, arguments: argparse.Namespace) -> Row:
    """Return what compiling network ``name`` adds to the first step of a process, and of one after it."""
    command = [sys.executable, __file__, name, "--start-of-this-process", "--threads", str(arguments.threads)]
    command += ["--device", arguments.device, *["--bf16"] * bf16]
    row: Row = {}
    with tempfile.TemporaryDirectory() as folder:
        # Inductor keeps its compiled headers in the folder for temporary files, whatever its cache is.
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": f"{folder}/cache", "TMPDIR": folder}
        for start in ("empty cache", "second start"):
            run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            real, cpu = run.stdout.split()
            row |= {f"{start}, s": real, f"{start}, CPU s": cpu}
    return row


def first_step_of_this_process(step: Step) -> str:
    """Return the real and CPU time, child processes' too, by which the first step exceeds the second."""

    def now() -> list[float]:
        own, children = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
        return [time.perf_counter(), cpu]

    times = [now()]
    for _ in range(2):
        step()
        times.append(now())
    extra = [b - a - (c - b) for a, b, c in zip(*times, strict=True)]
    return " ".join(f"{value:.1f}" for value in extra)


def time_networks(names: list[str], variants: list[Variant], device: str, repeats: int) -> list[Row]:
    """Return what was measured, of each network in turn, by the headings of the table."""
    steps = {(name, *variant): training_step(name, variant, device) for name in names for variant in variants}
    first = {}
    for key, step in steps.items():
        start = time.perf_counter()
        step()
        first[key] = time.perf_counter() - start
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(repeats):
        for key, step in steps.items():
            best[key] = min(best[key], seconds(step, device))

    rows = []
    for name in names:
        size, plain = NETWORKS[name][0], best[name, False, False]
        row = {"network": name, "input": f"{size} x {size}", "s": f"{plain:.3f}"}
        measure = best.get((yardstick(name), False, False))
        row["ratio"] = f"{plain / measure:.3f}" if measure else "no timm"
        if (True, False) in variants:
            row |= {"bf16 s": f"{best[name, True, False]:.3f}"}
            row |= {"float32 / bf16": f"{plain / best[name, True, False]:.2f}"}
        for bf16 in [bf16 for bf16, compiled in variants if compiled]:
            label, eager, taken = "bf16 " * bf16, best[name, bf16, False], best[name, bf16, True]
            row |= {f"{label}compiled s": f"{taken:.3f}", f"{label}eager / compiled": f"{eager / taken:.2f}"}
            row |= {f"{label}compiling s": f"{first[name, bf16, True]:.0f}"}
        if (False, True) in variants and device == "cpu":
            row["library"] = f"{library_share(steps[name, False, False]):.0%}"
        rows.append(row)
    return rows


def main() -> None:
    """Print a table of seconds, ratios to the yardstick and, if asked for, peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *NETWORKS], metavar="name", help=", ".join(NETWORKS))
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16 as well")
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    parser.add_argument("--memory", action="store_true", help="peak memory in float32, not compiled")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--starts", action="store_true", help="only what compiling costs")
    parser.add_argument("--peak-of-this-process", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--start-of-this-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(arguments.threads)

    if arguments.peak_of_this_process:
        step = training_step(arguments.names[0], (False, False), device)
        step()
        step()
        if device == "cuda":
            print(torch.cuda.max_memory_allocated() / 1e9)
        else:
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
        return

    if arguments.start_of_this_process:
        print(first_step_of_this_process(training_step(arguments.names[0], (arguments.bf16, True), device)))
        return
    if arguments.starts:
        names = arguments.names or list(RESTORERS)
        print_table([{"network": name, **start_seconds(name, arguments.bf16, arguments)} for name in names])
        return

    names = arguments.names or list(NETWORKS)
    names = list(dict.fromkeys([*(yardstick(name) for name in names), *names]))
    if TIMM in names and find_spec("timm") is None:
        names.remove(TIMM)
        print("timm is not installed ('pip install timm'): classifiers are timed without their yardstick")
    if not names:
        return
    # First, as a process counts its parent's peak as its own.
    peaks = {name: f"{peak_gigabytes(name, arguments):.2f}" for name in names * arguments.memory}
    switches = itertools.product([False, True][: 1 + arguments.compile], [False, True][: 1 + arguments.bf16])
    variants = [(bf16, compiled) for compiled, bf16 in switches]
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # What was compiled before would take no time.
        rows = time_networks(names, variants, device, arguments.repeats)
    for row in rows:
        row |= {"peak GB": peaks[row["network"]]} if peaks else {}
    print_table(rows)


def print_table(rows: list[Row]) -> None:
    """Print rows under the headings of the first."""
    print(f"| {' | '.join(rows[0])} |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print(f"| {' | '.join(row.values())} |")


if __name__ == "__main__":
    main()
