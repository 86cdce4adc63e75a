"""Published and own weights: read a checkpoint safely, unwrap it, load it, say what fitted."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..files import user_path

DESCRIPTION = "basicsr_ext"
"""Of a checkpoint, beside ``params`` and ``params_ema``: what network it is of; others pass over it."""

Source = str | PathLike[str] | Mapping[str, Any]

# Where weights hide in a checkpoint, best first: averaged ones are those to use.
_WRAPPERS = ("params_ema", "params", "state_dict", "model", "net", "net_g", "network", "generator")
# What DataParallel, torch.compile and Lightning modules put before every key.
_PREFIXES = ("module.", "_orig_mod.", "net_g.", "model.", "net.", "network.", "generator.")
# Buffers of Swin-like networks that follow from their configuration.
_DERIVED = re.compile(r"(^|\.)(attn_mask(_[hv])?|relative_position_index|relative_coords_table)$")


class WeightsFileError(ValueError):
    """A file that cannot be read as weights; the message names it and says why."""


class WeightsError(ValueError):
    """Weights that do not fit a network; :attr:`report` says which, the message lists all of them."""

    def __init__(self, message: str, report: LoadReport) -> None:
        self.report = report
        super().__init__(message)


@dataclass(frozen=True)
class Part:
    """What became of one top-level module; each a number of tensors and one of values in them.

    Attributes:
        taken: loaded into the network.
        initialised: of the network, and as they were before.
        left: in the checkpoint, and not used.
    """

    taken: tuple[int, int] = (0, 0)
    initialised: tuple[int, int] = (0, 0)
    left: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor; all entries are state-dict keys.

    Attributes:
        taken: loaded into the network.
        left: in the checkpoint and not meant for this network (other tasks, parts beside the network).
        missing: in the network, not in the checkpoint; they keep their values.
        unexpected: in the checkpoint, unknown to the network.
        mismatched: in both with different shapes: (key, shape in the checkpoint, shape in the network).
        entry: of the checkpoint that was read, such as ``params_ema``; empty where it holds bare weights.
        other_entries: of the checkpoint that hold weights, too.
        parts: the same by top-level module, in the network's order.
    """

    taken: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    entry: str = ""
    other_entries: tuple[str, ...] = ()
    parts: Mapping[str, Part] = field(default_factory=dict)

    def table(self) -> str:
        """Return a row a top-level module: tensors, and in parentheses values, that came from where."""
        rows = [("module", "taken from the file", "initialised", "left in the file")]
        rows += [
            (name, *(f"{n:,} ({values:,})" if n else "-" for n, values in (p.taken, p.initialised, p.left)))
            for name, p in self.parts.items()
        ]
        first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = (
            (name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True)))
            for name, *cells in rows
        )
        return "\n".join("  ".join(line) for line in lines)

    def __str__(self) -> str:
        """Give one line of counts, and one for each part that was left."""
        counts = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.mismatched,
        }
        text = f"{len(self.taken)} tensors {self.entry and f'of {self.entry!r} '}taken"
        text += "".join(f", {len(keys)} {what}" for what, keys in counts.items() if keys)
        parts = sorted({key.split(".")[0] for key in self.left})
        return text + (f", {len(self.left)} left ({', '.join(parts)})" if parts else "")

    def problems(self) -> list[str]:
        """Return one line for each key that is missing, unexpected or of another shape."""
        return [
            *(f"missing: {key}" for key in self.missing),
            *(f"unexpected: {key}" for key in self.unexpected),
            *(
                f"shape: {key} is {list(found)} in the weights, {list(expected)} in the network"
                for key, found, expected in self.mismatched
            ),
        ]


def load_weights(
    net: nn.Module,
    source: Source,
    strict: bool = True,
    param_key: str | None = None,
    tasks: Sequence[str] | None = None,
    new_tasks: bool = False,
) -> LoadReport:
    """Copy weights into ``net`` and report what was taken and what was left.

    Derived buffers (masks, index tables) in ``source`` are ignored: the network makes its own. A network
    with tasks (EDT) takes the shared body and the parts of its own tasks from a checkpoint of more. A network
    with a method ``adapt_weights`` (SwinTransformer) sees the other weights first, and returns them as it has
    them: resized for its window, under the keys of its release.

    Args:
        net: the network, bare or wrapped by DistributedDataParallel or torch.compile.
        source: a checkpoint file (see :func:`read_checkpoint`) or its content; the weights may be wrapped
            in ``params_ema``, ``params``, ``state_dict``, ``model``…, and keys may begin with ``module.``,
            ``_orig_mod.`` or a Lightning attribute.
        strict: raise unless every tensor of the network is found and fits, and none is left unexplained.
            Otherwise load what fits.
        param_key: take this entry of the checkpoint, or ``params`` where it is missing, as BasicSR does;
            default: averaged weights where there are any. ``params`` also means what lies in no entry.
        tasks: of a network with tasks, take only these tasks' parts (and the body); the other tasks' parts
            keep their values.
        new_tasks: of a network with tasks, those that ``source`` does not know keep their values, even if
            ``strict``: it is to be trained on them.

    Raises:
        WeightsFileError: the file cannot be read as weights.
        WeightsError: nothing fits; or ``strict``, and something does not fit: every such key is listed.
        ValueError: ``param_key`` or one of ``tasks`` is unknown.
    """
    net = _bare(net)
    where = "the given weights" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else read_checkpoint(source)
    own = net.state_dict()
    is_derived = _derived_test(net)

    entry = _entry(content, param_key, where)
    stored = _unwrap(content, entry, where)
    state, beside = _strip_prefixes(stored, own)
    state = {key: value for key, value in state.items() if not is_derived(key)}
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = getattr(net, "adapt_weights", None)
    if adapt is not None:
        state = adapt(state)
    stored |= state
    foreign = _foreign_parts(net, state, tasks, where)
    unknown = _unknown_tasks(net, state) if new_tasks else ()
    left = [key for key in state if foreign(key)]
    state = {key: value for key, value in state.items() if not foreign(key)}

    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    # Batch normalisation only counts its batches for the reader; old checkpoints lack the counter.
    optional = [key for key in own if is_derived(key) or key.endswith(".num_batches_tracked")]
    missing = [key for key in own if key not in state and key not in optional]
    report = LoadReport(
        taken=tuple(fitting),
        left=(*left, *beside),
        missing=tuple(missing),
        unexpected=tuple(key for key in state if key not in own),
        mismatched=tuple(
            (key, tuple(value.shape), tuple(own[key].shape))
            for key, value in state.items()
            if key in own and key not in fitting
        ),
        entry=entry,
        other_entries=tuple(
            key for key in _WRAPPERS if key != entry and isinstance(content.get(key), Mapping)
        ),
    )
    report = replace(report, parts=_by_module(report, own, stored))
    if not fitting:
        found, expected = (", ".join(list(keys)[:3]) for keys in (stored, own))
        message = f"none of its {len(stored)} tensors ({found}, …) fits {type(net).__name__} ({expected}, …)"
        raise WeightsError(f"{where}: {message}", report)
    # Only a caller who names tasks can make own parts foreign; those are meant to keep their values.
    demanded = replace(
        report, missing=tuple(key for key in missing if not foreign(key) and key not in unknown)
    )
    if strict and (problems := demanded.problems()):
        raise WeightsError("\n  ".join([f"{where}: does not fit {type(net).__name__}", *problems]), report)
    net.load_state_dict(fitting, strict=False)
    return report


def released_state_dict(net: nn.Module) -> dict[str, Tensor]:
    """Return a network's state dict with all that strict loading in its released code asks for.

    Masks and tables follow from the configuration, so files of ours hold none; EDT's and GRL's code insists
    on its own, for the ``image_size`` and ``img_size`` that it is built with. Save the result with
    ``torch.save``.

    Args:
        net: bare, or wrapped by DistributedDataParallel or torch.compile.

    Raises:
        ValueError: these sizes do not fit the network's windows.
    """
    net = _bare(net)
    buffers: Callable[[], dict[str, Tensor]] = getattr(net, "released_buffers", dict)
    return {**net.state_dict(), **buffers()}


def read_checkpoint(path: str | PathLike[str]) -> Mapping[str, Any]:
    """Return what a .pth, .pt, .ckpt, .bin or .safetensors file holds, on the CPU, without running code.

    Raises:
        WeightsFileError: the file is empty, truncated, not a checkpoint, or a pickle that would run code.
        FileNotFoundError: there is no such file.
    """
    path = user_path(path)
    with path.open("rb") as file:
        head = file.read(2)
    if not head:
        raise WeightsFileError(f"{path}: the file is empty")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, head)
    if not isinstance(content, Mapping):
        raise WeightsFileError(f"{path}: holds a {type(content).__name__}, not named weights")
    return content


def bare_weights(content: Mapping[str, Any], where: object) -> dict[str, Tensor]:
    """Return the best weights of a checkpoint's content, without wrappers and their prefixes.

    Raises:
        WeightsFileError: it holds none; the message begins with ``where``.
    """
    state = _unwrap(content, "", str(where))
    while prefix := next((p for p in _PREFIXES if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _read_pickle(path: Path, head: bytes) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, before an error that says more
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen types for files it did not write
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            reason = f"refused, reading it would run {refused[1]}; save only its state_dict where it was made"
        elif head[:1] == pickle.PROTO and head[1:] > b"\2":
            reason = "refused, a plain pickle could run code; write it with torch.save or as .safetensors"
        else:
            reason = "not a checkpoint, or a damaged one"
        raise WeightsFileError(f"{path}: {reason}") from error


def _read_safetensors(path: Path) -> object:
    """Return the tensors; where scripts/export.py has written the file, as a checkpoint's ``params``."""
    try:
        from safetensors import SafetensorError, safe_open  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise WeightsFileError(f"{path}: reading it needs 'pip install safetensors'") from error
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            told = (file.metadata() or {}).get(DESCRIPTION)
        return tensors if told is None else {"params": tensors, DESCRIPTION: json.loads(told)}
    except (SafetensorError, ValueError) as error:
        raise WeightsFileError(f"{path}: not a safetensors file, or a damaged one ({error})") from error


def _bare(net: nn.Module) -> nn.Module:
    while isinstance(inner := getattr(net, "module", getattr(net, "_orig_mod", None)), nn.Module):
        net = inner
    return net


def _entry(content: Mapping[str, Any], param_key: str | None, where: str) -> str:
    """Return which entry of a checkpoint to read; empty: the weights lie in none."""
    entries = [key for key, value in content.items() if isinstance(value, Mapping)]
    wanted = _WRAPPERS if param_key is None else (param_key, "params")
    found = next((key for key in wanted if key in entries), None)
    if found is None and param_key not in (None, "params"):
        present = ", ".join(map(repr, sorted(entries))) or "bare weights only"
        raise ValueError(f"{where}: has no entry {param_key!r}; it has {present}")
    return found or next((key for key in _WRAPPERS if key in entries), "")


def _unwrap(content: Mapping[str, Any], entry: str, where: str) -> dict[str, Tensor]:
    content = content[entry] if entry else content
    while wrapper := next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None):
        content = content[wrapper]
    weights = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise WeightsFileError(f"{where}: holds no weights; its entries are {sorted(map(str, content))[:20]}")
    return weights


def _strip_prefixes(state: dict[str, Tensor], own: Iterable[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Remove wrappers' prefixes until keys match; return the network's weights and the keys beside it."""
    expected, beside = set(own), []
    while state and expected.isdisjoint(state):
        prefix = next((p for p in _PREFIXES if any(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        beside += [key for key in state if not key.startswith(prefix)]
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return state, beside


def _derived_test(net: nn.Module) -> Callable[[str], bool]:
    """Return a test for keys that follow from the configuration: the network's own pattern, and Swin's."""
    patterns = [_DERIVED, *(p for p in [getattr(net, "derived_keys", None)] if isinstance(p, re.Pattern))]
    return lambda key: any(pattern.search(key) for pattern in patterns)


def _by_module(
    report: LoadReport, own: Mapping[str, Tensor], stored: Mapping[str, Tensor]
) -> dict[str, Part]:
    mismatched = [key for key, _, _ in report.mismatched]
    columns = {
        "taken": (report.taken, own),
        "initialised": ([*report.missing, *mismatched], own),
        "left": ([*report.left, *report.unexpected, *mismatched], stored),
    }
    parts = {key.partition(".")[0]: Part() for key in own}
    for column, (keys, weights) in columns.items():
        for key in keys:
            module = key.partition(".")[0]
            part = parts.get(module, Part())
            tensors, values = getattr(part, column)
            parts[module] = replace(part, **{column: (tensors + 1, values + weights[key].numel())})
    return {module: part for module, part in parts.items() if part != Part()}


def _unknown_tasks(net: nn.Module, state: Iterable[str]) -> set[str]:
    """Return the keys of a network's tasks of which a checkpoint has nothing."""
    task_of: Callable[[str], str | None] | None = getattr(net, "task_of", None)
    if task_of is None:
        return set()
    known = {None, *map(task_of, state)}
    return {key for key in net.state_dict() if task_of(key) not in known}


def _foreign_parts(
    net: nn.Module, state: Iterable[str], tasks: Sequence[str] | None, where: str
) -> Callable[[str], bool]:
    """Return a test for keys that belong to tasks which are not to be loaded."""
    own_tasks, task_of = getattr(net, "tasks", None), getattr(net, "task_of", None)
    if own_tasks is None or not callable(task_of):
        if tasks is not None:
            raise ValueError(f"tasks: {type(net).__name__} has no tasks to choose from")
        return lambda key: False
    stored = {task for key in state if (task := task_of(key))}
    for task in tasks or ():
        if task not in own_tasks:
            raise ValueError(f"tasks: {task!r} is not one of the network's tasks {list(own_tasks)}")
        if task not in stored:
            raise ValueError(f"{where}: has no parts for task {task!r}; it has {sorted(map(str, stored))}")
    wanted = {None, *(own_tasks if tasks is None else tasks)}
    return lambda key: task_of(key) not in wanted
