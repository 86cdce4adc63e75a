"""Recorded results of released networks: what to build, load and feed, and what must come out.

A fixture is ``<name>.json`` (constructor arguments, weight keys and shapes, inputs) with ``<name>.npz`` (the
recorded arrays). It stores no weights: every tensor follows from its key, every input from its seed. The
few in ``tests/fixtures`` come with the project; ``../shared/reference``, where it exists, holds all.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHIPPED = Path(__file__).parent / "fixtures"
SHARED = Path(__file__).parents[2] / "shared" / "reference"


@dataclass(frozen=True)
class Recorded:
    """One fixture."""

    name: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Constructor arguments as released (EDT: the MODEL section of its configuration)."""
        kwargs = self.meta["kwargs"]
        return kwargs["config"]["MODEL"] if "config" in kwargs else kwargs

    def weights(self) -> dict[str, np.ndarray]:
        """Return every tensor to load under its released key, float64."""
        gain = self.meta.get("gain", {})
        return {key: gain.get(key, 1.0) * tensor(key, shape) for key, shape in self.meta["keys"].items()}

    def inputs(self) -> list[np.ndarray]:
        """Return the inputs in call order, float64."""
        specs = self.meta.get("inputs") or self.meta["input"]
        return [_input(spec) for spec in (specs if isinstance(specs, list) else [specs])]

    def error(self, name: str, got: np.ndarray) -> float:
        """Return the norm of ``got`` minus the recorded array over the norm of the latter.

        Of large arrays only every so many values are recorded.
        """
        want = self.arrays[name].astype(np.float64)
        entry = self.meta.get("arrays", {}).get(name, {})
        if isinstance(entry, dict) and "flat_stride" in entry:
            got = got.reshape(-1)[:: entry["flat_stride"]]
        elif name == "dx" and (step := self.meta.get("dx_stride", 1)) > 1:
            got = got[..., ::step, ::step]
        assert got.shape == want.shape, f"{self.name}.{name}: {got.shape}, recorded {want.shape}"
        return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def load(path: Path) -> Recorded:
    """Load the fixture whose JSON file is ``path``."""
    with np.load(path.with_suffix(".npz")) as npz:
        arrays = {key: npz[key] for key in npz.files}
    return Recorded(path.stem, json.loads(path.read_text()), arrays)


def find(folder: Path, prefix: str) -> list[Path]:
    """Return the JSON files of the fixtures in ``folder`` whose names begin with ``prefix``."""
    return sorted(path.with_suffix(".json") for path in folder.glob(f"{prefix}*.npz"))


def tensor(key: str, shape: list[int]) -> np.ndarray:
    """Return the values that the tensor called ``key`` has in every fixture."""
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    leaf = key.rpartition(".")[2]
    if leaf == "running_var":
        return 1 + 0.1 * np.abs(noise)
    if leaf == "running_mean":
        return 0.1 * noise
    if len(shape) > 1:
        return noise / np.sqrt(max(int(np.prod(shape[1:])), 1))
    return 1 + 0.1 * noise if leaf in ("weight", "gamma") else 0.05 * noise


def _input(spec: dict[str, Any]) -> np.ndarray:
    if "ci_cj_ri_rj" in spec:  # masks, one ellipse each
        rows, columns = np.indices(spec["shape"])
        masks = [
            ((rows - ci) / ri) ** 2 + ((columns - cj) / rj) ** 2 <= 1
            for ci, cj, ri, rj in spec["ci_cj_ri_rj"]
        ]
        return np.stack(masks).astype(np.float64)
    noise = np.random.default_rng(spec["seed"]).random(spec["shape"])
    words = spec.get("range", "")
    if words.endswith("*4 - 2"):
        return noise * 4 - 2
    if words.endswith("minus 0.5"):
        return noise - 0.5
    offset = np.asarray(spec.get("offset", 0.0))  # one number, or one a channel
    return offset.reshape(-1, *(1,) * offset.ndim * 2) + spec.get("scale", 1.0) * noise
