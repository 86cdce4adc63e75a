"""Show which pixels of a picture a patch of the restored one used: a local attribution map (LAM).

    python scripts/analyze_lam.py --weights FILE -i PICTURE --out DIR
    python scripts/analyze_lam.py --weights FILE -i PICTURE --crop 100 40 64 --at 96 120 --patch 16 --out DIR

The picture is the network's input, as for infer.py. Writes lam.png (the input with the patch framed, the map
over it, the output), lam.npz (map, share_by_pixels, share_by_distance, diffusion_index) and, with matplotlib,
curve.png. The method is that of arXiv:2011.11731; docs/analysis.md explains the pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from _analysis import add_subject, matplotlib_hint, open_subject
from _command import parser, positive, run

from basicsr_ext.analysis.lam import Attribution, Patch, Path, attribute
from basicsr_ext.analysis.plots import draw_shares
from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.files import user_path

_SIDE = 192
"""Pixels that a panel has at least, along its shorter side."""
_RED = (229, 72, 77)


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = parser(__doc__)
    add_subject(command)
    add = command.add_argument
    add("-i", "--input", required=True, type=user_path, metavar="PICTURE", help="what is restored")
    add("--out", required=True, type=user_path, metavar="DIR", help="folder of the results")
    add("--crop", nargs=3, type=int, metavar=("ROW", "COLUMN", "SIDE"), help="part of the picture to restore")
    add(
        "--at",
        nargs=2,
        type=int,
        metavar=("ROW", "COLUMN"),
        help="the patch in the output; default: its middle",
    )
    add("--patch", type=positive, default=16, help="side of the patch in output pixels; default: 16")
    add(
        "--sigma", type=float, default=Path.sigma, help=f"of the first blur, in pixels; default: {Path.sigma}"
    )
    add("--steps", type=positive, default=Path.steps, help=f"of the path; default: {Path.steps}")
    options = command.parse_args(arguments)
    if not options.sigma > 0:
        raise ValueError(f"--sigma: found {options.sigma}, expected more than 0")

    subject = open_subject(options)
    picture = _cropped(read_image(options.input), options.crop)
    image = subject.input(picture).to(subject.device)
    size = [side * subject.scale for side in picture.shape[:2]]
    top, left = options.at or [(side - options.patch) // 2 for side in size]
    patch = Patch(top, left, options.patch)
    found = attribute(subject, image, patch, Path(options.sigma, options.steps))
    with torch.inference_mode():
        restored = subject(image[None])[0]

    options.out.mkdir(parents=True, exist_ok=True)
    np.savez(
        options.out / "lam.npz",
        map=found.signed,
        share_by_pixels=found.share_by_pixels(),
        share_by_distance=found.share_by_distance(),
        diffusion_index=found.diffusion_index,
    )
    write_image(options.out / "lam.png", _panels(found, image, restored))
    drawn = draw_shares(
        found.share_by_pixels(), found.share_by_distance(), subject.name, options.out / "curve.png"
    )
    print(f"diffusion index {found.diffusion_index:.2f}: {options.out / 'lam.png'}")
    matplotlib_hint(drawn)
    return []


def _cropped(picture: np.ndarray, crop: Sequence[int] | None) -> np.ndarray:
    if crop is None:
        return picture
    (row, column, side), (height, width) = crop, picture.shape[:2]
    if min(crop) < 0 or not side or row + side > height or column + side > width:
        raise ValueError(f"--crop: {side}x{side} at ({row}, {column}) is not within {height}x{width} pixels")
    return picture[row : row + side, column : column + side]


def _panels(found: Attribution, image: torch.Tensor, restored: torch.Tensor) -> np.ndarray:
    """Return the input with the patch framed, the map over it and the output, side by side."""
    factor = max(1, -(-_SIDE // (min(found.signed.shape) * found.scale))) * found.scale
    lq, y = (_pixels(part, factor // k) for part, k in ((image, 1), (restored, found.scale)))
    enlarge = factor // found.scale  # of an output pixel
    first, last = (
        [edge * enlarge for edge in (found.patch.top + end, found.patch.left + end)]
        for end in (0, found.patch.side)
    )
    for panel in (lq, y):
        _frame(panel, first, last)
    # The square root lets small contributions be seen.
    share = np.sqrt(found.magnitude).repeat(factor, 0).repeat(factor, 1)[..., None]
    light = 128 + _pixels(image, factor).mean(2, keepdims=True) / 2
    overlay = (1 - share) * light + share * np.array(_RED)
    return np.concatenate([lq, np.rint(overlay).astype(np.uint8), y], 1)


def _pixels(image: torch.Tensor, factor: int) -> np.ndarray:
    """Return an image (C, H, W) in 0..1, of views the first, as 8-bit colours, pixels repeated."""
    channels = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    pixels = channels.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return pixels.repeat(factor, 0).repeat(factor, 1)


def _frame(panel: np.ndarray, first: Sequence[int], last: Sequence[int]) -> None:
    (top, left), (bottom, right) = first, last
    for rows, columns in (
        (slice(top, top + 2), slice(left, right)),
        (slice(bottom - 2, bottom), slice(left, right)),
        (slice(top, bottom), slice(left, left + 2)),
        (slice(top, bottom), slice(right - 2, right)),
    ):
        panel[rows, columns] = _RED


if __name__ == "__main__":
    raise SystemExit(run(main))
