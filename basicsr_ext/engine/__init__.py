"""Running it: trainer, validator, schedules, checkpoints, ranks, precision, logging.

May import everything but the commands; knows models only through their base class.
"""

from __future__ import annotations

from .run import check as check
from .run import test as test
from .run import train as train
