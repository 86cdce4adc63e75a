"""Time depthwise convolutions in both memory layouts: forward and backward, one process, taking turns.

Usage: python benchmarks/depthwise.py [--threads N] [--repeats N]
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

SHAPES = {  # channels, side of the kernel, side of the image
    "Restormer, level 1, q k v": (144, 3, 128),
    "Restormer, level 1, feed-forward": (254, 3, 128),
    "Restormer, level 2, feed-forward": (510, 3, 64),
    "Restormer, level 4, feed-forward": (2042, 3, 16),
    "EDT-B, feed-forward": (360, 5, 48),
    "EDT-T, feed-forward": (120, 5, 48),
}
LAYOUTS = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}


def milliseconds(layer: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> float:
    """Return how long one forward and backward pass takes."""
    start = time.perf_counter()
    layer(x).backward(gradient)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    """Print the fastest of all repetitions in each layout, and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| convolution | NCHW, ms | channels-last, ms | ratio |\n|---|--:|--:|--:|")
    for name, (channels, kernel, side) in SHAPES.items():
        torch.manual_seed(0)
        image = torch.rand(1, channels, side, side)
        best = dict.fromkeys(LAYOUTS, float("inf"))
        for _ in range(arguments.repeats):
            for layout, memory_format in LAYOUTS.items():
                layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
                layer = layer.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]
                x, gradient = (image.clone(memory_format=memory_format) for _ in range(2))
                best[layout] = min(best[layout], milliseconds(layer, x.requires_grad_(), gradient))
        before, after = best.values()
        what = f"{name}, {kernel}x{kernel}, {side}x{side}"
        print(f"| {what} | {before:.2f} | {after:.2f} | {before / after:.1f} |")


if __name__ == "__main__":
    main()
