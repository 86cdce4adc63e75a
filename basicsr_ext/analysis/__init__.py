"""A look into trained networks: what their layers have in common, how far they look, what they use.

May import ``inference`` and what lies below it, and ``models`` for the tasks of a network; not ``engine``.
Numbers need nothing else; pictures of them need matplotlib, the extra ``plots``.
"""

from __future__ import annotations

from .cka import cka as cka
