"""Everything that needs a GPU to be known, in one command: results, speed, memory, precision, resuming.

    python benchmarks/gpu.py [--out FOLDER] [--released FOLDER] [--minutes 8]
    python benchmarks/gpu.py --device cpu --quick       # tries the command itself where no GPU is

Writes ``gpu.md`` and ``gpu.json``. Every part runs in a process of its own: one that fails, hangs or breaks
the device is reported, and the next begins. A part that cannot end in what is left of the time is stopped;
what it has measured by then counts. Needs torch 2.6 or newer and no network. Exits with 1 if a part failed.

``--released`` names a folder with the authors' repositories; a network whose file is found below it is timed
beside ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import yaml
from networks import RESTORERS, yardstick
from torch import Tensor, nn

import basicsr_ext as bx
from basicsr_ext.archs import pixel_range
from basicsr_ext.config import load_options
from basicsr_ext.data.loader import to_device
from basicsr_ext.data.pixels import Pixels
from basicsr_ext.engine.compiling import compile_blocks, compile_whole

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = ROOT / "options/quickstart.yml"
PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
Row = dict[str, Any]


@dataclass
class Setting:
    """What all parts are told."""

    device: str
    quick: bool
    released: Path | None
    folder: Path


@dataclass
class Result:
    """What a part found out; ``wrong`` says in words what should be otherwise."""

    part: str
    rows: list[Row] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


# --- parts: each yields rows as it gets them; a row's "wrong" says what is ----------------------------


def fixtures(setting: Setting) -> Iterator[Row]:
    """Released networks' recorded results, in float32 on the device and on the CPU."""
    sys.path.insert(0, str(ROOT / "tests"))
    recorded, reference = import_module("recorded"), import_module("reference")
    paths = recorded.find(recorded.SHIPPED, "")
    for path in paths[:: 6 if setting.quick else 1]:
        fixture = recorded.load(path)
        errors = {}
        for device in dict.fromkeys(["cpu", setting.device]):
            got = reference.run(fixture, device, torch.float32)
            errors[device] = max(fixture.error(name, array) for name, array in got.items())
        row = {"fixture": path.stem, **{f"error, {d}": f"{error:.1e}" for d, error in errors.items()}}
        if errors[setting.device] > max(1e-4, 10 * errors["cpu"]):
            row["wrong"] = "further from the recorded result than float32's rounding explains"
        yield row


def speed(setting: Setting) -> Iterator[Row]:
    """Forward and backward pass, eager and compiled, against basicsr's SwinIR in float32."""
    names = ["swinir", "edt_t_x2"] if setting.quick else list(RESTORERS)
    cases = [(name, None) for name in names]
    cases += [(name, path) for name in names for path in released_files(setting, name)]
    base: dict[tuple[str, bool], float] = {}
    # What matters most first, as time may end before the list does.
    for compiled, precision in product([False] if setting.quick else [False, True], PRECISIONS):
        for name, path in cases:
            if path is not None and compiled:
                continue
            size, opt = RESTORERS[name]
            net = released_network(path, opt) if path else bx.build_network(opt)
            row: Row = {"network": f"{name}, released" if path else name, "precision": precision}
            row["compiled"] = "yes" if compiled else ""
            batch = 1 if setting.quick else 8
            x = torch.rand(batch, 3, size, size) * pixel_range(net)
            row |= timed(net, x, setting, precision, compiled)
            taken = row["ms an image"]
            if precision == "float32" and not compiled:
                base[name, path is not None] = taken
            row["times SwinIR's speed"] = f"{base[yardstick(name), False] / taken:.2f}"
            if (name, True) in base:
                row["times the release's"] = f"{base[name, True] / taken:.2f}"
            row["ms an image"] = f"{taken:.2f}"
            yield row


def precision(setting: Setting) -> Iterator[Row]:
    """The quick start's losses in every precision, against the CPU's in float32."""
    iterations = 12 if setting.quick else 300
    runs = {"cpu": ("cpu", "no"), **{f"{setting.device}_{amp}": (setting.device, amp) for amp in AMP}}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(train(setting, name, device, iterations, [f"train:amp={amp}"]))
            for name, (device, amp) in runs.items()
        }
        outputs = {name: process.communicate()[0] for name, process in processes.items()}
    losses = {}
    for name in runs:
        if processes[name].returncode:
            yield {"run": name, "wrong": outputs[name][-500:]}
        else:
            losses[name] = logged_losses(run_folder(setting, name))
    for name, values in losses.items():
        tail = values[-max(len(values) // 3, 1) :]
        mean, on_cpu = float(np.mean(tail)), float(np.mean(losses["cpu"][-len(tail) :]))
        difference = mean / on_cpu - 1
        row = {"run": name, "loss at the end": f"{mean:.5f}", "against the CPU's": f"{difference:+.2%}"}
        if not np.isfinite(tail).all() or abs(difference) > 0.05:
            row["wrong"] = "more than 5 % from the CPU's losses"
        yield row


def resuming(setting: Setting) -> Iterator[Row]:
    """Killed at an iteration of its own choice and resumed: the same bits, with ``deterministic: true``."""
    iterations, saved = 40, 20
    keys = ["train:deterministic=true", "logger:save_checkpoint_freq=10", "val:save_img=false"]
    with train(setting, "whole", setting.device, iterations, keys) as whole:
        output = whole.communicate()[0]
        if whole.returncode:
            yield {"run": "uninterrupted", "wrong": output[-500:]}
            return
    with train(setting, "killed", setting.device, iterations, keys) as killed:
        state = run_folder(setting, "killed") / f"training_states/{saved}.state"
        while killed.poll() is None and not state.exists():
            time.sleep(0.01)
        os.killpg(killed.pid, signal.SIGKILL)
    with train(setting, "killed", setting.device, iterations, keys, "--auto_resume") as resumed:
        output = resumed.communicate()[0]
        if resumed.returncode:
            yield {"run": "resumed", "wrong": output[-500:]}
            return
    yield compared(setting, "whole", "killed", iterations, "killed and resumed")


def one_rank(setting: Setting) -> Iterator[Row]:
    """One rank under torchrun (nccl on a GPU) against no launcher at all."""
    keys = ["train:deterministic=true"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    for name, prefix in (("plain", []), ("torchrun", launcher)):
        with train(setting, name, setting.device, 6, keys, launcher=prefix) as process:
            output = process.communicate()[0]
            if process.returncode:
                yield {"run": name, "wrong": output[-500:]}
                return
    yield compared(setting, "plain", "torchrun", 6, "torchrun with one rank")


def transfer(setting: Setting) -> Iterator[Row]:
    """Batches from page-locked memory to float tensors on the device, sent as floats and as 8-bit values."""
    device, rounds = torch.device(setting.device), 5 if setting.quick else 50
    batch = torch.randint(0, 256, (32, 3, 192, 192), dtype=torch.uint8)
    for name, host in (("float32", batch.float() / 255), ("8-bit", Pixels(batch))):
        pinned = host.pin_memory() if device.type == "cuda" else host

        def sent(pinned: Any = pinned) -> None:
            to_device({"gt": pinned}, device)

        taken = median(seconds_of(sent, device) for _ in range(rounds))
        yield {"sent as": name, "ms a batch": f"{1e3 * taken:.2f}", "images/s": f"{len(batch) / taken:.0f}"}


def synchronisation(setting: Setting) -> Iterator[Row]:
    """The loop between two reports must not wait for the device."""
    if setting.device != "cuda":
        yield {"iterations": 0, "note": "only a GPU can be waited for"}
        return
    from basicsr_ext.engine.build import build_parts
    from basicsr_ext.engine.distributed import World
    from basicsr_ext.engine.trainer import Trainer

    overrides = ["num_gpu=1", f"path:experiments_root={setting.folder}", *stages(40)]
    options = load_options(QUICKSTART, overrides)
    parts = build_parts(options, world_size=1, training=True)
    trainer = Trainer(options, parts, World(device=torch.device("cuda", 0)), None)
    for _ in range(5):
        trainer.train_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            trainer.train_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    yield {"iterations": 10, "note": "no synchronisation"}


PARTS: dict[str, tuple[Callable[[Setting], Iterable[Row]], float]] = {
    "fixtures": (fixtures, 60),
    "synchronisation": (synchronisation, 45),
    "resuming": (resuming, 75),
    "one_rank": (one_rank, 60),
    "transfer": (transfer, 20),
    "precision": (precision, 100),
    "speed": (speed, 300),
}
"""What each part runs, and after how many seconds of eight minutes it is stopped."""


# --- what parts share ---------------------------------------------------------------------------------

AMP = ("no", "bf16", "fp16")
"""Values of ``train.amp``."""


def timed(net: nn.Module, x: Tensor, setting: Setting, precision: str, compiled: bool) -> Row:
    """Return milliseconds an image of a forward and backward pass, peak memory, and time to compile."""
    device, dtype = torch.device(setting.device), PRECISIONS[precision]
    net, x = net.train().to(device), x.to(device)
    call = net if compile_blocks(net, compiled, shapes=1) else compile_whole(net, compiled, shapes=1)

    def step() -> None:
        net.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            y = call(x)
        (y[0] if isinstance(y, list) else y).float().abs().mean().backward()

    first = seconds_of(step, device)
    for _ in range(0 if setting.quick else 3):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken = median(seconds_of(step, device) for _ in range(1 if setting.quick else 10))
    row: Row = {"ms an image": 1e3 * taken / len(x)}
    if device.type == "cuda":
        row["peak GB"] = f"{torch.cuda.max_memory_allocated() / 1e9:.2f}"
    row["first step, s"] = f"{first:.1f}"
    return row


def seconds_of(call: Callable[[], None], device: torch.device) -> float:
    """Return how long a call takes, with all it asks of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


_RELEASED = {
    "edt_b_x2": "utils/modules/edt.py",
    "grl_tiny_x4": "models/networks/grl.py",
    "emt_x4": "archs/emt_arch.py",
    "restormer": "basicsr/models/archs/restormer_arch.py",
}
"""Where the authors' repositories have networks that take our arguments."""


def released_files(setting: Setting, name: str) -> list[Path]:
    """Return the authors' file of a network, if it was given."""
    if setting.released is None or name not in _RELEASED:
        return []
    return sorted(setting.released.rglob(_RELEASED[name]))[:1]


def released_network(path: Path, opt: dict[str, Any]) -> nn.Module:
    """Return the authors' network, built with our arguments."""
    parts = len(Path(next(file for file in _RELEASED.values() if path.match(file))).parts)
    sys.path.insert(0, str(path.parents[parts - 1]))
    module = import_module(".".join(path.parts[-parts:]).removesuffix(".py"))
    return getattr(module, opt["type"])(**{key: value for key, value in opt.items() if key != "type"})


def stages(iterations: int) -> list[str]:
    """Return overrides that let the quick start run for so many iterations, through all of its stages."""
    options = yaml.safe_load(QUICKSTART.read_text())
    given = options["datasets"]["train"]["stages"]
    counts = [iterations // len(given)] * len(given)
    counts[-1] += iterations - sum(counts)
    made = [{**stage, "iters": count} for stage, count in zip(given, counts, strict=True)]
    return [
        f"datasets:train:stages={json.dumps(made)}",
        f"train:total_iter={iterations}",
        f"train:scheduler:periods=[{iterations}]",
    ]


def run_folder(setting: Setting, name: str) -> Path:
    """Return the folder of a run."""
    return setting.folder / name


def train(
    setting: Setting,
    name: str,
    device: str,
    iterations: int,
    overrides: list[str],
    *arguments: str,
    launcher: Iterable[str] = (),
) -> subprocess.Popen[str]:
    """Start the quick start with overrides, in a process group of its own."""
    overrides = [
        *stages(iterations),
        f"num_gpu={int(device == 'cuda')}",
        f"name={name}",
        f"path:experiments_root={setting.folder}",
        "logger:print_freq=1",
        *overrides,
    ]
    return subprocess.Popen(
        [sys.executable, *launcher, "train.py", "-opt", QUICKSTART, *arguments, "--force_yml", *overrides],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def logged_losses(folder: Path) -> list[float]:
    """Return the loss of every iteration of a run."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["l_pix"] for line in lines if "l_pix" in line]


def compared(setting: Setting, first: str, second: str, iterations: int, what: str) -> Row:
    """Return whether two runs ended with the same weights."""
    files = [run_folder(setting, name) / f"models/net_g_{iterations}.pth" for name in (first, second)]
    one, other = (torch.load(file, map_location="cpu", weights_only=True)["params_ema"] for file in files)
    different = [key for key in one if not torch.equal(one[key], other[key])]
    row = {"run": what, "tensors": len(one), "different": len(different)}
    return {**row, "wrong": f"other weights, such as {different[0]}"} if different else row


# --- running parts ------------------------------------------------------------------------------------


def run_part(name: str, setting: Setting, out: Path) -> int:
    """Run a part in this process, writing what is known after every row."""
    result, start = Result(name), time.perf_counter()

    def write() -> None:
        result.seconds = time.perf_counter() - start
        out.write_text(json.dumps(vars(result)))

    write()
    try:
        for row in PARTS[name][0](setting):
            if wrong := row.pop("wrong", None):
                result.wrong.append(f"{next(iter(row.values()))}: {wrong}")
            result.rows.append(row)
            write()
    except Exception:
        result.wrong.append(traceback.format_exc(limit=-3))
        write()
    return 0


def run_parts(setting: Setting, arguments: argparse.Namespace) -> list[Result]:
    """Run the wanted parts one after the other, each in a process of its own, within the time."""
    end, results = time.monotonic() + 60 * arguments.minutes - 10, []
    for name in arguments.parts or PARTS:
        out = setting.folder / f"{name}.json"
        limit = min(PARTS[name][1] * arguments.minutes / 8, end - time.monotonic())
        command = [sys.executable, __file__, "--part", name, "--part_out", str(out)]
        command += ["--device", setting.device, "--folder", str(setting.folder)]
        command += ["--quick"] * setting.quick
        command += ["--released", str(setting.released)] if setting.released else []
        note, code = "", 0
        if limit > 5:
            # A group of its own, as parts start processes, too.
            process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                note = f"stopped after {limit:.0f} s, before it had measured everything"
            stop_all(process)
        result = Result(**json.loads(out.read_text())) if out.exists() else Result(name)
        if code:
            result.wrong.append(f"ended with exit code {code}")
        if not result.rows and not result.wrong:
            result.wrong.append(note or "not reached in time")
        elif note:
            result.rows.append({next(iter(result.rows[0])): note} if result.rows else {"note": note})
        results.append(result)
        print(as_markdown(result), flush=True)
    return results


def stop_all(process: subprocess.Popen[Any]) -> None:
    """End a part and all processes it has started."""
    children = subprocess.run(["ps", "-eo", "pid=,pgid=,ppid="], capture_output=True, text=True, check=False)
    family, pending = {process.pid}, True
    table = [tuple(map(int, line.split())) for line in children.stdout.splitlines()]
    while pending:
        found = {pid for pid, _, parent in table if parent in family} - family
        family |= found
        pending = bool(found)
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def as_markdown(result: Result) -> str:
    """Return a part's results as a section with a table."""
    function = PARTS[result.part][0]
    lines = [f"## {result.part}", "", (function.__doc__ or "").strip(), ""]
    headings = list(dict.fromkeys(key for row in result.rows for key in row))
    if headings:
        lines += [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
        lines += [f"| {' | '.join(str(row.get(key, '')) for key in headings)} |" for row in result.rows]
    lines += ["", *(f"**Wrong:** {wrong}" for wrong in result.wrong)]
    return "\n".join([*lines, f"({result.seconds:.0f} s)", ""])


def machine(device: str) -> str:
    """Return what this was measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{name}, {os.cpu_count()} CPU cores, {versions}"


def main() -> int:
    """Run the parts and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="part", help=", ".join(PARTS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="the smallest of everything")
    parser.add_argument("--released", type=Path, metavar="FOLDER", help="the authors' repositories")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=8.0, help="the whole ends within these")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--part_out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device; --device cpu --quick tries the command")
    if arguments.part:
        setting = Setting(arguments.device, arguments.quick, arguments.released, arguments.folder)
        return run_part(arguments.part, setting, arguments.part_out)
    with tempfile.TemporaryDirectory() as folder:
        results = run_parts(
            Setting(arguments.device, arguments.quick, arguments.released, Path(folder)), arguments
        )
    arguments.out.mkdir(parents=True, exist_ok=True)
    title = f"# On a GPU\n\n{machine(arguments.device)}\n"
    (arguments.out / "gpu.md").write_text("\n".join([title, *map(as_markdown, results)]))
    found = {"machine": machine(arguments.device), "parts": [vars(result) for result in results]}
    (arguments.out / "gpu.json").write_text(json.dumps(found, indent=1))
    return int(any(result.wrong for result in results))


if __name__ == "__main__":
    sys.exit(main())
