"""Where the data sets come from that published option files name, in words for messages."""

from __future__ import annotations

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
