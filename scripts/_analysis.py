"""What the analysis commands share: which weights, and what they say without matplotlib."""

from __future__ import annotations

import argparse

import torch
from _command import CommandError

from basicsr_ext.analysis.subjects import Subject
from basicsr_ext.files import user_path
from basicsr_ext.inference.command import REFUSALS


def add_subject(arguments: argparse.ArgumentParser) -> None:
    """Add what ``infer.py`` takes to know a network: ``--weights``, ``--opt``, ``--plugins``, ``--task``."""
    add = arguments.add_argument
    add("--weights", required=True, type=user_path, metavar="FILE", help="checkpoint, ours or published")
    add("--opt", type=user_path, metavar="FILE", help="option file, for weights that do not tell")
    add("--plugins", nargs="+", default=[], metavar="MODULE", help="modules with the network's class")
    add("--task", metavar="NAME", help="of weights for several tasks (EDT), such as sr_x4")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")


def open_subject(options: argparse.Namespace, number: str = "") -> Subject:
    """Return the network that :func:`add_subject`'s arguments name.

    Args:
        options: of the command line.
        number: what follows the names of ``--weights``, ``--opt`` and ``--task``.

    Raises:
        CommandError: it cannot be opened.
    """
    weights, option_file, task = (getattr(options, name + number) for name in ("weights", "opt", "task"))
    try:
        device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return Subject.open(weights, task, option_file, options.plugins, device)
    except REFUSALS as error:
        raise CommandError(str(error)) from error


def matplotlib_hint(drawn: bool) -> None:
    """Say what is missing where nothing could be drawn."""
    if not drawn:
        print("Without pictures: pip install matplotlib")
