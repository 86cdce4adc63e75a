"""Draw README's picture: photographs shrunk by 4, enlarged bicubically and by the released weights of EMT.

    python scripts/make_picture.py --weights EMT_LSR_x4.pth --out docs/emt_x4.png

The photographs are scikit-image's, the weights those of github.com/Fried-Rice-Lab/EMT. Under each version
stands its PSNR within the crop, of RGB values. Takes a minute or two on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage
from _command import ROOT, parser, run

import basicsr_ext as bx
from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.data.resize import cut_to_multiple, downscale, upscale

_SCALE, _ENLARGED, _STRIP = 4, 3, 24


@dataclass(frozen=True)
class Crop:
    """A part of a photograph; where it lies and how large it is, in pixels."""

    photograph: str
    top: int
    left: int
    height: int = 80
    width: int = 120


CROPS = (Crop("motorcycle_left.png", 240, 176), Crop("coffee.png", 240, 304))
"""Where enlarging has most to do: edges and thin lines that four pixels of a row become one of."""


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = parser(__doc__)
    command.add_argument("--weights", type=Path, required=True, metavar="FILE", help="EMT_LSR_x4.pth")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="PNG to write")
    options = command.parse_args(arguments)

    spec = bx.load_options(ROOT / "options/emt_x4.yml", phases=()).network_g
    network = bx.build_network({"type": spec.type, **spec.kwargs}).eval()
    bx.load_weights(network, options.weights)
    rows = []
    for crop in CROPS:
        photograph = read_image(Path(skimage.__file__).parent / "data" / crop.photograph)
        gt = cut_to_multiple(photograph[..., :3], _SCALE)
        lq = downscale(gt, _SCALE)
        restored = bx.restore(network, lq, scale=_SCALE)
        versions = {"bicubic": upscale(lq, _SCALE), "EMT x4, released weights": restored, "photograph": gt}
        rows.append(np.concatenate([_panel(crop, label, v, gt) for label, v in versions.items()], axis=1))
    write_image(options.out, np.concatenate(rows))
    return []


def _panel(crop: Crop, label: str, version: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """Return the crop of a version, enlarged by repeating pixels, above its label and PSNR."""
    window = np.s_[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    error = np.mean((version[window].astype(np.float64) - gt[window]) ** 2)
    text = f"{label}, {10 * np.log10(255**2 / error):.1f} dB" if error else label
    pixels = version[window].repeat(_ENLARGED, axis=0).repeat(_ENLARGED, axis=1)
    strip = np.full((_STRIP, pixels.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([pixels, strip])


if __name__ == "__main__":
    raise SystemExit(run(main))
