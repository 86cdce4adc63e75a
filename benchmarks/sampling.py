"""Time DAT's attention to sampled features against plain attention to as many keys: forward and backward.

Usage: python benchmarks/sampling.py [--batch N] [--threads N] [--repeats N]

The plain one projects queries, keys and values likewise, and averages features for its keys. All take turns
in one process and the fastest repetition counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402

from basicsr_ext.archs.layers.deformable_attention import DeformableAttention  # noqa: E402

STAGES: dict[str, tuple[int, dict[str, Any]]] = {  # side of the map, layer
    "DAT-T, stage 3": (14, {"dim": 384, "heads": 12, "groups": 3, "kernel": 5, "release": "dat"}),
    "DAT-T, stage 4": (7, {"dim": 768, "heads": 24, "groups": 6, "kernel": 3, "release": "dat"}),
    "DAT-T++, stage 1": (56, {"dim": 64, "heads": 2, "groups": 1, "kernel": 9, "stride": 8}),
    "DAT-T++, stage 2": (28, {"dim": 128, "heads": 4, "groups": 2, "kernel": 7, "stride": 4}),
    "DAT-T++, stage 3": (14, {"dim": 256, "heads": 8, "groups": 4, "kernel": 5, "stride": 2}),
    "DAT-T++, stage 4": (7, {"dim": 512, "heads": 16, "groups": 8, "kernel": 3}),
}
KINDS = {"plain": {"offsets": False}, "sampled": {"position": "none"}, "with a bias": {"position": "table"}}


def training_step(layer: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """Return a function that runs one forward and backward pass."""
    gradient = torch.rand_like(x)
    # What is not used, the offsets' network of plain attention, has no gradient.
    used = [x, *(p for name, p in layer.named_parameters() if "offset" not in name or layer.offsets)]

    def step() -> None:
        torch.autograd.grad(layer(x), used, gradient)

    return step


def main() -> None:
    """Print milliseconds of all kinds and their ratios to the plain one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| layer | plain, ms | sampled, ms | ratio | with a bias, ms | ratio |\n|---|--:|--:|--:|--:|--:|")
    for name, (side, options) in STAGES.items():
        torch.manual_seed(0)
        x = torch.rand(arguments.batch, side, side, options["dim"], requires_grad=True)
        steps = [
            training_step(DeformableAttention(size=(side, side), **(options | kind)), x)
            for kind in KINDS.values()
        ]
        best = [float("inf")] * len(steps)
        for _ in range(arguments.repeats):
            for i, step in enumerate(steps):
                start = time.process_time()
                step()
                best[i] = min(best[i], 1000 * (time.process_time() - start))
        plain, sampled, biased = best
        ratios = (sampled / plain, biased / plain)
        print(f"| {name} | {plain:.1f} | {sampled:.1f} | {ratios[0]:.2f} | {biased:.1f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    main()
