"""Option files are checked before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "torchvision", "basicsr", "skimage", "scipy", "rich")
PROGRAM = f"""
import sys
from basicsr_ext.config import OptionError, load_options
try:
    load_options(sys.argv[1], sys.argv[2:])
except OptionError as error:
    print(error, file=sys.stderr)
print([name for name in {HEAVY} if name in sys.modules])
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        check=True,
    )


def test_a_bad_file_is_refused_without_importing_torch_or_basicsr(tmp_path, base):
    file = tmp_path / "o.yml"
    file.write_text(base.replace("lr: 2e-4", "lr: 2e-4x"))
    result = run(str(file), "train:totl_iter=5")
    assert result.stdout == "[]\n"
    assert len(result.stderr.splitlines()) == 2


def test_a_good_file_is_accepted_without_importing_torch_or_basicsr(tmp_path, base):
    file = tmp_path / "o.yml"
    file.write_text(base)
    result = run(str(file))
    assert (result.stdout, result.stderr) == ("[]\n", "")
