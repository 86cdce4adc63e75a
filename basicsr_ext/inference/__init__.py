"""Networks on whole images: weights recognised, tiles, picture files, pictures for logs.

May import ``archs`` and ``data``; not ``models`` or ``engine``.
"""

from __future__ import annotations

from .comparison import comparison as comparison
from .restore import restore as restore
from .restore import restore_tensor as restore_tensor
