"""Scripts, run as users run them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import run_command

from basicsr_ext.data.images import write_image

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
RunScript = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script() -> RunScript:
    """script("make_lr", folder, "--scales", 2): the finished process, which ran in another folder."""

    def run(name: str, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, SCRIPTS / f"{name}.py", *map(str, arguments)]
        return run_command(*command, timeout=timeout, cwd=Path("/"))

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder HR with a.png (37x50) and sub/b.tif (40x41, 16 bit)."""
    rng = np.random.default_rng(0)
    write_image(tmp_path / "HR/a.png", rng.integers(0, 256, (37, 50, 3)).astype(np.uint8))
    write_image(tmp_path / "HR/sub/b.tif", rng.integers(0, 65536, (40, 41, 3)).astype(np.uint16))
    return tmp_path / "HR"


@pytest.fixture
def shared_set5() -> Path:
    """The published Set5 files, where they are."""
    found = SCRIPTS.parents[1] / "shared/data/set5"
    if not found.is_dir():
        pytest.skip("needs ../shared, which is not here")
    return found
