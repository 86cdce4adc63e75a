"""Write an HTML page about training runs, one or several side by side, which opens from disk.

    python scripts/report.py experiments/edt_x4

writes experiments/edt_x4/report.html: curves, pictures, scores of single images, stages, options,
environment, interruptions. Training writes it at its end; this command makes it for a run that goes on, or
was stopped, and for comparisons. docs/report.md has more.
"""

from __future__ import annotations

from collections.abc import Sequence

from _command import parser, run

from basicsr_ext.files import user_path


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = parser(__doc__)
    command.add_argument(
        "runs", nargs="+", type=user_path, metavar="FOLDER", help="experiments/NAME; several are compared"
    )
    command.add_argument(
        "--out",
        type=user_path,
        metavar="FILE",
        help="page to write; default: report.html in the first run's folder",
    )
    options = command.parse_args(arguments)

    from basicsr_ext.report import write_report

    target = options.out or options.runs[0] / "report.html"
    write_report(options.runs, target)
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB")
    return []


if __name__ == "__main__":
    raise SystemExit(run(main))
