"""A build backend (PEP 517) that lets a newer pip build basicsr."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENT = "basicsr==1.4.2"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Build basicsr's wheel into ``wheel_directory`` and return its name."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, REQUIREMENT]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        shutil.move(wheel, wheel_directory)
    return wheel.name
