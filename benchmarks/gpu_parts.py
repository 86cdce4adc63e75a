"""The parts of ``gpu.py``: each yields rows as it gets them; a row's ``wrong`` says in words what is.

What can fail by itself (a fixture, a network in one precision) becomes a row with its failure, and the rest
goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import yaml
from networks import RESTORERS, yardstick
from torch import Tensor, distributed, nn

import basicsr_ext as bx
from basicsr_ext.archs import pixel_range
from basicsr_ext.config import Options, load_options
from basicsr_ext.data.loader import DevicePrefetcher, build_train_loader, to_device
from basicsr_ext.data.pixels import Pixels
from basicsr_ext.data.samples import source_sizes
from basicsr_ext.data.sampling import ProgressiveBatchSampler, SampleRequest
from basicsr_ext.engine.build import build_networks, build_parts
from basicsr_ext.engine.compiling import compile_blocks, compile_whole
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.precision import choose_algorithms
from basicsr_ext.engine.trainer import Trainer
from basicsr_ext.inference.restore import Restorer

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = str(Path(bx.__file__).parent)
QUICKSTART = ROOT / "options/quickstart.yml"
PRECISIONS = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
AMP = ("no", "bf16", "fp16")
"""Values of ``train.amp``."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What all parts are told."""

    device: torch.device
    quick: bool
    released: Path | None
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU to measure."""
        return self.device.type == "cuda"


# --- results --------------------------------------------------------------------------------------------


def fixtures(setting: Setting) -> Iterator[Row]:
    """Released networks' recorded results, in float32 on the device and on the CPU."""
    sys.path.insert(0, str(ROOT / "tests"))
    recorded, reference = import_module("recorded"), import_module("reference")
    # Convolutions would use TF32, whose ten bits of mantissa hide what is looked for.
    torch.backends.cudnn.allow_tf32 = False

    def measured(path: Path) -> Row:
        fixture, errors = recorded.load(path), {}
        for device in dict.fromkeys(["cpu", setting.device.type]):
            got = reference.run(fixture, device, torch.float32)
            errors[device] = max(fixture.error(name, array) for name, array in got.items())
        row: Row = {f"error, {device}": f"{error:.1e}" for device, error in errors.items()}
        if not errors[setting.device.type] <= max(1e-4, 10 * errors["cpu"]):
            row["wrong"] = "further from the recorded result than float32's rounding explains"
        return row

    for path in recorded.find(recorded.SHIPPED, "")[:: 6 if setting.quick else 1]:
        yield tried({"fixture": path.stem}, lambda path=path: measured(path))


def precision(setting: Setting) -> Iterator[Row]:
    """The quick start's losses in every precision, against the CPU's in float32."""
    iterations = 6 if setting.quick else 300
    device, runs = setting.device.type, {"cpu": ("cpu", "no")}
    runs |= {f"{device}_{amp}": (device, amp) for amp in AMP if (device, amp) != runs["cpu"]}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(train(setting, name, place, iterations, [f"train:amp={amp}"]))
            for name, (place, amp) in runs.items()
        }
        codes = {name: process.wait() for name, process in processes.items()}
    losses = {name: logged_losses(setting.folder / name) for name in runs if not codes[name]}
    for name in runs:
        if codes[name]:
            yield {"run": name, "wrong": last_words(setting, name)}
            continue
        tail = losses[name][-max(iterations // 3, 1) :]
        row: Row = {"run": name, "iterations": len(losses[name]), "loss at the end": f"{np.mean(tail):.5f}"}
        if "cpu" in losses:
            difference = np.mean(tail) / np.mean(losses["cpu"][-len(tail) :]) - 1
            row["against the CPU's"] = f"{difference:+.2%}"
            if not abs(difference) <= 0.05:
                row["wrong"] = "more than 5 % from the CPU's losses"
        yield row


def resuming(setting: Setting) -> Iterator[Row]:
    """Killed between two checkpoints and resumed: the same bits, with ``deterministic: true``."""
    iterations, every = (9, 3) if setting.quick else (40, 10)
    keys = ["train:deterministic=true", f"logger:save_checkpoint_freq={every}", "val:save_img=false"]
    with train(setting, "whole", setting.device.type, iterations, keys) as whole:
        if whole.wait():
            yield {"run": "uninterrupted", "wrong": last_words(setting, "whole")}
            return
    with train(setting, "killed", setting.device.type, iterations, keys) as killed:
        state = setting.folder / f"killed/training_states/{2 * every}.state"
        while killed.poll() is None and not state.exists():
            time.sleep(0.002)
        ended = killed.poll()
        os.killpg(killed.pid, signal.SIGKILL)
    if ended is not None:
        words = last_words(setting, "killed") if ended else "it had ended before it could be killed"
        yield {"run": "killed", "wrong": words}
        return
    before = len(logged_losses(setting.folder / "killed"))
    with train(setting, "killed", setting.device.type, iterations, keys, "--auto_resume") as resumed:
        if resumed.wait():
            yield {"run": "resumed", "wrong": last_words(setting, "killed")}
            return
    yield {**compared(setting, "whole", "killed", iterations, "killed and resumed"), "killed after": before}


def one_rank(setting: Setting) -> Iterator[Row]:
    """One rank: under torchrun against no launcher, and averaging gradients (by nccl on a GPU)."""
    keys = ["train:deterministic=true"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
    iterations = 3 if setting.quick else 6
    codes = []
    for name, prefix in (("plain", []), ("torchrun", launcher)):
        with train(setting, name, setting.device.type, iterations, keys, launcher=prefix) as process:
            codes.append(process.wait())
        if codes[-1]:
            yield {"run": name, "wrong": last_words(setting, name)}
    if not any(codes):
        yield compared(setting, "plain", "torchrun", iterations, "torchrun with one rank")
    yield tried({"run": "gradients averaged over one rank"}, lambda: averaged_gradients(setting))


def averaged_gradients(setting: Setting) -> Row:
    """Return whether gradients that a process group has averaged over one rank are the gradients."""
    # With one rank a run needs no process group, so that one is made here as the engine makes it.
    backend = "cpu:gloo,cuda:nccl" if setting.on_gpu else "gloo"
    distributed.init_process_group(backend, store=distributed.HashStore(), rank=0, world_size=1)
    try:
        choose_algorithms(deterministic=True)
        bare = build_networks(quickstart(setting, 3))["net_g"].to(setting.device)
        wrapped = World(device=setting.device).parallel(deepcopy(bare), find_unused_parameters=False)
        x = torch.rand(2, 3, 32, 32, device=setting.device)
        for net in (bare, wrapped):
            net(x).mean().backward()
        got: list[Any] = [None]
        distributed.all_gather_object(got, "value")
        pairs = list(zip(bare.parameters(), wrapped.parameters(), strict=True))
        different = sum(not torch.equal(a.grad, b.grad) for a, b in pairs)  # pyright: ignore[reportArgumentType]
    finally:
        choose_algorithms(deterministic=False)
        distributed.destroy_process_group()
    row: Row = {"tensors": len(pairs), "different": different}
    if different or got != ["value"]:
        row["wrong"] = f"{different} other gradients, and {got} for the value exchanged"
    return row


def tiles(setting: Setting) -> Iterator[Row]:
    """A picture that memory does not suffice for: tiles are halved until they fit, and leave no seam."""
    side, width = (96, 8) if setting.quick else (1536, 64)
    torch.manual_seed(0)
    # A pixel depends on three around it, much less than tiles share.
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    net = Limited(*layers, nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2)).eval().to(setting.device)
    images = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    whole = Restorer(net, 2, tile=None)(images)
    if setting.on_gpu:
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()
        room = torch.cuda.memory_reserved() + peak // 4
        torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    else:
        net.limit = side**2 // 4
    net.sides.clear()
    tiled = Restorer(net, 2, tile=side)(images)
    difference = int(np.abs(whole.astype(int) - tiled).max())
    sides = ", ".join(map(str, dict.fromkeys(net.sides)))
    row: Row = {"sides of tiles": sides, "largest difference": f"{difference} of 255"}
    if difference > 1:
        row["wrong"] = "the tiled picture differs from the whole one by more than 1 of 255"
    if net.sides[0] != side or max(net.sides[1:], default=side) == side:
        row["wrong"] = "no smaller tile was tried after the whole picture"
    yield row


class Limited(nn.Sequential):
    """A network that notes its inputs' larger sides and, if told so, has memory for so many pixels only."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.sides: list[int] = []
        self.limit: int | None = None

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Map (N, 3, H, W) to (N, 3, 2H, 2W) around medium grey."""
        height, width = x.shape[-2:]
        self.sides.append(max(height, width))
        if self.limit is not None and height * width > self.limit:
            raise torch.OutOfMemoryError(f"no memory for {height} x {width} pixels")
        return super().forward(x) + 0.5


# --- speed ----------------------------------------------------------------------------------------------


def synchronisation(setting: Setting) -> Iterator[Row]:
    """The loop between two reports must not wait for the device."""
    warm, count = (1, 1) if setting.quick else (5, 10)
    for amp in AMP[:1] if setting.quick else AMP:
        yield tried({"precision": amp}, lambda amp=amp: waits(setting, amp, warm, count))


def waits(setting: Setting, amp: str, warm: int, count: int) -> Row:
    """Return where the loop waits for the device in ``count`` iterations after ``warm`` others."""
    # All in the first stage: the next one's tables may be made then.
    options = quickstart(setting, 3 * (warm + count), f"name=waits_{amp}", f"train:amp={amp}")
    trainer = Trainer(options, build_parts(options, 1, training=True), World(device=setting.device), None)
    places: Counter[str] = Counter()

    def note(message: Warning | str, *_: Any) -> None:
        if "synchronizing CUDA" in str(message):
            ours = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
            places[f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else str(message)] += 1

    for _ in range(warm):
        trainer.train_step()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if setting.on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(count):
                trainer.train_step()
        finally:
            if setting.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
    waited = sum(places.values()) if setting.on_gpu else "only a GPU is waited for"
    row: Row = {"iterations": count, "waits": waited}
    if places:
        row["wrong"] = "waits at " + ", ".join(f"{place} ({times} times)" for place, times in places.items())
    return row


def transfer(setting: Setting) -> Iterator[Row]:
    """Images to float tensors on the device, sent as floats and as 8-bit values.

    From page-locked memory, and from the processes that crop the quick start's photographs.
    """
    rounds = 5 if setting.quick else 50
    batch = torch.randint(0, 256, (32, 3, 192, 192), dtype=torch.uint8)
    for name, host in (("float32", batch.float() / 255), ("8-bit", Pixels(batch))):
        pinned = host.pin_memory() if setting.on_gpu else host

        def sent(pinned: Any = pinned) -> None:
            to_device({"gt": pinned}, setting.device)

        sent()
        taken = median(seconds_of(sent, setting.device) for _ in range(rounds))
        yield {"from": "memory", "sent as": name, **rate(len(batch), taken)}

    workers = 2 if setting.quick else min(8, os.cpu_count() or 1)
    # In one stage of large batches; the first ones only start the processes.
    first, count = workers, 4 if setting.quick else 100
    stage = {"iters": first + count, "gt_size": 128, "batch_size_per_gpu": 32}
    options = quickstart(setting, first + count, f"datasets:train:stages={json.dumps([stage])}")
    parts = build_parts(options, 1, training=True)
    for name, dataset in (("float32", AsFloats(parts.train_set)), ("8-bit", parts.train_set)):
        sampler = ProgressiveBatchSampler(parts.stages, source_sizes(parts.train_set), seed=0)
        loader = build_train_loader(dataset, sampler, workers, pin_memory=setting.on_gpu)
        batches = iter(DevicePrefetcher(loader, setting.device))
        for _ in range(first):
            next(batches)
        taken = seconds_of(lambda batches=batches: [next(batches) for _ in range(count)], setting.device)
        batches.close()
        yield {"from": f"{workers} processes", "sent as": name, **rate(32, taken / count)}


class AsFloats:
    """A data set whose samples are sent as floats, as without ``compact``."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, request: SampleRequest, /) -> Any:
        return self._dataset[request]


def rate(images: int, seconds: float) -> Row:
    """Return the time of a batch of so many images, and their number a second."""
    return {"ms a batch": f"{1e3 * seconds:.2f}", "images/s": f"{images / seconds:.0f}"}


def speed(setting: Setting) -> Iterator[Row]:
    """Forward and backward pass, eager and compiled, against basicsr's SwinIR in float32."""
    choose_algorithms(deterministic=False)
    names = ["swinir", "edt_t_x2", "emt_x4"] if setting.quick else list(RESTORERS)
    own: list[tuple[str, Path | None]] = [(name, None) for name in names]
    released = [(name, path) for name in names for path in released_files(setting, name)]
    # What matters most first, as time may end before the list does.
    plan = [(False, precision, [*own, *released]) for precision in PRECISIONS]
    # Few kernels are enough to try the command itself.
    if setting.quick:
        plan.append((True, "float32", own[-1:]))
    else:
        plan += [(True, precision, own) for precision in ("bf16", "float32", "fp16")]
    base: dict[str, float] = {}
    for compiled, precision, cases in plan:
        for name, path in cases:
            label = f"{name}, released" if path else name
            row: Row = {"network": label, "precision": precision, "compiled": "yes" if compiled else ""}
            torch._dynamo.reset()
            row = tried(row, lambda case=(name, path), how=(precision, compiled): timed(setting, *case, *how))
            if (taken := row.pop("seconds", None)) is not None:
                if precision == "float32" and not compiled:
                    base[label] = taken
                for heading, other in (("SwinIR's", yardstick(name)), ("the release's", f"{name}, released")):
                    if other in base:
                        row[f"times {heading} speed"] = f"{base[other] / taken:.2f}"
            yield row


def timed(setting: Setting, name: str, path: Path | None, precision: str, compiled: bool) -> Row:
    """Return seconds an image of a forward and backward pass, peak memory, and time of the first one."""
    device, dtype = setting.device, PRECISIONS[precision]
    size, opt = RESTORERS[name]
    net = (released_network(path, opt) if path else bx.build_network(opt)).train().to(device)
    # A quarter of the side is enough to try the command itself.
    shape = (1, 3, size // 4, size // 4) if setting.quick else (8, 3, size, size)
    x = (torch.rand(shape) * pixel_range(net)).to(device)
    call = net if compile_blocks(net, compiled, shapes=1) else compile_whole(net, compiled, shapes=1)

    def step() -> None:
        net.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            y = call(x)
        (y[0] if isinstance(y, list) else y).float().abs().mean().backward()

    first = seconds_of(step, device)
    for _ in range(0 if setting.quick else 3):
        step()
    if setting.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    taken = median(seconds_of(step, device) for _ in range(1 if setting.quick else 10)) / len(x)
    row: Row = {"seconds": taken, "ms an image": f"{1e3 * taken:.2f}", "first step, s": f"{first:.1f}"}
    if setting.on_gpu:
        row["peak GB"] = f"{torch.cuda.max_memory_allocated() / 1e9:.2f}"
    return row


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
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


# --- what parts share -----------------------------------------------------------------------------------


def tried(row: Row, measure: Callable[[], Row]) -> Row:
    """Return a row with what was measured, or with what went wrong: the rows after it are wanted, too."""
    try:
        return row | measure()
    except Exception:
        return row | {"wrong": traceback.format_exc(limit=-3)}


def overrides_of(setting: Setting, iterations: int) -> list[str]:
    """Return overrides that let the quick start run for so many iterations, through all of its stages."""
    given = yaml.safe_load(QUICKSTART.read_text())["datasets"]["train"]["stages"]
    counts = [iterations // len(given)] * len(given)
    counts[-1] += iterations - sum(counts)
    made = [{**stage, "iters": count} for stage, count in zip(given, counts, strict=True)]
    return [
        f"datasets:train:stages={json.dumps(made)}",
        f"train:total_iter={iterations}",
        f"train:scheduler:periods=[{iterations}]",
        f"path:experiments_root={setting.folder}",
        *(["val:val_freq=~"] if setting.quick else []),
    ]


def quickstart(setting: Setting, iterations: int, *overrides: str) -> Options:
    """Return the quick start's options for a run in this process."""
    every = [*overrides_of(setting, iterations), f"num_gpu={int(setting.on_gpu)}", *overrides]
    return load_options(QUICKSTART, every)


def train(
    setting: Setting,
    name: str,
    device: str,
    iterations: int,
    overrides: list[str],
    *arguments: str,
    launcher: Iterable[str] = (),
) -> subprocess.Popen[bytes]:
    """Start the quick start with overrides, in a process group of its own; its words go to a file."""
    keys = [
        *overrides_of(setting, iterations),
        f"num_gpu={int(device == 'cuda')}",
        f"name={name}",
        "logger:print_freq=1",
        *overrides,
    ]
    with (setting.folder / f"{name}.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *launcher, "train.py", "-opt", QUICKSTART, *arguments, "--force_yml", *keys],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def last_words(setting: Setting, name: str) -> str:
    """Return the end of what a run has printed."""
    return (setting.folder / f"{name}.txt").read_text(errors="replace")[-500:]


def logged_losses(folder: Path) -> list[float]:
    """Return the loss of every iteration of a run."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["l_pix"] for line in lines if "l_pix" in line]


def compared(setting: Setting, first: str, second: str, iterations: int, what: str) -> Row:
    """Return whether two runs ended with the same weights."""
    files = [setting.folder / f"{name}/models/net_g_{iterations}.pth" for name in (first, second)]
    one, other = (torch.load(file, map_location="cpu", weights_only=True)["params_ema"] for file in files)
    different = [key for key in one if not torch.equal(one[key], other[key])]
    row: Row = {"run": what, "tensors": len(one), "different": len(different)}
    return {**row, "wrong": f"other weights, such as {different[0]}"} if different else row


PARTS: dict[str, tuple[Callable[[Setting], Iterable[Row]], float]] = {
    "fixtures": (fixtures, 60),
    "synchronisation": (synchronisation, 45),
    "resuming": (resuming, 75),
    "one_rank": (one_rank, 60),
    "tiles": (tiles, 20),
    "transfer": (transfer, 30),
    "precision": (precision, 100),
    "speed": (speed, 300),
}
"""What each part runs, and after how many seconds of eight minutes it is stopped."""
