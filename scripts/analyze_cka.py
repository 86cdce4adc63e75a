"""Compare what layers make of images: linear CKA of all pairs of layers, as a matrix and a picture.

    python scripts/analyze_cka.py --weights FILE --data FOLDER --out DIR
    python scripts/analyze_cka.py --weights FILE --weights2 FILE --layers '**.mlp' --data FOLDER --out DIR
    python scripts/analyze_cka.py --weights FILE --task sr_x2 --task2 dn_g25 --data FOLDER --out DIR

The layers of one network are compared with each other, or with those of another network, or of the same one
at another task. Writes cka.npz (cka, layers, layers2) and, with matplotlib, cka.png. The unbiased estimator
of HSIC is averaged over batches (arXiv:2010.15327); memory does not grow with the number of images.
docs/analysis.md explains what an example is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from _analysis import add_subject, matplotlib_hint, open_subject
from _command import open_images, parser, positive, run

from basicsr_ext.analysis.cka import LEAST, MinibatchCKA
from basicsr_ext.analysis.features import by_example, layers, recorded
from basicsr_ext.analysis.plots import draw_matrix
from basicsr_ext.analysis.subjects import Subject, input_batches
from basicsr_ext.files import user_path


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    options = _parser().parse_args(arguments)
    first = open_subject(options)
    second = _second(options, first)
    source = open_images(options.data)
    names = layers(first.network, options.layers)
    names2 = layers(second.network, options.layers2 or options.layers)
    count = options.images or max(len(source), 4 * options.batch)
    estimator = MinibatchCKA()
    subjects = [first] if second is first else [first, second]
    with torch.inference_mode():
        for inputs in input_batches(subjects, source, options.size, options.batch, count, options.seed):
            features = _features(first, names, inputs[0])
            others = (
                features if second is first and names == names2 else _features(second, names2, inputs[-1])
            )
            estimator.update(features, others)
    matrix = estimator.value()
    options.out.mkdir(parents=True, exist_ok=True)
    np.savez(options.out / "cka.npz", cka=matrix, layers=names, layers2=names2)
    drawn = draw_matrix(matrix, (names, names2), (first.name, second.name), options.out / "cka.png")
    examples = -(-count // options.batch) * options.batch
    print(f"{len(names)} x {len(names2)} layers, {examples} examples: {options.out / 'cka.npz'}")
    matplotlib_hint(drawn)
    return []


def _parser() -> argparse.ArgumentParser:
    command = parser(__doc__)
    add_subject(command)
    add = command.add_argument
    add("--weights2", type=user_path, metavar="FILE", help="another network's; default: the same")
    add("--opt2", type=user_path, metavar="FILE", help="its option file")
    add("--task2", metavar="NAME", help="its task; default: --task")
    add("--data", required=True, type=user_path, metavar="FOLDER", help="pictures, as ground truth")
    add("--layers", metavar="PATTERN", help="modules, such as 'body.layers.*'; default: the repeated blocks")
    add("--layers2", metavar="PATTERN", help="of the second network; default: the same")
    add("--out", required=True, type=user_path, metavar="DIR", help="folder of the results")
    add("--size", type=positive, default=96, help="side of a crop in pixels of --data; default: 96")
    add("--batch", type=_batch, default=32, help=f"examples of a batch, {LEAST} or more; default: 32")
    add("--images", type=positive, metavar="N", help="examples; default: one a picture, 4 batches at least")
    add("--seed", type=int, default=0, help="of places and noise; default: 0")
    return command


def _batch(text: str) -> int:
    number = positive(text)
    if number < LEAST:
        raise argparse.ArgumentTypeError(f"{text} is too few, the estimator needs {LEAST}")
    return number


def _second(options: argparse.Namespace, first: Subject) -> Subject:
    """Return what the first network is compared with: itself, unless another one or task is named."""
    if options.weights2 is None and options.task2 in (None, options.task):
        return first
    if options.weights2 is None:
        options.weights2, options.opt2 = options.weights, options.opt
    options.task2 = options.task2 or options.task
    return open_subject(options, "2")


def _features(subject: Subject, names: Sequence[str], images: torch.Tensor) -> list[torch.Tensor]:
    with recorded(subject.network, names) as found:
        subject(images.to(subject.device))
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"layers: {missing[0]} does not take part in {subject.name}")
    return [by_example(found[name], len(images)) for name in names]


if __name__ == "__main__":
    raise SystemExit(run(main))
