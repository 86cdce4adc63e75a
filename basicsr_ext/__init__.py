"""basicsr_ext: training image-restoration transformers from BasicSR option files.

The names below are the public API. They are resolved on first use, so that ``import basicsr_ext``
costs milliseconds and option files can be checked before torch is imported.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import compat

if TYPE_CHECKING:
    from . import analysis as analysis
    from .archs import build_network as build_network
    from .archs.weights import load_weights as load_weights
    from .config import load_options as load_options
    from .engine import test as test
    from .engine import train as train
    from .inference import restore as restore

compat.install()
# OpenCV reads this when it is first imported. Its own limit is four times as high.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))

__version__ = "0.1.0"

_HOME = {
    "build_network": ".archs",
    "load_weights": ".archs.weights",
    "load_options": ".config",
    "train": ".engine",
    "test": ".engine",
    "restore": ".inference",
}
__all__ = [
    "__version__",
    "analysis",
    "build_network",
    "load_options",
    "load_weights",
    "restore",
    "test",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "analysis":
        return import_module(".analysis", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
