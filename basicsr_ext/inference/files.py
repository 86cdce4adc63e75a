"""Restore image files with trained weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ..archs import build_network
from ..archs.weights import load_weights
from ..config import Options
from ..data.images import read_image, write_image
from ..data.opening import open_source
from .restore import restore


def restore_files(
    options: Options, weights: Path, source: Path, target: Path, tile: int | None
) -> Iterator[Path]:
    """Restore one image, or all images below a folder, and yield each written path.

    Args:
        options: name the network and its scale.
        weights: checkpoint that fits the network.
        source: an image or a folder of images.
        target: folder for the results, PNG files under the inputs' names.
        tile: side of the tiles to run in; ``None``: whole images.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and options.num_gpu != 0 else "cpu")
    network = build_network({"type": options.network_g.type, **options.network_g.kwargs})
    load_weights(network, weights, param_key=options.path.param_key_g)
    network.to(device).eval()
    if source.is_file():
        files = [source]
    else:
        images = open_source(str(source), "input")
        files = [Path(images.path(index)) for index in range(len(images))]
    for file in files:
        restored = restore(network, read_image(file), options.scale, tile)
        inside = file.name if file == source else file.relative_to(source)
        path = (target / inside).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, restored)
        yield path
