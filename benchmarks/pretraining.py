"""Does pre-training on several tasks help? A small EDT on the photographs that come with scikit-image.

    python benchmarks/pretraining.py              # every run that has no record yet, then the table
    python benchmarks/pretraining.py --report     # the table alone

For each seed, four runs: ``pretrained`` on x2 and x4 super-resolution and denoising at once; ``finetuned``
from its averaged weights on x4 alone; ``scratch``, x4 alone for as many iterations as the fine-tuning; and
``scratch_long``, x4 alone with the multiply-adds of pre-training and fine-tuning together. Evaluated is PSNR
on pieces of held-out photographs. Each run goes on where it was stopped and leaves one record (JSON). All
share images, seed, batch size and patches; runs from scratch have pre-training's higher learning rate.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from attention_comparison import ROOT, make_pieces, processor
from torch.utils.flop_counter import FlopCounterMode

import basicsr_ext as bx
from basicsr_ext.files import write_atomically

KINDS = ("pretrained", "finetuned", "scratch", "scratch_long")
SCALE = 4
TASKS = {"sr_x2": 2, "sr_x4": 4, "dn_g25": 1}


@dataclass(frozen=True)
class Settings:
    """What all runs share.

    Attributes:
        pretraining: iterations, each of all tasks.
        finetuning: iterations.
        batch: patches of each task.
        patch: side of low-quality patches of super-resolution; denoising has that times four.
    """

    pretraining: int = 120
    finetuning: int = 120
    batch: int = 4
    patch: int = 16


def network(several: bool) -> dict[str, Any]:
    """Return the network for all tasks, or for x4 alone."""
    tasks = {"scales": [2, 4], "noise_levels": [25]} if several else {"scales": [SCALE]}
    body = {"window_size": [4, 8], "embed_dim": 24, "depths": [4], "num_heads": [4], "drop_path_rate": 0}
    return {"type": "EDT", **tasks, **body, "num_feat": 8, "upsampler": "pixelshuffledirect"}


def multiply_adds(several: bool, settings: Settings) -> int:
    """Return the multiply-adds of one iteration's forward pass."""
    sides = [settings.patch * (1 if scale > 1 else SCALE) for scale in TASKS.values()]
    with torch.device("meta"):
        net = bx.build_network(network(several))
        images = [torch.rand(settings.batch, 3, side, side) for side in sides]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(images if several else images[list(TASKS).index(f"sr_x{SCALE}")])
    return counter.get_total_flops() // 2


def iterations(kind: str, settings: Settings) -> int:
    """Return how long a run is."""
    if kind == "pretrained":
        return settings.pretraining
    if kind != "scratch_long":
        return settings.finetuning
    cost = multiply_adds(True, settings) / multiply_adds(False, settings)
    return settings.finetuning + round(settings.pretraining * cost)


def options(kind: str, seed: int, settings: Settings, folder: Path) -> dict[str, Any]:
    """Return the options of one run, all of which lie in ``folder``."""
    several, total = kind == "pretrained", iterations(kind, settings)
    path = {"experiments_root": str(folder)}
    if kind == "finetuned":
        weights = folder / f"pretrained_{seed}/models/net_g_latest.pth"
        path |= {"pretrain_network_g": str(weights), "param_key_g": "params_ema"}
    return {
        "name": f"{kind}_{seed}",
        "model_type": "MultiTaskModel" if several else "RestorationModel",
        **({"tasks": [{"name": name} for name in TASKS]} if several else {"scale": SCALE}),
        "num_gpu": 0,
        "manual_seed": seed,
        "datasets": {
            "train": {
                "type": "SampleImages",
                "num_worker_per_gpu": 0,
                "gt_size": settings.patch * SCALE,
                "batch_size_per_gpu": settings.batch,
            },
            "val": {
                "type": "PairedImageDataset",
                "dataroot_gt": str(folder / "pieces"),
                **({} if several else {"scale": SCALE}),
                "name": "val",
            },
        },
        "network_g": network(several),
        "path": path,
        "train": {
            "total_iter": total,
            "ema_decay": 0.98,
            "optim_g": {"type": "Adam", "lr": 5e-4 if kind == "finetuned" else 1e-3, "betas": [0.9, 0.99]},
            "scheduler": {
                "type": "CosineAnnealingRestartLR",
                "periods": [total],
                "restart_weights": [1],
                "eta_min": 1e-6,
            },
            "pixel_opt": {"type": "L1Loss"},
        },
        "val": {
            "val_freq": total,
            "metrics": {
                "psnr": {"type": "calculate_psnr", "crop_border": SCALE, "test_y_channel": True},
            },
        },
        "logger": {
            "print_freq": max(total // 5, 1),
            "save_checkpoint_freq": max(total // 4, 1),
            "keep_checkpoints": 1,
            "use_tb_logger": False,
        },
    }


def run(kind: str, seed: int, settings: Settings, folder: Path) -> dict[str, Any]:
    """Train once and return the record."""
    make_pieces(folder / "pieces")
    summary = bx.train(bx.load_options(options(kind, seed, settings, folder)), auto_resume=True)
    name = f"val_sr_x{SCALE}" if kind == "pretrained" else "val"
    return {
        "kind": kind,
        "seed": seed,
        "settings": asdict(settings),
        "iterations": summary.iteration,
        "multiply_adds": summary.iteration * multiply_adds(kind == "pretrained", settings),
        "psnr": summary.best[name]["psnr"]["value"],
        "bicubic": summary.baselines["bicubic"][name]["psnr"],
        "torch": torch.__version__,
        "device": processor(),
    }


def table(records: dict[tuple[str, int], dict[str, Any]], seeds: list[int]) -> str:
    """Return what came out, as Markdown: each run, and fine-tuning against either run from scratch."""
    shown = [kind for kind in KINDS if all((kind, seed) in records for seed in seeds)]
    lines = [
        f"| run | iterations | {' | '.join(f'seed {seed}' for seed in seeds)} | mean ± deviation |",
        f"|---|---:|{'---:|' * (len(seeds) + 1)}",
    ]
    for kind in shown:
        of_kind = [records[kind, seed] for seed in seeds]
        lines.append(_row(kind, f"{of_kind[0]['iterations']:,}", [one["psnr"] for one in of_kind]))
    for against in ("scratch", "scratch_long"):
        if {"finetuned", against} <= {*shown}:
            gains = [records["finetuned", s]["psnr"] - records[against, s]["psnr"] for s in seeds]
            lines.append(_row(f"finetuned - {against}", "", gains))
    return "\n".join(lines)


def _row(name: str, iterations: str, values: list[float]) -> str:
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    cells = " | ".join(f"{value:.3f}" for value in values)
    return f"| {name} | {iterations} | {cells} | {fmean(values):.3f}{spread} |"


def main() -> int:
    """Run what is missing, and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = Settings()
    parser.add_argument("--pretraining", type=int, default=defaults.pretraining, help="iterations")
    parser.add_argument("--finetuning", type=int, default=defaults.finetuning, help="iterations")
    parser.add_argument("--batch", type=int, default=defaults.batch)
    parser.add_argument("--patch", type=int, default=defaults.patch)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--records", type=Path, default=ROOT / "benchmarks/records/pretraining")
    parser.add_argument("--work", type=Path, default=ROOT / "experiments/pretraining")
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    settings = Settings(**{name: getattr(arguments, name) for name in Settings.__dataclass_fields__})
    torch.set_num_threads(1)
    # A stopped run goes on with the settings it began with.
    name = "-".join(str(value) for value in asdict(settings).values())
    records: dict[tuple[str, int], dict[str, Any]] = {}
    seeds = list(range(arguments.seeds))
    for seed in seeds:
        for kind in KINDS:
            file = arguments.records / name / f"{kind}-{seed}.json"
            if not file.is_file() and not arguments.report:
                record = run(kind, seed, settings, arguments.work / name)
                write_atomically(file, (json.dumps(record, indent=1) + "\n").encode())
            if file.is_file():
                records[kind, seed] = json.loads(file.read_text())
    print(table(records, seeds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
