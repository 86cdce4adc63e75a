"""The page of option keys is made from the models that check them, so it cannot grow stale."""

import sys

from helpers import run_command


def test_the_committed_page_is_current():
    done = run_command(sys.executable, "scripts/generate_docs.py", "--check")
    assert done.returncode == 0, done.stderr
