"""Train every fold of a cross-validation, one after the other, and write one table of their scores.

    python scripts/run_folds.py -opt options/catnet_abd_mri.yml
    python scripts/run_folds.py -opt options/catnet_abd_mri.yml --launcher pytorch --nproc_per_node 4

Fold k is a run of its own, experiments/<name>_fold<k>, in which fold: k is set in every data set that has
folds. A run that was stopped goes on, and one that has ended is not repeated, so an interrupted command can
simply be given again. The table has the scores of each fold's last validation, their mean and their standard
deviation, one row a metric (and data set, of several); it is written to experiments/<name>_folds.md and
.json, after every fold.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from _command import ROOT, CommandError, parser, positive, run

from basicsr_ext.config import OptionError, Options, load_options, paths
from basicsr_ext.files import user_path, write_atomically

Scores = dict[str, dict[str, float]]
"""By data set and metric."""


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    given = _parser().parse_args(arguments)
    try:
        options = load_options(given.opt, given.force_yml, phases=("train", "val"))
    except OptionError as error:
        raise CommandError(str(error)) from error
    sets, count = folded(options)
    folds = list(range(count)) if given.folds is None else given.folds
    if wrong := [fold for fold in folds if fold >= count]:
        raise CommandError(f"--folds: found {wrong[0]}, expected 0 to {count - 1}")

    results: dict[int, Scores] = {}
    for fold in folds:
        name = f"{options.name}_fold{fold}"
        scores = last_scores(options, name)
        if scores is None:
            chosen = [f"name={name}", *(f"{key}:fold={fold}" for key in sets)]
            train(given, chosen)
            scores = last_scores(options, name)
        else:
            print(f"fold {fold}: has ended before", flush=True)
        if scores is None:
            raise CommandError(f"{name} has ended without a validation; set val.val_freq and val.metrics")
        results[fold] = scores
        write_table(paths.run_folder(options.path.experiments_root, f"{options.name}_folds"), results)
    print(table(results))
    return []


def folded(options: Options) -> tuple[list[str], int]:
    """Return the keys of the data sets that have folds, as overrides have them, and the number of folds.

    Raises:
        CommandError: there is nothing to train, or sets that differ in the number of folds or have none.
    """
    if options.train is None or options.datasets.train is None:
        raise CommandError("the option file has no train section or no datasets.train")
    sections: dict[str, Any] = {"train": options.datasets.train, **options.datasets.evaluation("val")}
    counts = {
        f"datasets:{key}": section.folds for key, section in sections.items() if hasattr(section, "folds")
    }
    if "datasets:train" not in counts or len(counts) < 2:
        raise CommandError(
            "datasets.train and a validation set with folds are needed, such as of type FewShotVolumes"
        )
    if len(set(counts.values())) > 1:
        raise CommandError(f"data sets differ in their folds: {counts}")
    return list(counts), counts["datasets:train"]


def last_scores(options: Options, name: str) -> Scores | None:
    """Return the scores of a run's last iteration; None: it has not come that far, or has none."""
    assert options.train is not None, "folds are trained"
    folder = paths.run_folder(options.path.experiments_root, name)
    if not (folder / "models/net_g_latest.pth").is_file():  # written last
        return None
    found: Scores = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        kind, _, dataset = entry["kind"].partition("/")
        if kind == "val" and entry["iteration"] == options.train.total_iter:
            found[dataset] = {key: value for key, value in entry.items() if key not in ("kind", "iteration")}
    return found or None


def train(given: argparse.Namespace, chosen: Sequence[str]) -> None:
    """Train one fold, or what is left of it, as the launcher says.

    Raises:
        CommandError: it has not ended well; it has said why.
    """
    command = [
        *launched(given.launcher, given.nproc_per_node),
        str(ROOT / "train.py"),
        "-opt",
        str(given.opt),
    ]
    command += ["--launcher", given.launcher, "--auto_resume"]
    command += ["--force_yml", *given.force_yml, *chosen]
    process = subprocess.Popen(command)
    # Who stops this command means the run, which then saves a checkpoint; a terminal tells both of Ctrl-C.
    handlers = {signal.SIGTERM: lambda number, _: process.send_signal(number), signal.SIGINT: lambda *_: None}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code:
        run_name = chosen[0].removeprefix("name=")
        raise CommandError(f"{run_name} ended with exit code {code}; the same command goes on from there")


def launched(launcher: str, processes: int) -> list[str]:
    """Return what starts a Python script as one process or as many."""
    if launcher == "pytorch":
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={processes}",
        ]
    return ["srun", sys.executable] if launcher == "slurm" else [sys.executable]


# --- table -----------------------------------------------------------------------------------------


def rows(results: Mapping[int, Scores]) -> dict[tuple[str, str], dict[int, float]]:
    """Return the folds' scores by data set and metric."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for fold, scores in results.items():
        for dataset, values in scores.items():
            for metric, value in values.items():
                found.setdefault((dataset, metric), {})[fold] = value
    return found


def table(results: Mapping[int, Scores]) -> str:
    """Return a Markdown table: a row a score, a column a fold, mean and standard deviation."""
    found = rows(results)
    several = len({dataset for dataset, _ in found}) > 1
    lines = [
        " | ".join(["| score", *(f"fold {fold}" for fold in results), "mean", "deviation |"]),
        "|---|" + "--:|" * (len(results) + 2),
    ]
    for (dataset, metric), values in found.items():
        cells = [f"{values[fold]:.4f}" if fold in values else "" for fold in results]
        middle, deviation = _spread(values)
        name = f"{dataset}: {metric}" if several else metric
        lines.append(" | ".join([f"| {name}", *cells, f"{middle:.4f}", f"{_shown(deviation)} |"]))
    return "\n".join(lines)


def write_table(path: Path, results: Mapping[int, Scores]) -> None:
    """Write ``path`` with the suffixes .md and .json."""
    entries = []
    for (dataset, metric), values in rows(results).items():
        middle, deviation = _spread(values)
        entry = {"set": dataset, "score": metric, "folds": values, "mean": middle, "deviation": deviation}
        entries.append(entry)
    content = json.dumps(entries, indent=1, ensure_ascii=False)
    for suffix, text in ((".md", table(results)), (".json", content)):
        write_atomically(path.with_name(path.name + suffix), f"{text}\n".encode(), durable=False)


def _spread(values: Mapping[int, float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation; of one fold there is none."""
    return mean(values.values()), stdev(values.values()) if len(values) > 1 else None


def _shown(deviation: float | None) -> str:
    return "" if deviation is None else f"{deviation:.4f}"


def _parser() -> argparse.ArgumentParser:
    command = parser(__doc__)
    command.add_argument("-opt", "--opt", type=user_path, required=True, metavar="FILE", help="option file")
    command.add_argument("--folds", type=_fold, nargs="+", metavar="K", help="default: all")
    command.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm"],
        default="none",
        help="what starts a run's processes: nothing, torchrun, or srun inside an allocation; default: none",
    )
    command.add_argument(
        "--nproc_per_node", type=positive, default=1, metavar="N", help="with pytorch: processes; default: 1"
    )
    command.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:KEY=VALUE", help="set options")
    return command


def _fold(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is not the number of a fold, 0 or more")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(run(main))
