"""Look through data sets for images and volumes that a run would stumble over; every one is decoded.

    python scripts/check_dataset.py -opt options/edt_x4.yml
    python scripts/check_dataset.py --gt datasets/DF2K/HR --lq datasets/DF2K/LR_bicubic/X4 --scale 4

Finds folders that are missing or empty, databases that cannot be opened, images that are truncated or
unreadable, without partner, of another size than their partner, smaller than the patch, or of another number
of colours. Finds volumes that are unreadable, without label or supervoxels or on another grid than these, of
voxels that are no numbers, empty, or without what is to be trained on or segmented. Writes what it found to
REPORT.txt and REPORT.json and exits with 1 if there was anything.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from os import cpu_count
from pathlib import Path

from rich.progress import track

from basicsr_ext.config import OptionError, load_options, resolved_stages
from basicsr_ext.config.datasets import for_training
from basicsr_ext.data.inspection import Finding, Opened, inspect_all, open_set
from basicsr_ext.data.paired_dataset import PairedImages
from basicsr_ext.files import user_path, write_atomically

Looked = tuple[Opened, list[Finding]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if (given.opt is None) == (given.gt is None):
        parser.error("give either -opt FILE or --gt FOLDER")
    try:
        sets = _from_options(given) if given.opt else _from_folders(given)
    except OptionError as error:
        print(error, file=sys.stderr)
        return 2
    findings = {name: _look_through(name, *opened, given.workers) for name, opened in sets.items()}
    checked = {name: len(opened) for name, (opened, _) in sets.items()}
    counts = {name: f"{len(opened):,} {opened.unit}" for name, (opened, _) in sets.items()}
    text = _as_text(counts, findings)
    print(text, end="")
    _write_report(given.report, text, checked, findings)
    return int(any(findings.values()))


def _from_options(given: argparse.Namespace) -> dict[str, Looked]:
    # Missing folders are findings here, not reasons to stop.
    options = load_options(given.opt, given.force_yml, phases=())
    for plugin in options.plugins:
        import_module(plugin)
    sets: dict[str, Looked] = {}
    if options.datasets.train is not None:
        largest = max(stage.gt_size for stage in resolved_stages(options))
        sets["train"] = open_set(options.datasets.train, options.scale, largest, given.channels)
    for phase in ("val", "test"):
        for key, option in options.datasets.evaluation(phase).items():
            sets[key] = open_set(option, options.scale, colours=given.channels)
    return sets


def _from_folders(given: argparse.Namespace) -> dict[str, Looked]:
    option = for_training(PairedImages)(
        type="PairedImageDataset",
        dataroot_gt=str(given.gt),
        dataroot_lq=None if given.lq is None else str(given.lq),
        filename_tmpl=given.filename_tmpl,
    )
    return {"folders": open_set(option, given.scale, given.gt_size or given.scale, given.channels)}


def _look_through(name: str, checked: Opened, findings: list[Finding], workers: int) -> list[Finding]:
    progress = track(
        inspect_all(checked, workers), description=name, total=len(checked), disable=not sys.stdout.isatty()
    )
    return findings + [finding for found in progress for finding in found]


def _as_text(counts: dict[str, str], findings: dict[str, list[Finding]]) -> str:
    lines = []
    for name, count in counts.items():
        kinds = Counter(finding.kind for finding in findings[name])
        summary = ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or "nothing wrong"
        lines.append(f"{name}: {count} looked through: {summary}")
        lines += [
            f"  {finding.kind}: {finding.path}: {' '.join(finding.message.split())}"
            for finding in findings[name]
        ]
    return "".join(line + "\n" for line in lines)


def _write_report(
    report: Path, text: str, checked: dict[str, int], findings: dict[str, list[Finding]]
) -> None:
    entries = [{"set": name, **asdict(finding)} for name in findings for finding in findings[name]]
    content = json.dumps({"checked": checked, "findings": entries}, indent=1, ensure_ascii=False)
    for suffix, data in ((".txt", text), (".json", content + "\n")):
        write_atomically(report.with_name(report.name + suffix), data.encode(), durable=False)


def _parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-opt", "--opt", type=user_path, metavar="FILE", help="look through all its data sets"
    )
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:KEY=VALUE", help="set options")
    parser.add_argument("--gt", type=user_path, help="folder or .lmdb of ground truth, instead of -opt")
    parser.add_argument("--lq", type=user_path, help="folder or .lmdb of its low-quality images")
    parser.add_argument("--scale", type=int, default=1, help="ground truth over low quality; default: 1")
    parser.add_argument(
        "--filename_tmpl", type=_template, default="{}", help="low-quality name, e.g. '{}x4'; default: '{}'"
    )
    parser.add_argument("--gt_size", type=int, help="side of the largest patch, with --gt")
    parser.add_argument(
        "--channels", type=int, choices=[1, 3], help="demand grey or colour; default: pairs must agree"
    )
    parser.add_argument("--workers", type=int, default=cpu_count() or 1, help="processes; default: all cores")
    parser.add_argument(
        "--report",
        type=user_path,
        default=Path("dataset_report"),
        help="without suffix; default: dataset_report",
    )
    return parser


def _template(text: str) -> str:
    if "{}" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} has no {{}} for the ground truth's name")
    return text


if __name__ == "__main__":
    raise SystemExit(main())
