"""What do CAT-Net's parts give? Train it without each of them, on made abdomens, with several seeds.

    python benchmarks/catnet_ablation.py                 # every run that has no record yet, then the table
    python benchmarks/catnet_ablation.py --seeds 0       # the table alone

The rows are those of the paper's ablations (arXiv:2303.13867, tables 2 and 3): the number of refinement
rounds, whose foreground enhances whom, masks, prior mask; and the computation of the released code. Runs
differ in nothing but row and seed. Training sees supervoxels and no label; Dice and IoU are taken over liver,
kidneys and spleen of other patients. A run that was stopped goes on, and each leaves one record (JSON).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from attention_comparison import processor

import basicsr_ext as bx
from basicsr_ext.data.phantoms import ORGANS
from basicsr_ext.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
WHOLE = "4 rounds, both directions, masks, prior"
ROWS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    "no round": {"blocks": 0},
    "1 round": {"blocks": 1},
    "2 rounds": {"blocks": 2},
    "3 rounds": {"blocks": 3},
    "support enhances query only": {"cross_attention": "support_to_query"},
    "query enhances support only": {"cross_attention": "query_to_support"},
    "no cross attention": {"cross_attention": "none"},
    "no masks": {"masks": False},
    "no prior mask": {"prior": False},
    "as released": {"variant": "released"},
}
"""What each row changes in the network."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What all runs share.

    Attributes:
        iterations: of training.
        batch: episodes an iteration.
        side: of the slices; a multiple of 8.
        patients: to train on.
        queries: patients to evaluate on, besides the support.
        dim: width of the network, behind two stages of a ResNet-18.
    """

    iterations: int = 500
    batch: int = 4
    side: int = 96
    patients: int = 12
    queries: int = 5
    dim: int = 32


def options(row: str, seed: int, settings: Settings, folder: Path) -> dict[str, Any]:
    """Return the options of one run, which is kept in ``folder``."""
    phantoms = {"type": "PhantomVolumes", "shape": [24, settings.side, settings.side]}
    switches = ROWS[row]
    if switches.get("variant") == "released":
        switches = {**switches, "feature_size": [settings.side // 8] * 2}
    scores = [(name, {"type": name}) for name in ("Dice", "IoU")]
    scores += [(f"Dice {organ}", {"type": "Dice", "organ": organ}) for organ in ORGANS]
    return {
        "name": folder.name,
        "model_type": "FewShotModel",
        "num_gpu": 0,
        "manual_seed": seed,
        "datasets": {
            "train": {
                **phantoms,
                "split": "train",
                "patients": settings.patients,
                # The default is for 96 x 96 voxels a slice.
                "supervoxel_size": round(1000 * (settings.side / 96) ** 2),
                "gt_size": settings.side,
                "batch_size_total": settings.batch,
                "num_worker_per_gpu": 0,
                # The release's are for 256 pixels.
                "min_size": 30,
                "shift": 4.0,
                "elastic_alpha": 3.0,
            },
            "val": {**phantoms, "split": "val", "name": "val", "patients": settings.queries + 1},
        },
        "network_g": {
            "type": "CATNet",
            "backbone": "resnet18",
            "stages": 2,
            "dim": settings.dim,
            **switches,
        },
        "path": {"experiments_root": str(folder.parent)},
        "train": {
            "total_iter": settings.iterations,
            "ema_decay": 0.98,
            "grad_clip_norm": 1.0,
            "optim_g": {"type": "SGD", "lr": 1e-2, "momentum": 0.9, "weight_decay": 5e-4},
            "scheduler": {
                "type": "CosineLRScheduler",
                "t_initial": settings.iterations,
                "lr_min": 1e-4,
            },
        },
        "val": {"val_freq": settings.iterations, "metrics": dict(scores)},
        "logger": {
            "print_freq": max(settings.iterations // 4, 1),
            "save_checkpoint_freq": max(settings.iterations // 4, 1),
            "keep_checkpoints": 1,
            "use_tb_logger": False,
        },
    }


def run(row: str, seed: int, settings: Settings, folder: Path) -> Record:
    """Train once, or what is left of it, and return the record."""
    written = options(row, seed, settings, folder)
    started = time.process_time()
    summary = bx.train(bx.load_options(written), auto_resume=True)
    lines = [json.loads(line) for line in (summary.folder / "metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if line["kind"] == "val/val"][-1]
    names = written["val"]["metrics"]
    return {
        "row": row,
        "seed": seed,
        "settings": asdict(settings),
        "network": written["network_g"],
        "cpu_seconds": round(time.process_time() - started, 1),
        "torch": torch.__version__,
        "device": processor(),
        "scores": {name: scores[name] for name in names},
        "support_mask": {name: scores[f"support_mask_{name}"] for name in names},
    }


# --- table -----------------------------------------------------------------------------------------


def load(folder: Path, settings: Settings) -> list[Record]:
    """Return the records of a folder.

    Raises:
        ValueError: there are none, or one is of other settings.
    """
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    if not records:
        raise ValueError(f"no records in {folder}")
    for record in records:
        if record["settings"] != asdict(settings):
            raise ValueError(
                f"{folder} has a record of other settings: {record['row']}, seed {record['seed']}:"
                f" {record['settings']}; give another folder as --records"
            )
    return records


def table(records: Sequence[Record]) -> str:
    """Return a Markdown table: mean and standard deviation over the seeds."""
    names = list(records[0]["scores"])
    of_row = {row: {r["seed"]: r["scores"] for r in records if r["row"] == row} for row in ROWS}
    of_row = {row: scores for row, scores in of_row.items() if scores}
    lines = [
        " | ".join(["| network", *names, "Dice beside the first row's", "seeds |"]),
        "|---|" + "--:|" * (len(names) + 2),
    ]
    whole = of_row.get(WHOLE, {})
    for row, scores in of_row.items():
        cells = [_with_spread([score[name] for score in scores.values()]) for name in names]
        changes = [scores[seed]["Dice"] - whole[seed]["Dice"] for seed in scores if seed in whole]
        beside = "" if row == WHOLE or not changes else _with_spread(changes, "+")
        lines.append(" | ".join([f"| {row}", *cells, beside, f"{len(scores)} |"]))
    copied: Mapping[str, float] = records[0]["support_mask"]
    lines.append(" | ".join(["| copying the support's mask", *(f"{copied[n]:.3f}" for n in names), "", " |"]))
    return "\n".join(lines)


def _with_spread(values: Sequence[float], sign: str = "") -> str:
    middle = f"{mean(values):{sign}.3f}"
    return middle if len(values) < 2 else f"{middle} ± {stdev(values):.3f}"


def main(given: Sequence[str] | None = None) -> int:
    """Run what has no record, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
    parser.add_argument("--seeds", type=int, default=3, help="runs a row; default: 3")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; default: 1")
    parser.add_argument("--records", type=Path, default=ROOT / "benchmarks/records/catnet_ablation")
    parser.add_argument("--work", type=Path, default=ROOT / "experiments/catnet_ablation")
    arguments = parser.parse_args(given)
    torch.set_num_threads(arguments.threads)
    settings = Settings(**{name: getattr(arguments, name) for name in asdict(Settings())})
    for seed in range(arguments.seeds):
        for row in arguments.rows:
            name = f"{row.replace(',', '').replace(' ', '_')}-{seed}"
            record = arguments.records / f"{name}.json"
            if not record.is_file():
                found = run(row, seed, settings, arguments.work / name)
                write_atomically(record, (json.dumps(found, indent=1) + "\n").encode())
    print(table(load(arguments.records, settings)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
