"""Published test protocols: how low quality is made of ground truth, and what is measured of the result.

A protocol is a row of :data:`PROTOCOLS`. ``val.protocol`` names it in an option file, ``--protocol`` on the
command line of ``scripts/benchmark.py``; either way it is written out as option keys before these are
checked, so that whatever evaluates, evaluates by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from ..registry import DATASETS
from ..spelling import nearest
from .errors import Problem
from .values import alternatives, show


@dataclass(frozen=True)
class Protocol:
    """How published numbers of one kind were measured, always on results rounded to 8 bit.

    Attributes:
        paper: whose numbers it reproduces.
        scale: side of the result over side of the input.
        data: keys of each evaluation set, which make low quality.
        border: pixels left out on each side.
        luma: compare Y of MATLAB's ycbcr, unrounded, rather than all channels.
        metrics: names of basicsr's or our functions without ``calculate_``.
        stored: low quality is not made but read, from files that are published with the ground truth.
        choices: keys that each set has to say itself: the values, and which one is for what.
        ours: what was found in nobody's release.
    """

    paper: str
    scale: int = 1
    data: Mapping[str, Any] = field(default_factory=dict)
    border: int = 0
    luma: bool = False
    metrics: tuple[str, ...] = ("psnr", "ssim")
    stored: bool = False
    choices: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ours: str = ""

    def val(self) -> dict[str, Any]:
        """Return what it says of the ``val`` section."""
        arguments = {"crop_border": self.border, "test_y_channel": self.luma}
        metrics = {name: {"type": f"calculate_{name}", **arguments} for name in self.metrics}
        return {"use_image": True, "rgb2bgr": True, "metrics": metrics}


_SWINIR = "SwinIR (arXiv:2108.10257)"
_EDT = "EDT (arXiv:2112.10175)"
_EMT = "EMT (arXiv:2305.11403)"
_GRL = "GRL (arXiv:2303.00748)"
_RESTORMER = "Restormer (arXiv:2111.09881)"

_PAIRS = {"type": "PairedImageDataset"}
_BICUBIC = {**_PAIRS, "degradation": [{"type": "matlab_bicubic"}]}
_GREY = {
    "color": {
        "matlab_gray": "for sets of colour files, such as LIVE1",
        "gray": "for sets of grey files, such as Classic5",
    }
}


def _noise(sigma: int, channels: int) -> Mapping[str, Any]:
    return {"type": "Dataset_GaussianDenoising", "sigma_test": sigma, "in_ch": channels}


def _jpeg(quality: int) -> Mapping[str, Any]:
    return {**_PAIRS, "degradation": [{"type": "jpeg", "quality": quality}]}


PROTOCOLS: Mapping[str, Protocol] = {
    **{
        f"sr_x{scale}": Protocol(
            f"{_SWINIR}, {_EDT}, {_GRL}", scale=scale, data=_BICUBIC, border=scale, luma=True
        )
        for scale in (2, 3, 4)
    },
    **{
        f"lsr_x{scale}": Protocol(_EMT, scale=scale, data=_BICUBIC, border=4, luma=True)
        for scale in (2, 3, 4)
    },
    **{
        f"denoise_color_{sigma}": Protocol(f"{_RESTORMER}, {_EDT}", data=_noise(sigma, 3), ours="SSIM")
        for sigma in (15, 25, 50)
    },
    **{
        f"denoise_gray_{sigma}": Protocol(f"{_RESTORMER}, {_SWINIR}", data=_noise(sigma, 1), ours="SSIM")
        for sigma in (15, 25, 50)
    },
    **{
        f"jpeg_gray_{quality}": Protocol(
            f"{_SWINIR}, {_GRL}", data=_jpeg(quality), metrics=("psnr", "ssim", "psnrb"), choices=_GREY
        )
        for quality in (10, 20, 30, 40)
    },
    **{
        f"jpeg_color_{quality}": Protocol(
            f"{_SWINIR}, {_GRL}", data=_jpeg(quality), metrics=("psnr", "ssim", "psnrb")
        )
        for quality in (10, 20, 30, 40)
    },
    "derain_y": Protocol(f"{_EDT}, {_RESTORMER}", data=_PAIRS, luma=True, stored=True),
    "deblur_rgb": Protocol(_RESTORMER, data=_PAIRS, stored=True, ours="SSIM"),
    "demosaic": Protocol(
        _GRL,
        data={**_PAIRS, "degradation": [{"type": "mosaic", "pattern": "RGGB", "output": "malvar"}]},
        ours="SSIM, and that no border is left out",
    ),
}


def check_protocol(key: str, name: str | None) -> Iterator[Problem]:
    """Yield a problem if no protocol is called ``name``, the value of ``key``; None: there is none."""
    if name is not None and name not in PROTOCOLS:
        known = nearest(name, PROTOCOLS) or f"known: {', '.join(PROTOCOLS)}"
        yield Problem(key, show(name), "the name of a test protocol", known)


def apply_protocol(mapping: dict[str, Any]) -> Iterator[Problem]:
    """Write out ``val.protocol`` of an option file, in place; yield which keys of the file contradict it.

    Nothing is done where there is none, or no protocol of that name.
    """
    val = mapping.get("val")
    name = val.get("protocol") if isinstance(val, dict) else None
    protocol = PROTOCOLS.get(name) if isinstance(name, str) else None
    if protocol is None or not isinstance(val, dict):
        return
    why = f"as val.protocol is {name}"
    scale = 1 if mapping.get("scale") is None else mapping["scale"]
    if scale != protocol.scale:
        yield Problem("scale", show(scale), f"{protocol.scale}, {why}")
    yield from _fill(val, protocol.val(), "val", why)
    datasets = mapping.get("datasets")
    for key, option in (datasets if isinstance(datasets, dict) else {}).items():
        if str(key).split("_")[0] in ("val", "test") and isinstance(option, dict):
            yield from _fill_set(option, protocol, f"datasets.{key}", why)


def _fill_set(option: dict[str, Any], protocol: Protocol, key: str, why: str) -> Iterator[Problem]:
    data = dict(protocol.data)
    expected = data.pop("type", None)
    written = option.setdefault("type", expected)
    section = DATASETS.section(written) if isinstance(written, str) else None
    if section is not None and not data.keys() <= section.model_fields.keys():
        yield Problem(f"{key}.type", show(written), f"{expected}, {why}", "delete it")
        return
    if option.get("dataroot_lq") is not None:  # what is stored need not be made
        data.pop("degradation", None)
    yield from _fill(option, data, key, why)
    for name, values in protocol.choices.items():
        if option.get(name) not in values:
            advice = alternatives(f"{value} {what}" for value, what in values.items())
            yield Problem(f"{key}.{name}", show(option.get(name)), f"{advice}, {why}")


def _fill(section: dict[str, Any], wanted: Mapping[str, Any], key: str, why: str) -> Iterator[Problem]:
    """Add what is missing; what is written otherwise is a problem, and more in a mapping is none."""
    for name, value in wanted.items():
        if section.get(name) is None:
            section[name] = deepcopy(value)
        elif name == "metrics" and isinstance(section[name], dict):
            yield from _fill(section[name], value, f"{key}.{name}", why)
        elif section[name] != value:
            yield Problem(f"{key}.{name}", show(section[name]), f"{_in_words(value)}, {why}", "delete it")


def _in_words(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
