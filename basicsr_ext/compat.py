"""Make basicsr 1.4.2 importable beside today's torchvision.

``basicsr.data.degradations`` imports ``torchvision.transforms.functional_tensor``, which torchvision
removed in 0.17. :func:`install` supplies that module with the one function basicsr takes from it. It
imports neither torch nor basicsr, so it costs nothing before an option file has been checked.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

_MISSING_MODULE = "torchvision.transforms.functional_tensor"


def _rgb_to_grayscale(img: Any, num_output_channels: int = 1) -> Any:
    """Return ``img`` (..., 3, H, W) in grey with 1 or 3 channels, as torchvision's public function does."""
    from torchvision.transforms.functional import rgb_to_grayscale

    return rgb_to_grayscale(img, num_output_channels)


def install() -> None:
    """Register the module basicsr needs; calling it again changes nothing."""
    if _MISSING_MODULE in sys.modules:
        return
    # A real module object: torch's introspection walks sys.modules and trips over lazy stand-ins.
    module = ModuleType(_MISSING_MODULE, "The part of torchvision's removed module that basicsr uses.")
    module.rgb_to_grayscale = _rgb_to_grayscale  # type: ignore[attr-defined]
    sys.modules[_MISSING_MODULE] = module
