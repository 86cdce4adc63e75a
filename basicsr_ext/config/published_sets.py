"""What is known of published data sets: where they come from, and what a test set has to hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

_RESTORMER = "github.com/swz30/Restormer has a script that downloads it"
_SOURCES = {
    ("DF2K",): "'python scripts/download_data.py DF2K' fetches it",
    ("DIV2K",): "'python scripts/download_data.py DIV2K' fetches it into DF2K/HR; link the images from there",
    ("DIV2K_valid",): "'python scripts/download_data.py DIV2K_valid' fetches it",
    ("Set5", "Set14", "B100", "Urban100"): "'python scripts/download_data.py benchmarks' fetches it",
    ("Manga109",): "manga109.org gives it out on request",
    ("Rain13K", "Rain100L", "Rain100H", "Test100", "Test1200", "Test2800"): f"{_RESTORMER} (Deraining)",
    ("Rain100L_train", "Rain100H_train"): "the sets' authors (Yang et al., CVPR 2017) give the pairs out",
    ("GoPro", "HIDE", "RealBlur_J", "RealBlur_R"): f"{_RESTORMER} (Motion_Deblurring)",
    ("DPDD",): f"{_RESTORMER} (Defocus_Deblurring)",
    ("SIDD", "DFWB", "CBSD68", "BSD68", "Set12", "Kodak", "McMaster"): f"{_RESTORMER} (Denoising)",
    ("BSDS500",): "github.com/BIDS/BSDS500 has it",
    ("Classic5",): "github.com/JingyunLiang/SwinIR has it (testsets)",
    ("LIVE1",): "live.ece.utexas.edu gives it out (image quality, release 1)",
    ("CHAOST2",): "chaos.grand-challenge.org gives the scans out; docs/few_shot.md says how to prepare them",
    ("SABS",): "synapse.org (syn3193805) gives the scans out; docs/few_shot.md says how to prepare them",
    ("CMR",): "MS-CMRSeg 2019 gives the scans out; docs/few_shot.md says how to prepare them",
    ("ImageNet",): "image-net.org gives it out on request",
}


def where_from(path: str) -> str:
    """Return who provides the published data set that a path names; empty where it names none."""
    for part in reversed(PurePath(path).parts):
        for names, words in _SOURCES.items():
            if part in names:
                return words
    return ""


_TEST_SETS: dict[str, tuple[int, tuple[int, int] | None]] = {
    "Set5": (5, (228, 512)),
    "Set14": (14, (250, 768)),
    "B100": (100, (321, 481)),
    "Urban100": (100, (256, 1600)),
    "Manga109": (109, (500, 2000)),
    "Set12": (12, (256, 512)),
    "BSD68": (68, (321, 481)),
    "CBSD68": (68, (321, 481)),
    "Kodak": (24, (512, 768)),
    "McMaster": (18, (500, 500)),
    "Classic5": (5, (512, 512)),
    "LIVE1": (29, None),
    "Rain100L": (100, (321, 481)),
    "Rain100H": (100, (321, 481)),
    "Test1200": (1200, None),
    "Test2800": (2800, None),
    "GoPro": (1111, (720, 1280)),
    "HIDE": (2025, None),
}
"""Images of each test set, and the shortest and longest side of any of them, where known (for Urban100 and
Manga109 only roughly)."""
_OTHER_NAMES = {"bsd100": "B100", "bsds100": "B100", "kodak24": "Kodak"}
_CUT = 12
"""Pixels by which sides may be shorter in copies that were cut to a multiple of several scales."""


def published_name(path: str) -> str | None:
    """Return the published test set that a path names, whatever case its letters have; None: none."""
    known = {name.lower(): name for name in _TEST_SETS} | _OTHER_NAMES
    return next(
        (known[part.lower()] for part in reversed(PurePath(path).parts) if part.lower() in known), None
    )


def deviations(name: str, sizes: Sequence[tuple[int, int]]) -> list[str]:
    """Return in words what tells images apart from a published test set's, of which nothing else is known.

    Args:
        name: as :func:`published_name` has it.
        sizes: height and width of each image.
    """
    count, sides = _TEST_SETS[name]
    found = [f"{name} has {count} images, here are {len(sizes)}"] if len(sizes) != count else []
    if sides is not None and sizes:
        shortest, longest = min(map(min, sizes)), max(map(max, sizes))
        if not sides[0] - _CUT <= shortest <= longest <= sides[1]:
            found.append(
                f"images of {name} have sides of {sides[0]} to {sides[1]} pixels, these of {shortest} to"
                f" {longest}"
            )
    return found
