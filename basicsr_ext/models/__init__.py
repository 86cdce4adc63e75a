"""Kinds of training, one file each, ``*_model.py``: their networks, phases, losses, options, evaluation.

May import ``archs``, ``data``, ``losses``, ``metrics``, ``inference`` and ``config``. Option files are
checked without torch: :mod:`.model_kind` does not import it, and :mod:`.restoration_model` only once it
computes.
"""

from __future__ import annotations

from ..registry import MODELS as MODELS
from .model_kind import Judgement as Judgement
from .model_kind import ModelKind as ModelKind
from .model_kind import Networks as Networks
from .model_kind import Phase as Phase
