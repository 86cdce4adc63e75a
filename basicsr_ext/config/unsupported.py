"""What BasicSR and its forks train beyond single images, so that their files get one line that says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .errors import Problem

_VIDEO = "video restoration"
_ADVERSARIAL = "adversarial training"
_ON_GPU = "training on low quality that the model makes itself"
_GENERATION = "image generation"
_MODELS = {
    "VideoBaseModel": _VIDEO,
    "VideoRecurrentModel": _VIDEO,
    "VideoGANModel": _VIDEO,
    "VideoRecurrentGANModel": _VIDEO,
    "EDVRModel": _VIDEO,
    "SRGANModel": _ADVERSARIAL,
    "ESRGANModel": _ADVERSARIAL,
    "RealESRGANModel": _ADVERSARIAL,
    "RealHATGANModel": _ADVERSARIAL,
    "HiFaceGANModel": _ADVERSARIAL,
    "RealESRNetModel": _ON_GPU,
    "RealHATMSEModel": _ON_GPU,
    "StyleGAN2Model": _GENERATION,
}
_DATASETS = {
    "REDSDataset": _VIDEO,
    "REDSRecurrentDataset": _VIDEO,
    "Vimeo90KDataset": _VIDEO,
    "Vimeo90KRecurrentDataset": _VIDEO,
    "VideoTestDataset": _VIDEO,
    "VideoTestVimeo90KDataset": _VIDEO,
    "VideoTestDUFDataset": _VIDEO,
    "VideoRecurrentTestDataset": _VIDEO,
    "RealESRGANDataset": _ON_GPU,
    "FFHQDataset": _GENERATION,
}
_FIXES = {
    _VIDEO: "BasicSR itself trains it",
    _ADVERSARIAL: "BasicSR itself trains it, from the weights of an SRModel trained here",
    _ON_GPU: "use PairedImageDataset with steps under degradation (docs/degradations.md)",
    _GENERATION: "BasicSR itself trains it",
}


def unsupported(
    mapping: Mapping[str, Any], models: Collection[str], datasets: Collection[str]
) -> Problem | None:
    """Return what a file asks for that only BasicSR and its forks have, or None.

    Args:
        mapping: the option file.
        models: kinds of training that are registered.
        datasets: data sets that are registered; where there are plug-ins, theirs is what they train with.
    """
    model = mapping.get("model_type")
    if isinstance(model, str) and model not in models and model in _MODELS:
        return _problem("model_type", model, _MODELS[model])
    sets = None if mapping.get("plugins") else mapping.get("datasets")
    for key, section in sets.items() if isinstance(sets, Mapping) else ():
        name = section.get("type") if isinstance(section, Mapping) else None
        if isinstance(name, str) and name not in datasets and name in _DATASETS:
            return _problem(f"datasets.{key}.type", name, _DATASETS[name])
    return None


def _problem(key: str, name: str, what: str) -> Problem:
    return Problem(key, f"{name!r}, which is for {what}", "restoration of single images", _FIXES[what])
