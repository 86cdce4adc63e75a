"""Image quality measures: ours in ``*_metric.py`` files, basicsr's and the plug-ins' through its registry.

A metric takes two images, HWC in 0..255, the result first, and keyword arguments (``crop_border``,
``test_y_channel``); colour images come in BGR order, which basicsr's Y conversion expects.
"""

from __future__ import annotations

from ..registry import Registry

METRICS = Registry("metric", __name__, "_metric", "METRIC_REGISTRY")
