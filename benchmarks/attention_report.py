"""Tables, plots and a plain answer from the records of attention_comparison.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import numpy as np

Record = dict[str, Any]

TITLES = {"sr_x2": "×2 super-resolution", "denoise_25": "Denoising, sigma 25"}
PLAIN = "mswin"
DEFORMABLE = {
    "mswin_deformable_branch": "a deformable branch beside the windows",
    "mswin_deformable_keys": "windows that move their keys",
}
_STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Two-sided 95 % points of Student's t by degrees of freedom."""


@dataclass(frozen=True)
class Difference:
    """What one mixer has more than another, in dB, seed by seed.

    Attributes:
        values: one a seed that both were trained with.
    """

    values: Sequence[float]

    @property
    def middle(self) -> float:
        """The mean."""
        return mean(self.values)

    @property
    def margin(self) -> float:
        """Half the width of the mean's 95 % confidence interval; infinite of one seed."""
        count = len(self.values)
        if count < 2:
            return float("inf")
        return _STUDENT.get(count - 1, 1.96) * stdev(self.values) / count**0.5

    def verdict(self) -> str:
        """Say in words what the seeds show."""
        count = len(self.values)
        if count < 2:
            return f"{self.middle:+.3f} dB with one seed, from which nothing follows"
        interval = f"{self.middle:+.3f} ± {self.margin:.3f} dB (95 % interval, {count} seeds)"
        if abs(self.middle) <= self.margin:
            return f"no difference that these seeds show: {interval}"
        return f"{'it gains' if self.middle > 0 else 'it loses'}: {interval}"


def load(folder: Path) -> list[Record]:
    """Return the records of a folder.

    Raises:
        ValueError: there are none, or they are not of one comparison.
    """
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]
    if not records:
        raise ValueError(f"no records in {folder}; run attention_comparison.py all first")
    for record in records:
        if record["settings"] != records[0]["settings"]:
            raise ValueError(
                f"{folder} has records of different settings: {record['settings']} ({record['mixer']}, "
                f"{record['task']}, seed {record['seed']}) and {records[0]['settings']}"
            )
    return records


def of_task(records: Sequence[Record], task: str) -> dict[str, list[Record]]:
    """Return a task's records by mixer, best first."""
    chosen = sorted((r for r in records if r["task"] == task), key=lambda r: (r["mixer"], r["seed"]))
    groups = {mixer: list(group) for mixer, group in groupby(chosen, key=lambda r: r["mixer"])}
    return dict(sorted(groups.items(), key=lambda item: -mean(map(final, item[1]))))


def final(record: Record) -> float:
    """Return the PSNR that a run ended with."""
    return record["curve"][-1]["psnr"]


def at_time(seconds: float, cost: float) -> Callable[[Record], float]:
    """Return the function that gives a run's PSNR after so many seconds, interpolated.

    Args:
        seconds: of training.
        cost: seconds of an iteration.
    """

    def psnr(record: Record) -> float:
        curve = record["curve"]
        times = [point["iteration"] * cost for point in curve]
        return float(np.interp(seconds, times, [point["psnr"] for point in curve]))

    return psnr


def cost_of(records: Sequence[Record]) -> float:
    """Return the seconds of an iteration, forward and backward."""
    return median(record["seconds_per_iteration"] for record in records)


def compare(
    ours: Sequence[Record],
    others: Sequence[Record],
    measure: Callable[[Record], float],
    measure_others: Callable[[Record], float],
) -> Difference | None:
    """Compare two mixers by the seeds that both have; None without any."""
    by_seed = {record["seed"]: record for record in others}
    pairs = [(record, by_seed[record["seed"]]) for record in ours if record["seed"] in by_seed]
    if not pairs:
        return None
    return Difference([measure(record) - measure_others(other) for record, other in pairs])


def table(groups: dict[str, list[Record]]) -> str:
    """Return the table of one task."""
    lines = [
        "| mixer | PSNR, dB | seeds | parameters | multiply-adds | s/iteration | memory | width, ratio |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for mixer, records in groups.items():
        scores = [final(record) for record in records]
        spread = f" ± {stdev(scores):.3f}" if len(scores) > 1 else ""
        first = records[0]
        ratio = first["network"]["feed_forward"]["ratio"]
        cells = [
            f"`{mixer}`",
            f"{mean(scores):.3f}{spread}",
            str(len(scores)),
            f"{first['parameters']:,}",
            f"{first['multiply_adds'] / 1e6:.0f} M",
            f"{cost_of(records):.3f}",
            f"{median(record['peak_megabytes'] for record in records):.0f} MB",
            f"{first['network']['dim']}, {ratio:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def answers(groups: dict[str, list[Record]]) -> list[str]:
    """Say for each design whether deformable attention pays in one task."""
    lines = []
    for design, words in DEFORMABLE.items():
        if design not in groups or PLAIN not in groups:
            continue
        ours, plain = groups[design], groups[PLAIN]
        costs = cost_of(ours), cost_of(plain)
        seconds = min(
            ours[0]["curve"][-1]["iteration"] * costs[0], plain[0]["curve"][-1]["iteration"] * costs[1]
        )
        equal_steps = compare(ours, plain, final, final)
        equal_time = compare(ours, plain, at_time(seconds, costs[0]), at_time(seconds, costs[1]))
        if equal_steps is None or equal_time is None:
            continue
        lines += [
            f"- `{design}` ({words}), an iteration of which takes {costs[0] / costs[1]:.2f} times as long:",
            f"  - at equal parameters and iterations, {equal_steps.verdict()};",
            f"  - at equal time ({seconds:.0f} s of forward and backward passes), {equal_time.verdict()}.",
        ]
    return lines


def plot(groups: dict[str, list[Record]], task: str, file: Path) -> bool:
    """Draw PSNR over iterations and over time; return whether matplotlib is there to do it."""
    try:
        from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    figure = Figure(figsize=(12, 5), layout="constrained")
    steps, times = figure.subplots(1, 2, sharey=True)
    for number, (mixer, records) in enumerate(groups.items()):
        iterations = np.array([point["iteration"] for point in records[0]["curve"]])
        scores = np.array([[point["psnr"] for point in record["curve"]] for record in records])
        middle, spread = scores.mean(0), scores.std(0, ddof=1) if len(scores) > 1 else 0
        style = {"color": f"C{number % 10}", "linestyle": "--" if number >= 10 else "-"}
        for axes, x in ((steps, iterations), (times, iterations * cost_of(records))):
            axes.plot(x, middle, label=mixer, **style)
            axes.fill_between(x, middle - spread, middle + spread, color=style["color"], alpha=0.15)
    steps.set(xlabel="iteration", ylabel="PSNR, dB", title=TITLES[task])
    times.set(xlabel="seconds of forward and backward passes", title="the same against time")
    times.legend(fontsize="small")
    figure.savefig(file, dpi=110)
    return True


def build_page(records: Sequence[Record], plots: dict[str, str]) -> str:
    """Return the page.

    Args:
        records: all of one comparison.
        plots: file name of each task's plot, as far as there are plots.
    """
    settings, first = records[0]["settings"], records[0]
    data = f"`{settings['data']}`" if settings["data"] else "the photographs that come with scikit-image"
    val_data = f"`{settings['val_data']}`" if settings["val_data"] else "pieces of three others of them"
    folders = (("--data", settings["data"]), ("--val-data", settings["val_data"]))
    arguments = "".join(f" {name} {folder}" for name, folder in folders if folder)
    threads = f", {settings['threads']} thread(s)" if settings["device"] == "cpu" else ""
    seeds = sorted({record["seed"] for record in records})
    parts = [
        f"""# Attention compared

Every token mixer in one body, `AttentionRestorer`
([architectures.md](architectures.md#one-body-any-attention)), with as many parameters, the same data,
batches, schedule and seeds; made by

```bash
python benchmarks/attention_comparison.py all{arguments}
python benchmarks/attention_comparison.py report
```

{settings["iterations"]} iterations of {settings["batch"]} patches, 48×48 at the body's resolution; Adam,
1e-3 to 1e-5 by a cosine; trained on {data}, evaluated on {val_data};
seeds {", ".join(map(str, seeds))}. Mixers have the arguments they come with: none was tuned. The width is a
multiple of four, and the hidden width of the feed-forward networks over it (*ratio*) fills up the
parameters. PSNR is of Y for super-resolution and of RGB for denoising, ± the standard deviation over seeds.
Multiply-adds are of one patch; seconds and memory of a forward and backward pass of a batch on
{first["device"]}{threads}, torch {first["torch"]}.
"""
    ]
    conclusions = []
    for task, title in TITLES.items():
        groups = of_task(records, task)
        if not groups:
            continue
        parts.append(f"\n## {title}\n\n{table(groups)}\n")
        bicubic = next((r["bicubic"] for group in groups.values() for r in group if r.get("bicubic")), None)
        if bicubic is not None:
            parts.append(f"\nBicubic enlargement has {bicubic:.3f} dB.\n")
        if task in plots:
            parts.append(f"\n![PSNR over iterations and time]({plots[task]})\n")
        if lines := answers(groups):
            conclusions.append(f"{title}:\n\n" + "\n".join(lines) + "\n")
    if conclusions:
        parts.append("\n## Does deformable attention added to MSwin pay?\n\n" + "\n".join(conclusions))
    parts.append(
        f"""
## What follows, and what does not

A difference smaller than the spread over seeds is none. At equal time the slower mixer is read off before
the end of its schedule, where its learning rate is still high: that counts against it. With
{first["parameters"] / 1000:.0f} thousand parameters and {settings["iterations"]} iterations this shows how
fast mixers learn at the very beginning. Published networks have 8 to 200 times the parameters and a
thousand times the iterations, and offsets that start at zero have had little time to move. Some mixers
contain convolutions, others do not; the table cannot tell attention from that. Nothing is said about other
tasks, larger images, or mixers with other arguments; `--data`, `--iterations` and `--parameters` are for
that.
"""
    )
    return "".join(parts)


def write_report(folder: Path, page: Path) -> None:
    """Write the page, and beside it a plot of each task if matplotlib is installed."""
    records = load(folder)
    plots = {}
    for task in TITLES:
        groups = of_task(records, task)
        file = page.with_name(f"{page.stem}_{task}.png")
        if groups and plot(groups, task, file):
            plots[task] = file.name
    if not plots:
        print("Without plots: pip install matplotlib")
    page.write_text(build_page(records, plots), encoding="utf-8")
    print(page)
