"""Which known word was meant: the suggestions of every message."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word closest to ``word`` in spelling (letter case last), or None if none is near."""
    words = list(known)
    matches = get_close_matches(word, words, n=1, cutoff=0.6)
    if matches:
        return matches[0]
    folded = {item.lower(): item for item in words}
    matches = get_close_matches(word.lower(), list(folded), n=1, cutoff=0.6)
    return folded[matches[0]] if matches else None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``"did you mean 'x'?"`` for the known word closest to ``word``, or an empty string."""
    match = closest(word, known)
    return f"did you mean {match!r}?" if match else ""
