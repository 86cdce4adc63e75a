"""Cut volumes into supervoxels, which few-shot segmentation trains on in place of labels.

    python scripts/make_supervoxels.py datasets/SABS/sabs_CT_normalized

writes supervoxels_5000/supervoxels_<id>.nii.gz below the folder for each of its image_<id>.nii.gz, by
Felzenszwalb's method in three dimensions, about 15 s for 256 x 256 x 30 voxels; 0 is air. --method slic is
faster and makes pieces of about equal size. What exists already is kept, so an interrupted run can simply be
started again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

from _command import add_workers, parser, positive, run, run_jobs

from basicsr_ext.data.supervoxels import Method, supervoxels
from basicsr_ext.data.volumes import NiftiVolumes, spacing, write_nifti
from basicsr_ext.files import user_path

Job = tuple[str, int, Path]


def main(arguments: Sequence[str] | None = None) -> list[str]:
    """Run the command; return what went wrong."""
    command = parser(__doc__)
    command.add_argument("folder", type=user_path, help="volumes image_<id>.nii.gz")
    command.add_argument(
        "--size",
        type=positive,
        default=5000,
        help="voxels of a supervoxel: the fewest, with slic on average; default: 5000",
    )
    command.add_argument(
        "--method", choices=get_args(Method), default="felzenszwalb", help="default: the first"
    )
    command.add_argument(
        "--scale", type=float, default=1.0, help="felzenszwalb: larger: larger supervoxels; default: 1"
    )
    command.add_argument("--output", type=user_path, help="default: supervoxels_<size> in the folder")
    command.add_argument("--overwrite", action="store_true", help="make those anew that exist already")
    add_workers(command)
    options = command.parse_args(arguments)

    output = options.output or options.folder / f"supervoxels_{options.size}"
    names = NiftiVolumes(str(options.folder), ("image",)).names
    jobs = [
        (str(options.folder), index, output / f"supervoxels_{name}.nii.gz")
        for index, name in enumerate(names)
    ]
    todo = [job for job in jobs if options.overwrite or not job[2].exists()]
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} exist and are kept (--overwrite makes them anew)")
    how = {"size": options.size, "method": options.method, "scale": options.scale}
    results = run_jobs(partial(cut, how=how), todo, options.workers, "cutting")
    errors = [error for error in results if error]
    print(f"{len(todo) - len(errors)} volumes of supervoxels written below {output}")
    return errors


def cut(job: Job, how: Mapping[str, Any]) -> str:
    """Make one volume's supervoxels as its arguments say; return what went wrong, or an empty string."""
    folder, index, target = job
    try:
        source = NiftiVolumes(folder, ("image",))
        path = Path(source.path(index, "image"))
        pieces = supervoxels(source.image(index), spacing=spacing(path), **how)
        write_nifti(target, pieces, like=path)
    except ValueError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    raise SystemExit(run(main))
