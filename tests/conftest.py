"""Fixtures that several parts of the tests use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import run_command
from hypothesis import settings

import basicsr_ext  # noqa: F401 (before any test imports basicsr)

# What the suite says depends on the code alone: no time limits on examples, and the same examples every time.
# `--hypothesis-profile explore` draws new ones.
settings.register_profile("explore", deadline=None)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Use one thread: threads that share the tests' small tensors wait for each other on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def options_file(tmp_path):
    """Return a function that writes options to a file and returns its path."""

    def write(options: dict[str, Any], name: str = "options.yml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(options, sort_keys=False))
        return path

    return write


@pytest.fixture
def train_command(options_file):
    """Return a function that runs ``train.py`` on options and returns the finished process."""

    def run(options: dict[str, Any], *arguments: str, ranks: int = 0) -> subprocess.CompletedProcess[str]:
        launcher = [sys.executable]
        if ranks:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
        return run_command(*launcher, "train.py", "-opt", options_file(options), *arguments)

    return run
