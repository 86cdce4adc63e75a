"""Say what a network costs, module by module, and what a run spent its time on.

    python scripts/profile_network.py -opt options/emt_x4.yml
    python scripts/profile_network.py -opt options/emt_x4.yml --size 48 --compare options/swinir_light_x4.yml
    python scripts/profile_network.py --run experiments/emt_x4

Parameters, multiply-adds and activations are counted for one image of --size pixels a side and for the input
of a 1280 x 720 result, as papers on super-resolution state them, without running anything. Times are those of
one patch of --size pixels; memory is measured on a GPU, else estimated from the tensors that operators make.
--run reads the log of a run: the shares of its time that went into waiting for data, computing, validating,
and everything else, such as logging and saving.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from _command import CommandError, add_device, device_of, parser, positive, run
from rich.console import Console
from rich.table import Table
from torch import nn

from basicsr_ext import build_network, load_options
from basicsr_ext.archs.counting import Count, count, hd_input, without_values
from basicsr_ext.archs.padding import requirement_of
from basicsr_ext.config import Options, resolved_stages
from basicsr_ext.engine.preflight.footprint import channels_of, peak_bytes
from basicsr_ext.files import user_path
from basicsr_ext.plugins import PluginError, import_plugins

_CONTAINERS = ("ModuleList", "ModuleDict")
_LOGGED = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) INFO: iter (\d+)/")
_NOTICEABLE = 0.1
_ADVICE = {
    "waiting for data": "data bound: more workers (datasets.train.num_worker_per_gpu), or a store "
    "(scripts/make_store.py)",
    "validating": "bound by validation: raise val.val_freq, or validate on fewer images (subset)",
    "logging, saving and other": "bound by logging or saving: raise logger.print_freq and "
    "logger.save_checkpoint_freq, or write to a faster disk",
}


@dataclass(frozen=True)
class Profile:
    """What a network costs.

    Attributes:
        patch: count of one image of the given size.
        whole: count of the input of a 1280 x 720 result.
        forward: seconds of one patch in eval mode.
        training: seconds of one patch forward and backward.
        memory: bytes of one patch forward and backward, beside the weights.
        seconds: of modules in the forward pass, by name.
    """

    patch: Count
    whole: Count
    forward: float
    training: float
    memory: int
    seconds: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = _parser()
    given = command.parse_args(arguments)
    if not (given.opt or given.run):
        command.error("give -opt FILE, or --run FOLDER, or both")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    if given.opt:
        try:
            _profile_files(console, given)
        except (PluginError, LookupError, TypeError, RuntimeError) as error:
            raise CommandError(str(error)) from error
    if given.run:
        _print_run(console, given.run, shares_of(given.run))
    return []


def _profile_files(console: Console, given: argparse.Namespace) -> None:
    device = device_of(given.device)
    profiles: dict[str, Profile] = {}
    for file in [given.opt, *([given.compare] if given.compare else [])]:
        # Neither weights nor images are needed.
        options = load_options(file, ["path=~"], phases=())
        import_plugins(options.plugins)
        scale = given.scale or options.scale
        network = build_network({"type": options.network_g.type, **options.network_g.kwargs})
        size = given.size or _patch(options)
        profiles[options.name] = profile(network, size, scale, device, _window_of(options), given)
        console.print(
            f"{options.name}: {options.network_g.type}, x{scale}, patch {size} x {size}, on {device.type}"
        )
    _print_totals(console, profiles, device)
    for name, found in profiles.items():
        _print_modules(console, name, found, given.depth)


def _patch(options: Options) -> int:
    """Return the side of the input of the first stage's patches, or 48."""
    stages = resolved_stages(options)
    return stages[0].gt_size // options.scale if stages else 48


def _window_of(options: Options) -> int | None:
    return getattr(options.val, "window_size", None)


# --- a network --------------------------------------------------------------------------------------


def profile(
    network: nn.Module,
    size: int,
    scale: int,
    device: torch.device,
    window_size: int | None,
    given: argparse.Namespace,
) -> Profile:
    """Count, time and measure one patch of ``size`` x ``size`` pixels.

    Raises:
        RuntimeError, TypeError: the network does not take such an image.
    """
    channels, requirement = channels_of(network), requirement_of(network, window_size)
    patch = count(network, (channels, size, size), requirement)
    whole = count(network, (channels, *hd_input(scale)), requirement)
    # What does not fit is extended by who calls a network, to the next size that does.
    side = -(-size // requirement.multiple_of) * requirement.multiple_of
    shape = (1, channels, side, side)
    empty = without_values(network).train() if device.type != "cuda" else None
    network.to(device)
    x = torch.rand(shape, device=device)

    def forward() -> None:
        with torch.no_grad():
            network.eval()(x)

    def both() -> None:
        network.train().zero_grad(set_to_none=True)
        network(x).float().abs().mean().backward()

    return Profile(
        patch,
        whole,
        _seconds(forward, device, given.repeats),
        _seconds(both, device, given.repeats),
        peak_bytes(empty if empty is not None else network.train(), shape),
        _seconds_by_module(network, forward, device, [m.name for m in _shown(patch, given.depth)]),
    )


def _seconds(call: Callable[[], None], device: torch.device, repeats: int) -> float:
    """Return the median of several calls after one that warms up."""
    times = []
    for _ in range(repeats + 1):
        start = _now(device)
        call()
        times.append(_now(device) - start)
    return median(times[1:])


def _seconds_by_module(
    network: nn.Module, call: Callable[[], None], device: torch.device, names: Sequence[str]
) -> dict[str, float]:
    modules, started = dict(network.named_modules()), {}
    total = dict.fromkeys(names, 0.0)
    with ExitStack() as hooks:
        for name in names:

            def begin(*_: Any, name: str = name) -> None:
                started[name] = _now(device)

            def end(*_: Any, name: str = name) -> None:
                total[name] += _now(device) - started[name]

            hooks.callback(modules[name].register_forward_pre_hook(begin).remove)
            hooks.callback(modules[name].register_forward_hook(end).remove)
        call()
    return total


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _shown(counted: Count, depth: int) -> list[Any]:
    """Return the modules that cost something, down to a depth at which lists of modules do not count."""
    kinds = {module.name: module.kind for module in counted.modules}

    def level(name: str) -> int:
        parts = name.split(".")
        above = (".".join(parts[:end]) for end in range(1, len(parts)))
        return 1 + sum(kinds[outer] not in _CONTAINERS for outer in above)

    return [
        module
        for module in counted.modules
        if module.name
        and module.kind not in _CONTAINERS
        and level(module.name) <= depth
        and (module.parameters or module.multiply_adds)
    ]


def _print_totals(console: Console, profiles: dict[str, Profile], device: torch.device) -> None:
    measured = "measured" if device.type == "cuda" else "estimated"
    rows: list[tuple[str, Callable[[Profile], float], Callable[[float], str]]] = [
        ("parameters", lambda p: p.patch.parameters, "{:,}".format),
        ("multiply-adds of the patch", lambda p: p.patch.multiply_adds, _giga),
        ("multiply-adds of a 1280 x 720 result", lambda p: p.whole.multiply_adds, _giga),
        ("  of those between activations", lambda p: p.whole.between_activations, _giga),
        ("activations of the patch", lambda p: p.patch.activations / 1e6, "{:,.3f} M".format),
        ("forward, patch", lambda p: p.forward * 1e3, "{:,.1f} ms".format),
        ("forward and backward, patch", lambda p: p.training * 1e3, "{:,.1f} ms".format),
        (f"peak memory of that ({measured})", lambda p: p.memory / 2**20, "{:,.0f} MiB".format),
    ]
    table = Table("")
    for name in profiles:
        table.add_column(name, justify="right")
    if len(profiles) == 2:
        table.add_column("second / first", justify="right")
    for label, value, in_words in rows:
        values = [value(found) for found in profiles.values()]
        ratio = [f"{values[1] / values[0]:.2f}" if values[0] else ""] if len(values) == 2 else []
        table.add_row(label, *map(in_words, values), *ratio)
    console.print(table)


def _print_modules(console: Console, name: str, found: Profile, depth: int) -> None:
    table = Table(title=name, title_justify="left")
    for heading in ("module", "class"):
        table.add_column(heading)
    for heading in ("parameters", "share", "multiply-adds", "share", "forward ms"):
        table.add_column(heading, justify="right")
    total = found.patch
    for module in _shown(total, depth):
        table.add_row(
            module.name,
            module.kind,
            f"{module.parameters:,}",
            f"{module.parameters / max(total.parameters, 1):.1%}",
            _giga(module.multiply_adds),
            f"{module.multiply_adds / max(total.multiply_adds, 1):.1%}",
            f"{found.seconds[module.name] * 1e3:,.1f}",
        )
    console.print(table)


def _giga(number: float) -> str:
    return f"{number / 1e9:,.3f} G"


# --- a run ------------------------------------------------------------------------------------------


def shares_of(folder: Path) -> dict[str, float]:
    """Return which share of a run's time went into what, as far as its log covers it; they sum to 1.

    Iterations report how fast they were and how long they waited for data; what lies between their lines in
    the log beside that is validation where there was one, else logging, saving and the like.

    Raises:
        ValueError: the folder holds no run, or one that has logged fewer than two lines.
    """
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        raise ValueError(f"--run: {folder} holds no metrics.jsonl, which a run leaves")
    speeds, waits, validated = {}, {}, set()
    for line in metrics.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["kind"] == "train":
            speeds[entry["iteration"]] = entry["iterations_per_second"]
            waits[entry["iteration"]] = entry["data_wait"]
        elif entry["kind"].startswith("val/"):
            validated.add(entry["iteration"])
    spent = dict.fromkeys(("waiting for data", "computing", "validating", "logging, saving and other"), 0.0)
    for log in sorted(folder.glob("train_*.log")):
        lines = _LOGGED.findall(log.read_text(encoding="utf-8"))
        moments = [(datetime.fromisoformat(when), int(iteration)) for when, iteration in lines]
        for (before, first), (after, last) in pairwise(moments):
            if last not in speeds or last <= first:
                continue
            stepping = (last - first) / speeds[last]
            # Lines tell whole seconds: what is missing to an interval is made up for by the next one.
            rest = (after - before).total_seconds() - stepping
            spent["waiting for data"] += stepping * waits[last]
            spent["computing"] += stepping * (1 - waits[last])
            within = any(first <= iteration < last for iteration in validated)
            spent["validating" if within else "logging, saving and other"] += rest
    spent = {what: max(seconds, 0.0) for what, seconds in spent.items()}
    total = sum(spent.values())
    if not total:
        raise ValueError(f"--run: {folder} has logged too little: two lines of iterations are needed")
    return {what: seconds / total for what, seconds in spent.items()}


def verdict(shares: dict[str, float]) -> str:
    """Say what bounds a run with such shares."""
    worst = max(_ADVICE, key=lambda what: shares[what])
    if shares[worst] < _NOTICEABLE:
        return "device bound: a faster GPU, train.amp, train.compile or a smaller network would speed it up"
    return _ADVICE[worst]


def _print_run(console: Console, folder: Path, shares: dict[str, float]) -> None:
    words = ", ".join(f"{what} {share:.0%}" for what, share in shares.items())
    console.print(f"{folder}: {words}", markup=False, soft_wrap=True)
    console.print(verdict(shares), markup=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    command = parser(__doc__)
    command.add_argument("-opt", "--opt", type=user_path, metavar="FILE", help="option file of the network")
    command.add_argument("--size", type=positive, help="side of the patch; default: the first stage's input")
    command.add_argument("--scale", type=positive, help="of the 1280 x 720 result; default: the file's")
    command.add_argument("--compare", type=user_path, metavar="FILE", help="another option file, beside it")
    command.add_argument("--run", type=user_path, metavar="FOLDER", help="of a run, experiments/NAME")
    command.add_argument("--depth", type=positive, default=2, help="of the table of modules; default: 2")
    command.add_argument("--repeats", type=positive, default=5, help="of what is timed; default: 5")
    add_device(command)
    return command


if __name__ == "__main__":
    raise SystemExit(run(main))
