"""Fit a published training schedule to fewer or smaller GPUs, with as many samples an iteration as published.

    python scripts/rescale_schedule.py -opt options/restormer_deraining.yml --gpus 2 --memory 24
    python scripts/rescale_schedule.py -opt my_restormer_file.yml --gpus 1 --memory 16 --out mine.yml

Where each GPU can take fewer samples at once, it takes several micro-batches an iteration, in each stage as
few as it can (train.grad_accum): the gradient is that of the published batch, and learning rate, iterations
and stages stay as they are. Prints the arithmetic, and writes an option file that differs in nothing else,
with all its comments. Where a stage cannot keep its batch it is said which and why, and nothing is
written unless --nearest asks for the nearest batches there are; the learning rate then follows in proportion
if all stages change alike.

Memory is measured where there is a GPU, else estimated. Of what a GPU has, 0.8 GiB are left to CUDA, and 8 %
of the rest to gaps between tensors: rules of thumb.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from _command import CommandError, add_device, device_of, parser, positive, run
from rich.console import Console
from rich.table import Table

from basicsr_ext import build_network, load_options
from basicsr_ext.config import Options, accumulated, resolved_stages
from basicsr_ext.config.stages import StageOptions
from basicsr_ext.config.yaml_text import edited
from basicsr_ext.engine.preflight.footprint import Footprint, footprint
from basicsr_ext.files import user_path, write_atomically
from basicsr_ext.plugins import PluginError, import_plugins

_GIB = 2**30
_CUDA = 0.8 * _GIB
_GAPS = 0.08


@dataclass(frozen=True)
class Plan:
    """Batches of a schedule on some GPUs.

    Attributes:
        accumulated: micro-batches an iteration, stage by stage.
        micro: samples of a micro-batch of one GPU, stage by stage.
        totals: samples of an iteration, stage by stage.
    """

    accumulated: tuple[int, ...]
    micro: tuple[int, ...]
    totals: tuple[int, ...]


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    given = _parser().parse_args(arguments)
    try:
        # Weights to start from need not be here.
        options = load_options(given.opt, [*given.force_yml, "path=~"], phases=())
        import_plugins(options.plugins)
        published = _published(options, given.from_gpus)
        network = build_network({"type": options.network_g.type, **options.network_g.kwargs})
    except (PluginError, LookupError, TypeError) as error:
        raise CommandError(str(error)) from error
    stages, train = resolved_stages(options), options.train
    assert train is not None, "what has stages is trained"
    patches = [stage.gt_size for stage in stages]
    needs = footprint(network, train, patches, options.scale, given.gpus, device_of(given.device))
    usable = (given.memory * _GIB - _CUDA) * (1 - _GAPS)
    largest = [needs.largest_batch(patch, usable) for patch in patches]
    kept = keep(published, largest, given.gpus)
    plan = kept or nearest(published, largest, given.gpus)
    problems = [] if kept else reasons(published, largest, patches, given.gpus)
    _print(given, options, needs, usable, largest, published, plan)
    if plan is None or (problems and not given.nearest):
        advice = "--nearest writes the nearest batches there are" if plan else "train.amp: bf16 takes less"
        return [*problems, f"nothing is written; {advice}"]
    for problem in problems:
        print(f"note: {problem}")
    out = given.out or given.opt.with_name(f"{given.opt.stem}_{given.gpus}x{given.memory:g}.yml")
    _write(given, options, plan, published, out)
    return []


def _published(options: Options, from_gpus: int | None) -> tuple[int, ...]:
    """Return the samples of an iteration of each stage, as the file was written for.

    Raises:
        ValueError: that takes a number of GPUs that the file does not tell, or nothing is trained.
    """
    train, stages = options.train, resolved_stages(options)
    if train is None or not stages:
        raise ValueError(f"{options.source.file}: there is nothing to train")
    gpus = from_gpus or (options.num_gpu if isinstance(options.num_gpu, int) else 0)
    if not gpus and any(stage.batch_size_total is None for stage in stages):
        raise ValueError(
            f"{options.source.file} has batch sizes per GPU and does not say how many; --from_gpus does"
        )
    return tuple(
        stage.batch_size_total or (stage.batch_size_per_gpu or 1) * gpus * grad_accum
        for stage, grad_accum in zip(stages, accumulated(options), strict=True)
    )


# --- the arithmetic ---------------------------------------------------------------------------------


def keep(published: Sequence[int], largest: Sequence[int], gpus: int) -> Plan | None:
    """Return the plan with the largest micro-batches of those that keep every batch, if there is one.

    Args:
        published: samples of an iteration, stage by stage.
        largest: samples that one GPU can take at once, stage by stage.
        gpus: how many there are.
    """
    if min(largest) < 1 or any(total % gpus for total in published):
        return None
    return _plan([total // gpus for total in published], largest, gpus)


def nearest(published: Sequence[int], largest: Sequence[int], gpus: int) -> Plan | None:
    """Return the plan with the batches that are, in proportion, nearest to the published ones.

    None where a GPU cannot take a single sample of some stage.
    """
    if min(largest) < 1:
        return None
    return _plan([_nearest_share(total, gpus) for total in published], largest, gpus)


def _plan(shares: Sequence[int], largest: Sequence[int], gpus: int) -> Plan:
    """Return how GPUs take their shares of an iteration's samples, with as few micro-batches as they can."""
    accumulated = tuple(
        next(count for count in range(1, share + 1) if share % count == 0 and share // count <= most)
        for share, most in zip(shares, largest, strict=True)
    )
    micro = tuple(share // count for share, count in zip(shares, accumulated, strict=True))
    return Plan(accumulated, micro, tuple(share * gpus for share in shares))


def _nearest_share(total: int, gpus: int) -> int:
    """Return the whole number that, times ``gpus``, is in proportion the nearest to ``total``."""
    below = max(1, total // gpus)
    return min(below, below + 1, key=lambda share: abs(math.log(share * gpus / total)))


def reasons(published: Sequence[int], largest: Sequence[int], patches: Sequence[int], gpus: int) -> list[str]:
    """Return why batches cannot be kept, a line for each stage that is in the way."""
    lines = []
    for number, (total, most, patch) in enumerate(zip(published, largest, patches, strict=True), start=1):
        stage = f"stage {number} (patch {patch})"
        if most < 1:
            lines.append(f"{stage}: not even one sample fits into a GPU")
        elif total % gpus:
            lines.append(f"{stage}: {total} samples cannot be shared out equally among {gpus} GPUs")
    return lines


# --- telling and writing ----------------------------------------------------------------------------


def _print(
    given: argparse.Namespace,
    options: Options,
    needs: Footprint,
    usable: float,
    largest: Sequence[int],
    published: Sequence[int],
    plan: Plan | None,
) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=160)

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    parts = [
        f"{name} {getattr(needs, name) / _GIB:.2f}"
        for name in ("weights", "gradients", "moments", "average", "buckets")
        if getattr(needs, name)
    ]
    say(f"{options.name}: {given.gpus} GPU(s) of {given.memory:g} GiB; memory {needs.basis}")
    say(f"usable: ({given.memory:g} - {_CUDA / _GIB:g}) x {1 - _GAPS:g} = {usable / _GIB:.2f} GiB")
    say(f"whatever the batch: {' + '.join(parts)} = {needs.fixed / _GIB:.2f} GiB")
    amp = options.train.amp if options.train else "no"
    if amp != "no" and "estimated" in needs.basis:
        say(f"estimated in float32: with train.amp: {amp} it is less")
    table = Table()
    headings = ["stage", "iterations", "patch", "GiB a sample", "fit at once", "published batch"]
    headings += ["per GPU x micro-batches x GPUs", "GiB"] if plan else []
    for heading in headings:
        table.add_column(heading, justify="right")
    for number, stage in enumerate(resolved_stages(options)):
        sample = needs.sample[stage.gt_size]
        row = [number + 1, f"{stage.iters:,}", stage.gt_size, f"{sample / _GIB:.2f}", largest[number]]
        row.append(published[number])
        if plan:
            micro, total = plan.micro[number], plan.totals[number]
            row.append(f"{micro} x {plan.accumulated[number]} x {given.gpus} = {total}")
            row.append(f"{(needs.fixed + micro * sample) / _GIB:.2f}")
        table.add_row(*map(str, row))
    console.print(table)


def _write(
    given: argparse.Namespace, options: Options, plan: Plan, published: Sequence[int], out: Path
) -> None:
    """Write the option file, and read it back.

    Raises:
        CommandError: it exists, or what is written cannot be read as what was meant.
    """
    if out.exists() and not given.overwrite:
        raise CommandError(f"{out} exists; name another file with --out, or add --overwrite")
    assert options.train is not None, "what is rescaled is trained"
    changes = dict(_changes(options, plan, given.gpus))
    ratios = {new / old for new, old in zip(plan.totals, published, strict=True)}
    rate = options.train.optim_g.lr
    if ratios == {1.0}:
        print(f"learning rate: {rate:g}, as published, as every batch is")
    elif len(ratios) == 1:
        changes["train.optim_g.lr"] = float(f"{rate * ratios.pop():.6g}")
        print(f"learning rate: {rate:g} x new / published batch = {changes['train.optim_g.lr']:g}")
    else:
        words = ", ".join(
            f"stage {number} {rate * new / old:.3g}"
            for number, (new, old) in enumerate(zip(plan.totals, published, strict=True), start=1)
            if new != old
        )
        print(f"learning rate: {rate:g}, unchanged; in proportion to the batch it would be: {words}")
    text = edited(given.opt.read_text(encoding="utf-8-sig"), changes)
    write_atomically(out, text.encode(), durable=False)
    written = load_options(out, [*given.force_yml, "path=~"], phases=())
    if _published(written, given.gpus) != plan.totals or written.train is None:
        raise CommandError(f"{out} does not say what was meant: do aliases (*name) stand for batch sizes?")
    for key, value in changes.items():
        print(f"{key}: {value}")
    print(f"written to {out}")


def _changes(options: Options, plan: Plan, gpus: int) -> list[tuple[str, int | float | list[int]]]:
    """Return the keys that change, in the spelling of the file."""
    train, data = options.train, options.datasets.loader
    assert train is not None, "what is rescaled is trained"
    assert data is not None, "what is rescaled is trained"
    changes: list[tuple[str, int | float | list[int]]] = []
    if isinstance(options.num_gpu, int) and options.num_gpu not in (0, gpus):
        changes.append(("num_gpu", gpus))
    if plan.accumulated != accumulated(options):
        alike = len(set(plan.accumulated)) == 1
        changes.append(("train.grad_accum", plan.accumulated[0] if alike else list(plan.accumulated)))
    section = "datasets.train"
    for number, (micro, total) in enumerate(zip(plan.micro, plan.totals, strict=True)):
        if data.mini_batch_sizes and not data.stages:
            key, old, new = f"mini_batch_sizes.{number}", data.mini_batch_sizes[number], micro
        else:
            stage: StageOptions = resolved_stages(options)[number]
            prefix = f"stages.{number}." if data.stages else ""
            if stage.batch_size_total is not None:
                key, old, new = f"{prefix}batch_size_total", stage.batch_size_total, total
            else:
                key, old, new = f"{prefix}batch_size_per_gpu", stage.batch_size_per_gpu, micro
        if new != old:
            changes.append((f"{section}.{key}", new))
    if data.mini_batch_sizes and data.batch_size_per_gpu not in (None, max(plan.micro)):
        changes.append((f"{section}.batch_size_per_gpu", max(plan.micro)))
    return changes


def _memory(text: str) -> float:
    try:
        memory = float(text)
    except ValueError:
        memory = 0.0
    if not 1 <= memory < 10_000:
        raise argparse.ArgumentTypeError(f"{text} is not a number of GiB, such as 24")
    return memory


def _parser() -> argparse.ArgumentParser:
    command = parser(__doc__)
    command.add_argument("-opt", "--opt", type=user_path, required=True, metavar="FILE", help="option file")
    command.add_argument("--gpus", type=positive, required=True, help="how many there are")
    command.add_argument("--memory", type=_memory, required=True, metavar="GiB", help="of each")
    command.add_argument("--from_gpus", type=positive, help="how many the file was written for")
    command.add_argument("--out", type=user_path, metavar="FILE", help="default: FILE_<gpus>x<memory>.yml")
    command.add_argument("--overwrite", action="store_true", help="write even if there is such a file")
    command.add_argument("--nearest", action="store_true", help="write the nearest batches if need be")
    command.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:KEY=VALUE", help="set options")
    add_device(command)
    return command


if __name__ == "__main__":
    raise SystemExit(run(main))
