"""Write made abdomens with liver, kidneys and spleen as NIfTI files: data to try few-shot segmentation on.

    python scripts/make_phantoms.py datasets/phantoms --patients 12

writes image_<id>.nii.gz and label_<id>.nii.gz; the same arguments make the same volumes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from _command import parser, positive, run

from basicsr_ext.data.phantoms import make_phantom
from basicsr_ext.data.volumes import write_nifti
from basicsr_ext.files import user_path


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = parser(__doc__)
    command.add_argument("folder", type=user_path, help="where to")
    command.add_argument("--patients", type=positive, default=12, help="default: 12")
    command.add_argument(
        "--shape",
        type=positive,
        nargs=3,
        default=[24, 96, 96],
        help="slices, rows, columns; default: 24 96 96",
    )
    command.add_argument("--seed", type=int, default=0, help="default: 0")
    options = command.parse_args(arguments)

    for number in range(options.patients):
        image, label = make_phantom(options.seed, number, options.shape)
        write_nifti(options.folder / f"image_{number}.nii.gz", image)
        write_nifti(options.folder / f"label_{number}.nii.gz", label.astype(np.uint8))
    print(f"{options.patients} volumes with labels written to {options.folder}")
    return []


if __name__ == "__main__":
    raise SystemExit(run(main))
