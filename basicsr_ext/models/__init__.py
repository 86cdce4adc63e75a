"""What one training step is: the losses of a batch, one file per kind of training, ``*_model.py``.

May import ``archs``, ``data``, ``losses``, ``metrics`` and ``config``.
"""

from __future__ import annotations

from ..registry import Registry

MODELS = Registry("model", __name__, "_model", basicsr=None)
