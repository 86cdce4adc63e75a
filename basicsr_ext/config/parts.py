"""Annotations of constructors whose argument names a part with arguments of its own.

What is given for them in an option file is compared with the part's constructor, and listed in the schema.
"""

from __future__ import annotations

from typing import Annotated

from ..registry import FEED_FORWARDS, MIXERS
from .sections import ConstructedBy

MixerSpec = Annotated[str | dict, ConstructedBy(MIXERS, supplied=("dim", "index"))]
"""The name of a token mixer, or a mapping of ``type`` and arguments."""
FeedForwardSpec = Annotated[str | dict, ConstructedBy(FEED_FORWARDS, supplied=("dim",))]
"""The name of a feed-forward network, or a mapping of ``type`` and arguments."""
