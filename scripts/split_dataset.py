"""Divide a folder's images into training, validation and test sets, as lists of names.

    python scripts/split_dataset.py datasets/Rain --val 50 --test 0.1 --seed 0

writes datasets/Rain_train.txt, Rain_val.txt and Rain_test.txt, which option files name as
meta_info_file; images stay where they are. A number below 1 is a share. Sub-images of one image
(0001_s001.png, 0001_s002.png, ...) stay together, so that no validation image was partly trained on;
--group says by another pattern which part of a name to ignore. The same seed and the same images give
the same sets on every machine.
"""

from __future__ import annotations

import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from _command import open_images, parser, require_listable, run, write_lines

from basicsr_ext.files import user_path


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = parser(__doc__)
    command.add_argument("folder", type=user_path, help="images, at any depth")
    command.add_argument("--val", type=_amount, default=0, help="images, or share of them; default: none")
    command.add_argument("--test", type=_amount, default=0, help="likewise")
    command.add_argument("--seed", type=_seed, default=0, help="default: 0")
    command.add_argument("--group", default=r"_s\d+$", help=r"ignored part of names; default: '_s\d+$'")
    command.add_argument(
        "--output", type=user_path, help="folder of the lists; default: beside the images' folder"
    )
    options = command.parse_args(arguments)

    source = open_images(options.folder)
    require_listable(source.files)
    folder = options.folder.resolve()
    sets = split(source.files, {"val": options.val, "test": options.test}, options.seed, options.group)
    for name, files in sets.items():
        target = (options.output or folder.parent) / f"{folder.name}_{name}.txt"
        write_lines(target, files)
        print(f"{len(files)} images listed in {target}")
    return []


def split(files: Sequence[str], amounts: dict[str, float], seed: int, group: str) -> dict[str, list[str]]:
    """Return the files of every set with an amount, and of ``train``, each in the order of ``files``.

    Groups are dealt out whole, in random order, until a set has at least its amount.

    Raises:
        ValueError: nothing is left to train on, or the pattern is none.
    """
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ValueError(f"--group: {group!r} is not a regular expression ({error})") from error
    members: dict[str, list[str]] = {}
    for file in files:
        members.setdefault(pattern.sub("", str(Path(file).with_suffix(""))), []).append(file)
    names = sorted(members)
    # Philox gives the same numbers on every machine and in every version of NumPy.
    rng = np.random.Generator(np.random.Philox(key=seed))
    order = [names[place] for place in rng.permutation(len(names))]
    sets: dict[str, list[str]] = {}
    for name, amount in amounts.items():
        wanted = round(amount * len(files)) if amount < 1 else amount
        chosen: list[str] = []
        while order and len(chosen) < wanted:
            chosen += members[order.pop()]
        if chosen:
            sets[name] = sorted(chosen)
    if not order:
        raise ValueError(f"nothing of {len(files)} images is left to train on")
    sets["train"] = sorted(file for name in order for file in members[name])
    return sets


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text} is not a whole number from 0 up")
    return int(text)


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1 and not (number > 0 and number.is_integer()):
        raise ArgumentTypeError(f"{text} is neither a number of images nor a share below 1")
    return number


if __name__ == "__main__":
    raise SystemExit(run(main))
