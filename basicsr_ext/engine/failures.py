"""What torch raises when a step cannot be run on this machine, in words that say what helps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..inference.memory import is_out_of_memory as is_out_of_memory

_SMALLER_STEPS = (
    "out of memory; lower this stage's gt_size, or its batch size and raise train.grad_accum, "
    "or try train.amp: bf16"
)
_NONDETERMINISTIC = re.compile(r"(\S+) does not have a deterministic implementation")


class StepError(RuntimeError):
    """A step cannot be run here; the message says why and what helps."""


@contextmanager
def explained(where: str, memory_advice: str = _SMALLER_STEPS) -> Iterator[None]:
    """Raise torch's errors about memory and determinism as :class:`StepError`.

    Args:
        where: begins the message, such as ``iteration 5``.
        memory_advice: what to change when memory runs out.
    """
    try:
        yield
    except RuntimeError as error:
        nondeterministic = _NONDETERMINISTIC.search(str(error))
        if nondeterministic is not None:
            raise StepError(
                f"{where}: {nondeterministic[1]} has no deterministic version on this device; "
                "set train.deterministic: false, or use a network without it"
            ) from error
        if is_out_of_memory(error):
            first_line = str(error).partition("\n")[0]
            raise StepError(f"{where}: {memory_advice} ({first_line})") from error
        raise
