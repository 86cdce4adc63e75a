"""What a run has left in its folder, as plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..config import OptionError, Options, load_options
from ..config.schema import resolved_stages
from ..plugins import PluginError

_PICTURES = 12
"""Most pictures of a run that the page holds."""


class NoRunError(ValueError):
    """A folder without the records of a training run."""


@dataclass
class Series:
    """A recorded number: iterations, values in as many places, and how often it was not finite."""

    iterations: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    not_finite: int = 0
    first_not_finite: int | None = None

    def add(self, iteration: int, value: float) -> None:
        """Append a value."""
        if math.isfinite(value):
            self.iterations.append(iteration)
            self.values.append(value)
        else:
            self.not_finite += 1
            if self.first_not_finite is None:
                self.first_not_finite = iteration

    def thinned(self, points: int) -> Series:
        """Return at most ``points`` of them, with the extremes of every stretch, the first and the last."""
        if len(self.values) <= points:
            return self
        stretches = max(1, (points - 2) // 2)
        kept = {0, len(self.values) - 1}
        for i in range(stretches):
            start, stop = (len(self.values) * (i + k) // stretches for k in (0, 1))
            kept |= {min(range(start, stop), key=self.values.__getitem__)}
            kept |= {max(range(start, stop), key=self.values.__getitem__)}
        order = sorted(kept)
        return Series(
            [self.iterations[i] for i in order],
            [self.values[i] for i in order],
            self.not_finite,
            self.first_not_finite,
        )


@dataclass(frozen=True)
class Picture:
    """An image of a validation set: PNG file, and the names of the versions side by side in it."""

    dataset: str
    name: str
    file: Path
    versions: Sequence[str]


@dataclass(frozen=True)
class Run:
    """What is known of one run; what its folder does not tell is empty.

    Attributes:
        name: of its folder.
        series: by kind (``train``, ``val/<data set>``) and name.
        options: what its option file says, by dotted key.
        defaults: of these keys, where there is one.
        stages: iterations, patch, batch size of each.
        events: starts and ends, in order, as :mod:`..engine.history` records them.
        samples: scores by data set, image and metric, of the last validation.
        pictures: of validation images.
        network: parameters and multiply-adds, in words.
        total: iterations that the option file asks for.
    """

    name: str
    series: Mapping[str, Mapping[str, Series]]
    options: Mapping[str, Any]
    defaults: Mapping[str, Any]
    stages: Sequence[tuple[int, int, str]]
    events: Sequence[Mapping[str, Any]]
    samples: Mapping[str, Mapping[str, Mapping[str, float]]]
    pictures: Sequence[Picture]
    network: Mapping[str, str]
    total: int | None

    @property
    def last_iteration(self) -> int:
        """The last iteration that anything is recorded of."""
        recorded = [s.iterations[-1] for kind in self.series.values() for s in kind.values() if s.iterations]
        return max(recorded, default=0)


def read_run(folder: Path, points: int = 4000) -> Run:
    """Return what is known of the run in ``folder``.

    Args:
        folder: ``experiments/NAME``.
        points: most values of each curve.

    Raises:
        NoRunError: the folder holds no run's records.
    """
    metrics = folder / "metrics.jsonl"
    if not metrics.is_file():
        raise NoRunError(f"{folder}: expected a run's folder, experiments/NAME, which holds metrics.jsonl")
    series: dict[str, dict[str, Series]] = {}
    for entry in _entries(metrics):
        iteration, kind = entry.get("iteration"), entry.get("kind")
        if not isinstance(iteration, int) or not isinstance(kind, str):
            continue
        for name, value in entry.items():
            if name not in ("iteration", "kind") and isinstance(value, int | float):
                series.setdefault(kind, {}).setdefault(name, Series()).add(iteration, float(value))
    thinned = {kind: {name: s.thinned(points) for name, s in named.items()} for kind, named in series.items()}
    written, options = _options(folder)
    return Run(
        folder.resolve().name,
        thinned,
        dict(_flatten(written)),
        {} if options is None else dict(_defaults(written, options)),
        _stages(options),
        list(_entries(folder / "events.jsonl")),
        _samples(folder),
        _pictures(folder, options),
        _network(written),
        None if options is None or options.train is None else options.train.total_iter,
    )


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a file of one a line, without what a crash has cut short."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict):
                    yield entry


def _options(folder: Path) -> tuple[dict[str, Any], Options | None]:
    files = list(folder.glob("*.yml"))
    if len(files) != 1:
        return {}, None
    try:
        # Where it began, and where its folder was, no longer matters: neither has to be there.
        options = load_options(files[0], ["path=~"], phases=())
        return {key: value for key, value in options.to_mapping().items() if key != "path"}, options
    except (OptionError, PluginError):  # plug-ins or data that are elsewhere: what is written still tells
        with suppress(yaml.YAMLError, OSError, UnicodeDecodeError):
            written = yaml.safe_load(files[0].read_text(encoding="utf-8"))
            return (written, None) if isinstance(written, dict) else ({}, None)
        return {}, None


def _flatten(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flatten(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value


def _defaults(written: Any, section: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and default of what is written in a section and those below it."""
    fields = getattr(type(section), "model_fields", {})
    for name, value in written.items() if isinstance(written, Mapping) else ():
        dotted = f"{key}.{name}" if key else str(name)
        if name in fields and not isinstance(value, Mapping):
            if not fields[name].is_required():
                yield dotted, fields[name].get_default(call_default_factory=True)
        else:
            yield from _defaults(value, getattr(section, str(name), None), dotted)


def _stages(options: Options | None) -> list[tuple[int, int, str]]:
    if options is None:
        return []
    with suppress(ValueError):
        return [
            (
                stage.iters,
                stage.gt_size,
                f"{stage.batch_size_per_gpu} a GPU"
                if stage.batch_size_per_gpu
                else f"{stage.batch_size_total} in total",
            )
            for stage in resolved_stages(options)
        ]
    return []


def _samples(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for file in sorted(folder.glob("samples/*.json")):
        with suppress(OSError, ValueError, KeyError, AttributeError):
            content = json.loads(file.read_text(encoding="utf-8"))
            found[str(content["dataset"])] = dict(content["scores"])
    return found


def _pictures(folder: Path, options: Options | None) -> list[Picture]:
    """Return the pictures of the last validation: of the first images of every set."""
    found = []
    for listed in sorted(folder.glob("samples/*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            content = json.loads(listed.read_text(encoding="utf-8"))
            for number, (name, versions) in enumerate(content["pictures"].items()):
                file = listed.with_suffix("") / f"{number}.png"
                if file.is_file():
                    found.append(
                        Picture(str(content["dataset"]), str(name), file, [str(v) for v in versions])
                    )
    return found[:_PICTURES]


def _network(written: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters, and multiply-adds of a patch, of the network that an option file describes."""
    spec = written.get("network_g")
    if not isinstance(spec, Mapping):
        return {}
    try:
        return _counted(spec)
    except Exception as error:  # whatever a constructor raises for a network that is not there any more
        return {"network_g": f"could not be built here ({type(error).__name__})"}


_PATCH = 64


def _counted(spec: Mapping[str, Any]) -> dict[str, str]:
    import torch

    from ..archs import build_network
    from ..archs.counting import count

    with torch.device("meta"):
        network = build_network(spec)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    counted = {"parameters": f"{parameters:,} ({parameters / 1e6:.2f} M)"}
    with suppress(Exception):  # not every network takes one image of three channels, without values
        multiply_adds = count(network, (3, _PATCH, _PATCH)).multiply_adds
        counted[f"multiply-adds of an input of {_PATCH} x {_PATCH}"] = f"{multiply_adds / 1e9:.3f} G"
    return counted
