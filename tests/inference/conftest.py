"""Fixtures of what has to do with ``infer.py``."""

import importlib.util
import sys

import pytest
from helpers import ROOT


@pytest.fixture
def infer(monkeypatch, capsys):
    """Return a function that runs the command in this process: its exit code, output and messages."""
    spec = importlib.util.spec_from_file_location("infer", ROOT / "infer.py")
    command = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(command)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["infer.py", "--device", "cpu", *map(str, arguments)])
        capsys.readouterr()
        code = command.main()
        return code, *capsys.readouterr()

    return run
