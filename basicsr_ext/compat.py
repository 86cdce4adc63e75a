"""Make basicsr 1.4.2 importable beside today's torchvision, and our networks known to it.

``basicsr.data.degradations`` imports ``torchvision.transforms.functional_tensor``, which torchvision
removed in 0.17. :func:`install` supplies that module with the one function basicsr takes from it. It also
has our networks join basicsr's ``ARCH_REGISTRY`` once ``basicsr.archs`` is imported, whoever imports it, and
gives names back that files written for basicsr 1.3 import (HAT's among them) from where they were then. It
imports neither torch nor basicsr, so it costs nothing before an option file has been checked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_MISSING_MODULE = "torchvision.transforms.functional_tensor"
_NETWORKS_OF_BASICSR = "basicsr.archs"
_COLOURS = dict.fromkeys(("bgr2ycbcr", "rgb2ycbcr", "ycbcr2bgr", "ycbcr2rgb"), "basicsr.utils.color_util")
_LOSSES = ("CharbonnierLoss", "L1Loss", "MSELoss", "PerceptualLoss", "WeightedTVLoss")
_MOVED = {
    "basicsr.utils.matlab_functions": _COLOURS,
    "basicsr.losses": {
        **dict.fromkeys(_LOSSES, "basicsr.losses.basic_loss"),
        "GANLoss": "basicsr.losses.gan_loss",
    },
}
"""Modules of basicsr 1.3 whose names 1.4 has elsewhere, and where."""


def _rgb_to_grayscale(img: Any, num_output_channels: int = 1) -> Any:
    """Return ``img`` (..., 3, H, W) in grey with 1 or 3 channels, as torchvision's public function does."""
    from torchvision.transforms.functional import rgb_to_grayscale

    return rgb_to_grayscale(img, num_output_channels)


def install() -> None:
    """Supply the module basicsr needs and watch for its networks; calling it again changes nothing."""
    if _MISSING_MODULE not in sys.modules:
        # A real module object: torch's introspection walks sys.modules and trips over lazy stand-ins.
        module = ModuleType(_MISSING_MODULE, "The part of torchvision's removed module that basicsr uses.")
        module.rgb_to_grayscale = _rgb_to_grayscale  # type: ignore[attr-defined]
        sys.modules[_MISSING_MODULE] = module
    for name in (_NETWORKS_OF_BASICSR, *_MOVED):
        if name in sys.modules:
            _complete(sys.modules[name])
    if not any(isinstance(finder, _CompleteOnImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _CompleteOnImport())


class _CompleteOnImport(MetaPathFinder):
    """Import modules of basicsr as usual, then add our networks to its registry, and moved names.

    Adding them when ``basicsr_ext`` is imported would load torch and basicsr at once.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's usual spec, its loader extended."""
        if fullname not in (_NETWORKS_OF_BASICSR, *_MOVED):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_complete(module: ModuleType) -> None:
                execute(module)
                _complete(module)

            # Only this spec's loader object changes; its type keeps inspect and pkgutil working.
            spec.loader.exec_module = execute_and_complete  # type: ignore[method-assign]
        return spec


def _complete(module: ModuleType) -> None:
    if module.__name__ == _NETWORKS_OF_BASICSR:
        _join_basicsr()
    for name, home in _MOVED.get(module.__name__, {}).items():
        if not hasattr(module, name):
            setattr(module, name, getattr(import_module(home), name))


def _join_basicsr() -> None:
    from basicsr.utils.registry import ARCH_REGISTRY

    from .archs import NETWORKS

    for name, network in NETWORKS.own().items():
        if name not in ARCH_REGISTRY:
            ARCH_REGISTRY._do_register(name, network)
