"""Score a network as papers do: published weights and test sets in, the published numbers out.

    python scripts/benchmark.py --weights EMT_LSR_x4.pth --protocol sr_x4 --data datasets/Set5 datasets/Set14
    python scripts/benchmark.py --weights net_g_best.pth --protocol denoise_color_25 --data datasets/CBSD68
    python scripts/benchmark.py --weights net.pth --opt my.yml --protocol derain_y --data datasets/Rain100L

A protocol says how low quality is made of ground truth and how results are compared with it
(docs/benchmarking.md). Ground truth is what lies in a folder, or in its sub-folder HR, GT or target; where
low quality cannot be made, it is read from the sub-folder input, LQ, rain or blur, or from --lq. Whole images
are run unless --tile says otherwise. --out writes benchmark.md, benchmark.json, images.csv, and with
--save_images every result. Weights are recognised as by infer.py; else --opt names an option file with their
network_g.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from _command import CommandError, add_device, device_of, parser, positive, run
from rich.console import Console
from rich.table import Table

from basicsr_ext import load_options
from basicsr_ext.archs.counting import Count, count, hd_input
from basicsr_ext.archs.padding import requirement_of
from basicsr_ext.archs.weights import read_checkpoint
from basicsr_ext.config.protocols import PROTOCOLS, Protocol
from basicsr_ext.data.benchmark_sets import BenchmarkSet, find_set
from basicsr_ext.engine import RUN_ERRORS
from basicsr_ext.engine.measuring import ImageResult, Measured, measure
from basicsr_ext.files import user_path, write_atomically
from basicsr_ext.inference.description import Description, describe
from basicsr_ext.inference.restore import channel_guesses
from basicsr_ext.models.restoration_model import RestorationOptions
from basicsr_ext.plugins import PluginError

_TASKS = {"scales": "sr_x{}", "noise_levels": "dn_g{}", "rain_levels": "dr_{}"}
"""Arguments of EDT, and its name for the task of each of their values."""


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    given = _parser().parse_args(arguments)
    protocol = PROTOCOLS[given.protocol]
    if given.lq and len(given.lq) != len(given.data):
        raise CommandError(f"--lq names {len(given.lq)} folders for the {len(given.data)} of --data")
    if given.save_images and not given.out:
        raise CommandError("--save_images needs --out, a folder for them")
    inputs = given.lq or [None] * len(given.data)
    sets = [
        find_set(folder, protocol, lq, given.filename_tmpl)
        for folder, lq in zip(given.data, inputs, strict=True)
    ]
    try:
        description = describe(given.weights, given.opt, given.plugins)
        description.require_restoring(given.weights)
        options = load_options(_options(given, protocol, description, sets), phases=("test",))
        assert isinstance(options, RestorationOptions), "no other kind of run is described"
        measured = measure(options, device_of(given.device))
    except (PluginError, RuntimeError, *RUN_ERRORS) as error:
        raise CommandError(str(error)) from error
    report = _report(given, protocol, description, sets, measured)
    _print(report)
    if given.out:
        _write(given.out, report, measured.images)
    return []


# --- what is run ------------------------------------------------------------------------------------


def _options(
    given: argparse.Namespace, protocol: Protocol, description: Description, sets: Sequence[BenchmarkSet]
) -> dict[str, Any]:
    """Return the options of a test that test.py could run as well."""
    if description.normalised:
        raise ValueError(f"{given.weights}: trained with mean or std in its data set, which is not supported")
    network, task = _for_one_task(dict(description.network), protocol, given.task)
    names: list[str] = []
    for found in sets:
        same = [name for name in names if name.split(" (")[0] == found.name]
        names.append(f"{found.name} ({len(same) + 1})" if same else found.name)
    # Which grey a network of one channel was trained on; beyond super-resolution the protocol says.
    colour = {"color": description.color} if protocol.scale > 1 and description.color else {}
    tests = {
        f"test_{number}": {**found.option, **colour, "name": name}
        for number, (name, found) in enumerate(zip(names, sets, strict=True), start=1)
    }
    return {
        "name": "images",
        "scale": protocol.scale,
        "plugins": list(description.plugins),
        "datasets": tests,
        "network_g": network,
        "path": {
            "pretrain_network_g": str(given.weights),
            "param_key_g": "params_ema" if "params_ema" in read_checkpoint(given.weights) else None,
            "pretrain_tasks": task,
            "results_root": str(given.out or "results"),
        },
        "val": {
            "protocol": given.protocol,
            "window_size": description.window_size,
            "self_ensemble": given.self_ensemble,
            "tile": given.tile,
            "save_img": bool(given.out and given.save_images),
            "suffix": given.protocol,
            "pbar": True,
        },
    }


def _for_one_task(
    network: dict[str, Any], protocol: Protocol, asked: str | None
) -> tuple[dict[str, Any], list[str] | None]:
    """Return the network with the one of its tasks that the protocol, or the user, is about.

    Raises:
        ValueError: it has several, and it is not clear which one is meant, or not the one that is asked for.
    """
    tasks = {
        name.format(value): (argument, value)
        for argument, name in _TASKS.items()
        for value in network.get(argument) or []
    }
    if not tasks:
        if asked is not None:
            raise ValueError(f"--task {asked}: the weights are for one task without a name")
        return network, None
    noise = protocol.data.get("sigma_test")
    fitting = asked or (f"sr_x{protocol.scale}" if protocol.scale > 1 else f"dn_g{noise}")
    if asked is None and fitting not in tasks and len(tasks) == 1:
        fitting = next(iter(tasks))
    if fitting not in tasks:
        raise ValueError(f"the weights are for {', '.join(tasks)}; choose one with --task")
    argument, value = tasks[fitting]
    return {**network, **{other: [] for other in _TASKS}, argument: [value]}, [fitting]


# --- what is told -----------------------------------------------------------------------------------


def _report(
    given: argparse.Namespace,
    protocol: Protocol,
    description: Description,
    sets: Sequence[BenchmarkSet],
    measured: Measured,
) -> dict[str, Any]:
    """Return everything that is known of the measurement, as plain data."""
    cost = _count(measured.network, protocol.scale, description.window_size)
    return {
        "protocol": given.protocol,
        "reproduces": protocol.paper,
        "ours": protocol.ours,
        "metrics": list(protocol.metrics),
        "border": protocol.border,
        "compared": "Y" if protocol.luma else "all channels",
        "weights": str(given.weights),
        "sha256": hashlib.sha256(given.weights.read_bytes()).hexdigest(),
        "network": dict(description.network),
        "recognised_by": description.origin,
        "parameters": sum(parameter.numel() for parameter in measured.network.parameters()),
        "multiply_adds_1280x720": None if cost is None else cost.multiply_adds,
        "self_ensemble": given.self_ensemble,
        "tile": given.tile,
        "device": _device_name(device_of(given.device)),
        "torch": torch.__version__,
        "sets": {
            name: {
                "folder": found.option["dataroot_gt"],
                "images": len(images := [image for image in measured.images if image.dataset == name]),
                **evaluation.flat(),
                "seconds_an_image": fmean(image.seconds for image in images),
                "peak_memory_bytes": max(image.memory for image in images),
                "remarks": list(found.remarks),
            }
            for found, (name, evaluation) in zip(sets, measured.sets.items(), strict=True)
        },
    }


def _count(network: torch.nn.Module, scale: int, window_size: int | None) -> Count | None:
    """Return what a result of 1280 x 720 pixels takes, if the network can be counted."""
    for channels in channel_guesses(network):
        try:
            return count(network, (channels, *hd_input(scale)), requirement_of(network, window_size))
        except (RuntimeError, ValueError, TypeError, NotImplementedError):
            continue
    return None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: one row a set."""
    metrics = report["metrics"]
    headings = ["set", "images", *metrics]
    with_bicubic = any(
        f"bicubic_{metric}" in of_set for of_set in report["sets"].values() for metric in metrics
    )
    headings += [f"bicubic {metric}" for metric in metrics] if with_bicubic else []
    rows = []
    for name, of_set in report["sets"].items():
        scores = [_score(metric, of_set[metric]) for metric in metrics]
        if with_bicubic:
            scores += [_score(metric, of_set[f"bicubic_{metric}"]) for metric in metrics]
        memory = f"{of_set['peak_memory_bytes'] / 2**20:,.0f}"
        rows.append([name, str(of_set["images"]), *scores, f"{of_set['seconds_an_image']:.3f}", memory])
    return [*headings, "s/image", "peak MiB"], rows


def _score(metric: str, value: float) -> str:
    return f"{value:.4f}" if metric == "ssim" else f"{value:.2f}"


def _facts(report: dict[str, Any]) -> list[str]:
    """Return what the table's numbers are of, a line each."""
    facts = [
        f"protocol {report['protocol']}, as {report['reproduces']}"
        + (f"; ours: {report['ours']}" if report["ours"] else ""),
        f"{report['network']['type']}, {report['parameters']:,} parameters"
        + (
            f", {report['multiply_adds_1280x720'] / 1e9:,.1f} G multiply-adds for 1280 x 720"
            if report["multiply_adds_1280x720"]
            else ""
        ),
        f"{report['weights']} ({report['recognised_by']})",
        f"on {report['device']}, torch {report['torch']}"
        + (", self-ensemble of 8" if report["self_ensemble"] else "")
        + (f", in tiles of {report['tile']}" if report["tile"] else ""),
    ]
    remarks = [f"{name}: {remark}" for name, of in report["sets"].items() for remark in of["remarks"]]
    return facts + [f"note: {remark}" for remark in remarks]


def _print(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)
    headings, rows = _table(report)
    table = Table(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    for fact in _facts(report):
        console.print(fact, markup=False, soft_wrap=True)
    console.print(table)


def _write(folder: Path, report: dict[str, Any], images: Sequence[ImageResult]) -> None:
    headings, rows = _table(report)
    lines = [headings, ["---", *["--:"] * (len(headings) - 1)], *rows]
    table = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    facts = "".join(f"- {fact}\n" for fact in _facts(report))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    metrics, baselines = (
        report["metrics"],
        sorted({name for image in images for name in image.baselines}),
    )
    beside = [(baseline, metric) for baseline in baselines for metric in metrics]
    writer.writerow(
        [
            "set",
            "image",
            *metrics,
            *("_".join(pair) for pair in beside),
            "width",
            "height",
            "seconds",
            "peak_bytes",
        ]
    )
    for image in images:
        others = [image.baselines.get(baseline, {}).get(metric, "") for baseline, metric in beside]
        scores = [image.scores[metric] for metric in metrics]
        size = [image.width, image.height, f"{image.seconds:.4f}", image.memory]
        writer.writerow([image.dataset, image.name, *scores, *others, *size])
    contents = {
        "benchmark.md": f"# {report['network']['type']}, {report['protocol']}\n\n{table}\n{facts}",
        "benchmark.json": json.dumps(_finite(report), indent=1, ensure_ascii=False) + "\n",
        "images.csv": text.getvalue(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(folder / name, content.encode(), durable=False)
    print(f"written to {folder}: {', '.join(contents)}")


def _finite(value: Any) -> Any:
    """Return plain data with text for what JSON has no number for: inf of images without any difference."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _parser() -> argparse.ArgumentParser:
    command = parser(__doc__)
    command.add_argument("--weights", type=user_path, required=True, help="a checkpoint")
    command.add_argument(
        "--opt", "-opt", type=user_path, metavar="FILE", help="option file with its network_g"
    )
    command.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        required=True,
        metavar="NAME",
        help=f"one of {', '.join(PROTOCOLS)}",
    )
    command.add_argument("--data", type=user_path, nargs="+", required=True, metavar="DIR", help="test sets")
    command.add_argument("--lq", type=user_path, nargs="+", metavar="DIR", help="their low quality, one each")
    command.add_argument(
        "--filename_tmpl", default="{}", help="of --lq, such as {}x4 for baby.png's babyx4.png"
    )
    command.add_argument("--out", type=user_path, metavar="DIR", help="where reports are written")
    command.add_argument("--save_images", action="store_true", help="with --out: results, too")
    command.add_argument("--self_ensemble", action="store_true", help="average over eight orientations")
    command.add_argument(
        "--tile", type=positive, help="run images in tiles of this side, which changes scores"
    )
    command.add_argument("--task", help="of a network with several")
    command.add_argument("--plugins", nargs="+", default=[], metavar="MODULE", help="modules to import")
    add_device(command)
    return command


if __name__ == "__main__":
    raise SystemExit(run(main))
