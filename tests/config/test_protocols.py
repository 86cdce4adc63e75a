"""``val.protocol``: published protocols written out as the option keys that they stand for."""

from __future__ import annotations

import copy
import re

import pytest
from helpers import ROOT

from basicsr_ext.config import OptionError, load_options
from basicsr_ext.config.protocols import PROTOCOLS
from basicsr_ext.data.images import write_image


@pytest.fixture
def options(tmp_path):
    """options("sr_x4", color="gray"): a test on a folder by a protocol; other keys are the set's."""
    import numpy as np

    write_image(tmp_path / "photos/a.png", np.zeros((8, 8, 3), np.uint8))

    def of(protocol: str, **keys: object) -> dict:
        if PROTOCOLS[protocol].stored:
            keys["dataroot_lq"] = str(tmp_path / "photos")
        return {
            "name": "tiny",
            "scale": PROTOCOLS[protocol].scale,
            "datasets": {"test": {"dataroot_gt": str(tmp_path / "photos"), **keys}},
            "network_g": {"type": "EDT", "scales": [PROTOCOLS[protocol].scale]},
            "val": {"protocol": protocol},
        }

    return of


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_folder_and_a_protocol_are_a_whole_test(options, name):
    grey = {"color": "gray"} if name.startswith("jpeg_gray") else {}
    loaded = load_options(options(name, **grey))
    protocol = PROTOCOLS[name]
    assert set(loaded.val.metrics) == set(protocol.metrics)
    for metric in loaded.val.metrics.values():
        assert metric.kwargs == {"crop_border": protocol.border, "test_y_channel": protocol.luma}
    written_again = load_options(loaded.to_mapping())
    assert written_again == loaded


def test_noise_jpeg_and_mosaic_are_those_of_the_protocol(options):
    def made_by(name, **keys):
        return load_options(options(name, **keys)).datasets.evaluation("test")["test"]

    noisy = made_by("denoise_gray_50")
    assert (noisy.type, noisy.sigma_test, noisy.in_ch) == ("Dataset_GaussianDenoising", 50, 1)
    compressed = made_by("jpeg_color_20")
    assert [step.model_dump()["quality"] for step in compressed.degradation] == [(20, 20)]
    mosaic = made_by("demosaic").degradation[0]
    assert (mosaic.pattern, mosaic.output) == ("RGGB", "malvar")


def problems_of(mapping: dict) -> str:
    with pytest.raises(OptionError) as caught:
        load_options(mapping)
    return str(caught.value)


def test_keys_that_contradict_the_protocol_are_named(options):
    written = options("denoise_color_25", sigma_test=30)
    written["scale"] = 2
    written["val"] |= {"use_image": False, "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 2}}}
    told = problems_of(written)
    why = "as val.protocol is denoise_color_25"
    for line in (
        f"scale: found 2, expected 1, {why}",
        f"datasets.test.sigma_test: found 30, expected 25, {why}; delete it",
        f"val.use_image: found false, expected true, {why}; delete it",
        "val.metrics.psnr: found a mapping with the keys type, crop_border, expected",
    ):
        assert line in told


def test_metrics_beside_those_of_the_protocol_are_taken_too(options):
    written = options("sr_x2")
    written["val"]["metrics"] = {"niqe": {"type": "calculate_niqe", "crop_border": 2}}
    assert list(load_options(written).val.metrics) == ["niqe", "psnr", "ssim"]


def test_low_quality_that_is_stored_is_not_made(options, tmp_path):
    stored = load_options(options("sr_x2", dataroot_lq=str(tmp_path / "photos")))
    assert stored.datasets.evaluation("test")["test"].degradation is None


def test_a_data_set_of_another_type_does_if_it_can_make_such_low_quality(options):
    written = options("jpeg_color_10")
    written["datasets"]["test"] = {"type": "SampleImages", "split": "val"}
    assert load_options(copy.deepcopy(written)).datasets.evaluation("test")["test"].degradation
    written["val"]["protocol"] = "denoise_color_15"
    assert "datasets.test.type: found 'SampleImages' (text), expected Dataset_GaussianDenoising" in (
        problems_of(written)
    )


def test_grey_jpeg_asks_which_grey_the_files_want(options):
    assert (
        "datasets.test.color: found nothing (~), expected matlab_gray for sets of colour files, such as "
        "LIVE1 or gray for sets of grey files, such as Classic5"
    ) in problems_of(options("jpeg_gray_10"))


def test_a_misspelt_protocol_is_one_problem_with_a_suggestion(options):
    written = options("sr_x4")
    written["val"]["protocol"] = "sr_4x"
    written["datasets"]["test"]["type"] = "PairedImageDataset"
    assert problems_of(written).endswith(
        "val.protocol: found 'sr_4x' (text), expected the name of a test protocol; did you mean 'sr_x4'?"
    )


def test_the_page_lists_every_protocol():
    page = (ROOT / "docs/benchmarking.md").read_text(encoding="utf-8")
    rows = page.partition("| `--protocol` |")[2].partition("\n\n")[0]
    assert re.findall(r"`([a-z]+_\w+|demosaic)`", rows) == list(PROTOCOLS)
