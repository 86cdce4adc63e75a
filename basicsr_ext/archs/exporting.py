"""What networks do otherwise while they are exported: no operators of ours, and sizes that stay variables."""

from __future__ import annotations

import torch


def is_exporting() -> bool:
    """Say whether ``torch.export`` records what is called, for programs that know no operators of ours.

    Sides of images may be variables in the recording: a branch or a loop on them would hold for some only.
    """
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
