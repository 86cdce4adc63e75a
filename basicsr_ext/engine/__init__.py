"""Running it: trainer, validator, schedules, checkpoints, ranks, precision, logging.

May import everything but the commands; knows models only through their base class.
"""

from __future__ import annotations

from ..data.samples import SampleError
from .checkpoint import CheckpointError
from .distributed import LaunchError
from .distributed import is_peer_failure as is_peer_failure
from .failures import StepError
from .run import check as check
from .run import test as test
from .run import train as train
from .signals import EXIT_STOPPED as EXIT_STOPPED
from .signals import StoppedError as StoppedError
from .trainer import NonFiniteError

RUN_ERRORS = (CheckpointError, LaunchError, NonFiniteError, OSError, SampleError, StepError)
"""What can end a run for reasons its user can mend; the message says it all."""
