"""Losses: ours in ``*_loss.py`` files, basicsr's and the plug-ins' through its registry."""

from __future__ import annotations

from ..registry import LOSSES as LOSSES
