"""Are the files and folders there that an option file names?"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

from .errors import Problem, closest
from .facts import Facts

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")

_FOLDERS: dict[str, tuple[str, ...]] = {
    "PairedImageDataset": ("dataroot_gt", "dataroot_lq"),
    "Dataset_PairedImage": ("dataroot_gt", "dataroot_lq"),
    "Dataset_GaussianDenoising": ("dataroot_gt",),
    "Dataset_DefocusDeblur_DualPixel_16bit": ("dataroot_gt", "dataroot_lqL", "dataroot_lqR"),
    "SingleImageDataset": ("dataroot_lq",),
}
_PREPARED = (
    "'python scripts/download_data.py' fetches published sets; datasets/README.md shows the layout of all"
)


def check_paths(facts: Facts, phases: Collection[str]) -> Iterator[Problem]:
    """Yield a problem for each folder or file that is missing or holds nothing.

    Args:
        facts: the option file.
        phases: which data sets to look at: any of ``train``, ``val``, ``test``.
    """
    for data in facts.keys("datasets"):
        if data.split(".")[1].split("_")[0] in phases:
            yield from _check_dataset(facts, data)
    for key, what in (
        ("path.pretrain_network_g", "a file of weights, such as net_g_latest.pth"),
        ("path.resume_state", "a training state, such as training_states/5000.state"),
    ):
        path = facts.get(key)
        if path is not None and not os.path.isfile(os.path.expanduser(path)):
            yield _missing(key, path, what, "give the path of an existing file, or ~ for none")


def _check_dataset(facts: Facts, data: str) -> Iterator[Problem]:
    for name in _FOLDERS.get(str(facts.get(f"{data}.type")), ()):
        path = facts.get(f"{data}.{name}")
        if path is not None:
            yield from _check_folder(facts, data, name, path)
    for name in ("meta_info_file", "meta_info"):
        path = facts.get(f"{data}.{name}")
        if isinstance(path, str) and not os.path.isfile(os.path.expanduser(path)):
            yield _missing(
                f"{data}.{name}",
                path,
                "a text file with one ground-truth image name a line",
                "leave it out to use every image of the folder",
            )


def _check_folder(facts: Facts, data: str, name: str, path: str) -> Iterator[Problem]:
    key, folder = f"{data}.{name}", os.path.expanduser(path)
    if folder.rstrip("/").endswith(".lmdb"):
        if not os.path.isfile(os.path.join(folder, "data.mdb")):
            yield _missing(key, path, "a BasicSR LMDB (a folder with data.mdb, meta_info.txt)", _PREPARED)
    elif folder.rstrip("/").endswith(".store"):
        if not os.path.isfile(os.path.join(folder, "images.txt")):
            store = "a complete store (a folder with meta.yml, images.txt)"
            fix = "start scripts/make_store.py; it goes on where it was stopped"
            if os.path.isdir(folder):
                yield Problem(key, f"{path!r}, which lacks images.txt", store, fix)
            else:
                yield _missing(key, path, store, fix)
    elif facts.get(f"{data}.io_backend.type") == "lmdb":
        yield Problem(key, repr(path), "a folder whose name ends in .lmdb, as io_backend.type is lmdb")
    elif not os.path.isdir(folder):
        yield _missing(key, path, _layout(facts, data, name), _preparation(facts, data, name))
    elif not _holds_image(folder):
        found = f"{path!r} ({os.path.abspath(folder)}), which holds no image"
        yield Problem(key, found, f"a folder of images such as 0001.png ({' '.join(IMAGE_SUFFIXES)})")


def _layout(facts: Facts, data: str, name: str) -> str:
    if name == "dataroot_gt" or not facts.written(f"{data}.dataroot_gt"):
        return "a folder of images such as 0001.png"
    template = facts.get(f"{data}.filename_tmpl", "{}")
    partner = str(template).replace("{}", "0001")
    return f"a folder of images such as {partner}.png for the ground truth's 0001.png"


def _preparation(facts: Facts, data: str, name: str) -> str:
    scale = facts.get(f"{data}.scale", facts.get("scale", 1))
    if name == "dataroot_lq" and facts.written(f"{data}.dataroot_gt") and scale is not None and scale > 1:
        return "'python scripts/make_lr.py' makes it from the ground truth; left out, LQ is made on the fly"
    return _PREPARED


def _missing(key: str, path: str, what: str, fix: str) -> Problem:
    full = os.path.abspath(os.path.expanduser(path))
    similar = _similar(full)
    hint = f"did you mean {os.path.join(os.path.dirname(path), similar)!r}?" if similar else ""
    resolved = "" if full == path else f"{full} "
    return Problem(key, f"{path!r} ({resolved}does not exist)", what, f"{hint} {fix}".strip())


def _similar(full: str) -> str | None:
    try:
        neighbours = os.listdir(os.path.dirname(full))
    except (OSError, ValueError):
        return None
    return closest(os.path.basename(full), neighbours)


def _holds_image(folder: str) -> bool:
    return any(
        name.lower().endswith(IMAGE_SUFFIXES)
        for _, _, names in os.walk(folder, followlinks=True)
        for name in names
    )
