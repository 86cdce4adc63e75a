"""Measure how far each head of each layer attends: mean attention distances, as numbers and a picture.

    python scripts/analyze_attention.py --weights FILE --data FOLDER --out DIR

Writes distances.npz (an array for each block, a number for each of its heads, in pixels of the network's
input, sorted; by_layer.npz has them layer by layer, unsorted) and, with matplotlib, distances.png.
docs/analysis.md explains the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from _analysis import add_subject, matplotlib_hint, open_subject
from _command import CommandError, open_images, parser, positive, run

from basicsr_ext.analysis.distance import AttentionDistances, by_block
from basicsr_ext.analysis.plots import draw_distances
from basicsr_ext.analysis.subjects import input_batches
from basicsr_ext.files import user_path


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = parser(__doc__)
    add_subject(command)
    add = command.add_argument
    add("--data", required=True, type=user_path, metavar="FOLDER", help="pictures, as ground truth")
    add("--out", required=True, type=user_path, metavar="DIR", help="folder of the results")
    add("--size", type=positive, default=192, help="side of a crop in pixels of --data; default: 192")
    add("--images", type=positive, default=16, metavar="N", help="crops; default: 16")
    add("--seed", type=int, default=0, help="of places and noise; default: 0")
    options = command.parse_args(arguments)

    subject = open_subject(options)
    distances = AttentionDistances(subject.network)
    source = open_images(options.data)
    with torch.inference_mode():
        for (images,) in input_batches([subject], source, options.size, 1, options.images, options.seed):
            distances.run(subject.restored, subject.fitted(images.to(subject.device)))
    by_layer = distances.by_head()
    if not by_layer:
        name = type(subject.network).__name__
        raise CommandError(f"{name} has no layer of ours that attends to places of a map")
    blocks = by_block(by_layer, subject.network)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, distances_of in (("distances", blocks), ("by_layer", by_layer)):
        np.savez(options.out / f"{name}.npz", **distances_of)  # pyright: ignore[reportArgumentType]
    drawn = draw_distances(list(blocks.values()), subject.name, options.out / "distances.png")
    nearest, furthest = (float(pick(list(map(pick, blocks.values())))) for pick in (min, max))
    print(f"{len(blocks)} blocks, heads attend {nearest:.1f} to {furthest:.1f} pixels far: {options.out}")
    matplotlib_hint(drawn)
    return []


if __name__ == "__main__":
    raise SystemExit(run(main))
