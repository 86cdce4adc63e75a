"""Volumes (CT, MR) with labels and supervoxels, from NIfTI files; CAT-Net's folds and slices.

Arrays are (D, H, W): D axial slices from the feet up, rows to the back, columns to the patient's left,
however a file stores them. No torch.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from typing_extensions import override

Kind = Literal["image", "label", "supervoxels"]
KINDS: tuple[Kind, ...] = ("image", "label", "supervoxels")

_RAW_CARDIAC = {200: 1, 500: 2, 600: 3}
"""Label values of the cardiac challenge (MS-CMRSeg): myocardium, left and right ventricle."""


@dataclass(frozen=True)
class Misfit:
    """A file that is missing, or that is no volume on its image's grid."""

    kind: Literal["unpaired", "unreadable", "grid"]
    path: str
    message: str


class VoxelError(ValueError):
    """A file whose voxels cannot be read or used; the message begins with its path."""


class VolumeSource(ABC):
    """Volumes by number; ``misfits`` are files that keep some of them from being used."""

    misfits: Sequence[Misfit] = ()

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Their names, in order."""

    @abstractmethod
    def kinds(self, index: int) -> Sequence[Kind]:
        """Return what there is of a volume."""

    @abstractmethod
    def path(self, index: int, kind: Kind) -> str:
        """Return what messages call an array."""

    @abstractmethod
    def read(self, index: int, kind: Kind) -> np.ndarray:
        """Return an array (D, H, W) as stored.

        Raises:
            VoxelError: it cannot be read.
        """

    def image(self, index: int) -> np.ndarray:
        """Return a volume (D, H, W), float32, of mean 0 and standard deviation 1.

        Raises:
            VoxelError: unreadable, voxels that are no numbers, or all the same.
        """
        image, path = self.read(index, "image").astype(np.float64), self.path(index, "image")
        wrong = int((~np.isfinite(image)).sum())
        if wrong:
            raise VoxelError(f"{path}: {wrong} of {image.size} voxels are NaN or infinite; mend the file")
        deviation = image.std()
        if deviation == 0:
            raise VoxelError(f"{path}: all voxels are {image.flat[0] + 0.0:g}; the volume is empty")
        return ((image - image.mean()) / deviation).astype(np.float32)

    def label(self, index: int) -> np.ndarray:
        """Return the value of each voxel's class (D, H, W), int16; 0 is background.

        Raises:
            VoxelError: unreadable, no whole numbers, or nothing but background.
        """
        label = self._whole(index, "label")
        if not label.any():
            raise VoxelError(f"{self.path(index, 'label')}: all voxels are 0; the label is empty")
        for raw, value in _RAW_CARDIAC.items():
            label[label == raw] = value
        return label.astype(np.int16)

    def supervoxels(self, index: int) -> np.ndarray:
        """Return the number of each voxel's supervoxel (D, H, W), int32; 0 belongs to none.

        Raises:
            VoxelError: unreadable, or no whole numbers.
        """
        return self._whole(index, "supervoxels").astype(np.int32)

    def _whole(self, index: int, kind: Kind) -> np.ndarray:
        values = self.read(index, kind)
        numbers = values.astype(np.int64) if np.isfinite(values).all() else None
        if numbers is None or (numbers != values).any() or numbers.min() < 0:
            raise VoxelError(
                f"{self.path(index, kind)}: whole numbers from 0 up were expected of a {kind} file"
            )
        return numbers


class NiftiVolumes(VolumeSource):
    """A folder of ``image_<id>.nii.gz``, ``label_<id>.nii.gz``, and ``<supervoxels>/super*_<id>.nii.gz``.

    Volumes are in the order of their ids, which are numbers.

    Args:
        folder: holds them.
        kinds: which files every volume has to have.
        supervoxels: the sub-folder.
        whatever: keep what is wrong with files in ``misfits``, rather than raise.

    Raises:
        ValueError: nibabel is not installed, no volumes, or files that are missing, damaged, of fewer than
            two slices, or that do not lie on the image's grid; the message names the file.
    """

    def __init__(
        self,
        folder: str,
        kinds: Sequence[Kind],
        supervoxels: str = "supervoxels_5000",
        whatever: bool = False,
    ) -> None:
        _nibabel()
        root = Path(folder).expanduser()
        found = {id_of(path): path for path in root.glob("image_*.nii*")}
        if not found:
            raise ValueError(f"{folder} holds no volume image_<number>.nii.gz")
        self._ids = sorted(found)
        self._files: list[dict[Kind, Path]] = []
        misfits: list[Misfit] = []
        for number in self._ids:
            files: dict[Kind, Path] = {"image": found[number]}
            for kind in kinds:
                if kind == "image":
                    continue
                partner = _partner(root, kind, number, supervoxels)
                if isinstance(partner, Path):
                    files[kind] = partner
                else:
                    misfits.append(partner)
            misfits += _grid_misfits(files)
            self._files.append(files)
        self.misfits = misfits
        if misfits and not whatever:
            first, others = misfits[0], len(misfits) - 1
            more = f" ({others} more such files; scripts/check_dataset.py lists all)" if others else ""
            raise ValueError(f"{first.path}: {first.message}{more}")

    @property
    @override
    def names(self) -> Sequence[str]:
        return [str(number) for number in self._ids]

    @override
    def kinds(self, index: int) -> Sequence[Kind]:
        return list(self._files[index])

    @override
    def path(self, index: int, kind: Kind) -> str:
        return str(self._files[index][kind])

    @override
    def read(self, index: int, kind: Kind) -> np.ndarray:
        return read_nifti(self._files[index][kind])


def id_of(path: Path) -> int:
    """Return the number after the last underscore of a file's name.

    Raises:
        ValueError: there is none.
    """
    number = re.search(r"_(\d+)\.nii(\.gz)?$", path.name)
    if number is None:
        raise ValueError(f"{path}: a name such as image_12.nii.gz was expected")
    return int(number[1])


def read_nifti(path: Path) -> np.ndarray:
    """Return a NIfTI file's voxels (D, H, W) in the order of this module.

    Raises:
        VoxelError: the file is no volume, or damaged.
        ValueError: nibabel is not installed.
    """
    file = _open(path)
    try:
        voxels = np.asanyarray(file.dataobj)
    except Exception as error:  # whatever decompressing a damaged file ends with
        raise VoxelError(f"{path}: cannot be read, {error}") from error
    turned = _nibabel().orientations.apply_orientation(voxels, _turn(file))
    return np.ascontiguousarray(turned.T)


def spacing(path: Path) -> tuple[float, float, float]:
    """Return the distances of slices, rows and columns of a NIfTI file in mm."""
    file = _open(path)
    sizes = [0.0] * 3
    for axis, (target, _) in enumerate(_turn(file)):
        sizes[int(target)] = float(file.header.get_zooms()[axis])
    return sizes[2], sizes[1], sizes[0]


def write_nifti(path: Path, voxels: np.ndarray, like: Path | None = None) -> None:
    """Write voxels (D, H, W) whole or not at all, on the grid of the file ``like`` or one of 1 mm.

    Raises:
        ValueError: nibabel is not installed.
    """
    from ..files import write_atomically

    nibabel = _nibabel()
    array, affine = voxels.T, np.diag([-1.0, -1.0, 1.0, 1.0])
    if like is not None:
        file = _open(like)
        back = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("LPS"), _stored(file))
        array, affine = nibabel.orientations.apply_orientation(array, back), file.affine
    content = nibabel.Nifti1Image(array, affine).to_bytes()
    if path.suffix == ".gz":
        import gzip

        content = gzip.compress(content, mtime=0)
    write_atomically(path, content, durable=False)


def _nibabel() -> Any:
    try:
        import nibabel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError("volumes of nii.gz files need nibabel: 'pip install nibabel'") from error
    return nibabel


def _open(path: Path) -> Any:
    """Open a file; its voxels are not read yet."""
    nibabel = _nibabel()
    try:
        file = nibabel.load(path)
    except Exception as error:  # nibabel's own, and those of decompression
        raise VoxelError(f"{path}: no NIfTI file, or a damaged one ({error})") from error
    if len(file.shape) != 3:
        raise VoxelError(f"{path}: found {len(file.shape)} dimensions, expected 3")
    axes = file.affine[:3, :3]
    if not np.isfinite(axes).all() or np.linalg.matrix_rank(axes) < 3:
        raise VoxelError(f"{path}: its affine does not say how the axes lie: {axes.tolist()}")
    return file


def _stored(file: Any) -> Any:
    return _nibabel().orientations.io_orientation(file.affine)


def _turn(file: Any) -> Any:
    """Return nibabel's transform from the stored axes to left, posterior, superior, as ITK has them."""
    orientations = _nibabel().orientations
    return orientations.ornt_transform(_stored(file), orientations.axcodes2ornt("LPS"))


def _partner(root: Path, kind: Kind, number: int, supervoxels: str) -> Path | Misfit:
    folder, pattern = (root / supervoxels, "super*") if kind == "supervoxels" else (root, kind)
    for path in sorted(folder.glob(f"{pattern}_{number}.nii*")):
        return path
    fix = f"; 'python scripts/make_supervoxels.py {root}' makes it" if kind == "supervoxels" else ""
    message = f"is missing, image_{number}.nii.gz is there{fix}"
    return Misfit("unpaired", f"{folder}/{pattern}_{number}.nii.gz", message)


def _grid_misfits(files: dict[Kind, Path]) -> list[Misfit]:
    """Return which of a volume's files cannot be opened, or do not lie on the image's grid."""
    opened: dict[Path, Any] = {}
    misfits: list[Misfit] = []
    for path in files.values():
        try:
            opened[path] = _open(path)
        except VoxelError as error:
            misfits.append(Misfit("unreadable", str(path), str(error).removeprefix(f"{path}: ")))
    image_path = files["image"]
    image = opened.pop(image_path, None)
    if image is None:
        return misfits
    for path, file in opened.items():
        message = None
        if file.shape != image.shape:
            message = f"found {list(file.shape)} voxels, {image_path.name} has {list(image.shape)}"
        elif not np.allclose(file.affine, image.affine, atol=1e-3):
            message = f"its affine is not that of {image_path.name}"
        if message:
            misfits.append(Misfit("grid", str(path), f"{message}; resample one of them"))
    if image.shape[[int(target) for target, _ in _turn(image)].index(2)] < 2:
        message = "found one slice, expected a volume of two at least"
        misfits.append(Misfit("grid", str(image_path), message))
    return misfits


# --- protocol --------------------------------------------------------------------------------------


def fold_of(volumes: int, fold: int, folds: int = 5) -> list[int]:
    """Return the positions of a test fold's volumes, ascending; it shares one with the next, as released.

    Raises:
        ValueError: no such fold, or too few volumes.
    """
    if not 0 <= fold < folds:
        raise ValueError(f"fold: found {fold}, expected 0 to {folds - 1}")
    if volumes <= folds:
        raise ValueError(f"{volumes} volumes are too few for {folds} folds and one volume in common")
    first, last = fold * volumes // folds, (fold + 1) * volumes // folds
    return sorted(position % volumes for position in range(first, last + 1))


def support_slices(count: int, parts: int) -> list[int]:
    """Return which of a class's ``count`` support slices stand for its ``parts``: each one's middle."""
    if parts == 1:
        return [int(0.5 * count)]
    # In the release's order of operations: rounding decides at some counts.
    step = (1 - 1 / parts) / (parts - 1)
    return [int((1 / (parts * 2) + part * step) * count) for part in range(parts)]


def query_bounds(count: int, parts: int) -> list[int]:
    """Return where the ``parts`` of a class's ``count`` query slices begin, and the end."""
    return [part * count // parts for part in range(parts + 1)]
