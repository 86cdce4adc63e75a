"""Everything that needs a GPU to be known, in one command: results, speed, memory, precision, resuming.

    python benchmarks/gpu.py [part ...] [--out FOLDER] [--released FOLDER] [--minutes 8]
    python benchmarks/gpu.py --device cpu --quick       # tries the command itself where no GPU is

Writes ``gpu.md`` and ``gpu.json``, anew after every part. Each runs in a process of its own: one that fails,
hangs or breaks the device is reported, and the next begins. A part that cannot end in what is left of the
time is stopped; what it has measured by then counts. Needs torch 2.6 or newer and no network. Exits with 1 if
a part failed.

``--released`` names a folder with the authors' repositories; a network whose file is found below it is timed
beside ours.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gpu_parts import PARTS, ROOT, Row, Setting


@dataclass
class Result:
    """What a part found out; ``wrong`` says in words what should be otherwise."""

    part: str
    rows: list[Row] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run_part(name: str, setting: Setting, out: Path) -> int:
    """Run a part in this process, writing what is known after every row."""
    result, start = Result(name), time.perf_counter()

    def write() -> None:
        result.seconds = time.perf_counter() - start
        # At once: the part may be stopped while it writes.
        written = out.with_suffix(".tmp")
        written.write_text(json.dumps(vars(result)))
        written.replace(out)

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
        command += ["--device", setting.device.type, "--folder", str(setting.folder)]
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
        write_files(results, arguments)
    return results


def write_files(results: list[Result], arguments: argparse.Namespace) -> None:
    """Write what is known so far; whatever ends the command leaves it."""
    title = f"# {'The smallest of everything' if arguments.quick else 'All that needs a GPU'}"
    measured_on = machine(arguments.device)
    sections = [f"{title}\n\n{measured_on}\n", *map(as_markdown, results)]
    (arguments.out / "gpu.md").write_text("\n".join(sections))
    found = {"machine": measured_on, "parts": [vars(result) for result in results]}
    (arguments.out / "gpu.json").write_text(json.dumps(found, indent=1))


def stop_all(process: subprocess.Popen[Any]) -> None:
    """End a part and all processes it has started, which are in groups of their own."""
    parents: dict[int, int] = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    family = [process.pid]
    for member in family:
        family += [pid for pid, parent in parents.items() if parent == member]
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def as_markdown(result: Result) -> str:
    """Return a part's results as a section with a table."""
    lines = [f"## {result.part}", "", inspect.getdoc(PARTS[result.part][0]) or "", ""]
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
    device = torch.device("cuda", 0) if arguments.device == "cuda" else torch.device("cpu")
    # Parts run in another folder.
    released = arguments.released and arguments.released.resolve()
    if arguments.part:
        setting = Setting(device, arguments.quick, released, arguments.folder)
        return run_part(arguments.part, setting, arguments.part_out)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        results = run_parts(Setting(device, arguments.quick, released, Path(folder)), arguments)
    return int(any(result.wrong for result in results))


if __name__ == "__main__":
    sys.exit(main())
