"""What an evaluation measures and saves: metrics with and without ground truth, roundings, files."""

import json
import math

import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_niqe, calculate_psnr
from helpers import tiny_options

from basicsr_ext import build_network, load_options, restore, train
from basicsr_ext import test as evaluate
from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.data.resize import downscale

PSNR = {"type": "calculate_psnr", "crop_border": 0}
NIQE = {"type": "calculate_niqe", "crop_border": 0}


@pytest.fixture
def photographs():
    """Return a function (height, width, bits) that makes images with structure, so that NIQE is a number."""

    def make(height, width, bits=8, seed=0):
        rng = np.random.default_rng(seed)
        waves = np.cumsum(np.cumsum(rng.normal(0, 1, (height, width, 3)), axis=0), axis=1)
        unit = (waves - waves.min()) / (waves.max() - waves.min())
        return np.rint(unit * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)

    return make


def evaluation(tmp_path, val, **sets):
    """Return options to evaluate a tiny network on ``sets``, and the network."""
    options = tiny_options(tmp_path / "run")
    network = build_network(options["network_g"])
    torch.save({"params": network.state_dict()}, tmp_path / "net.pth")
    options["path"] = {
        "pretrain_network_g": str(tmp_path / "net.pth"),
        "results_root": str(tmp_path),
    }
    options["name"] = "results"
    options["datasets"], options["val"] = sets, val
    del options["train"]
    return options, network


def without_truth(folder):
    return {"type": "SingleImageDataset", "dataroot_lq": str(folder)}


def test_sets_without_ground_truth_get_the_metrics_that_need_none(tmp_path, photographs, capsys):
    write_image(tmp_path / "lq/a.png", photographs(100, 98))
    options, network = evaluation(
        tmp_path, {"metrics": {"psnr": PSNR, "niqe": NIQE}}, test=without_truth(tmp_path / "lq")
    )
    scores = evaluate(load_options(options))["test"]
    restored = restore(network, read_image(tmp_path / "lq/a.png"), scale=2)
    assert scores.keys() == {"niqe", "bicubic_niqe"}
    # A value that lies between two integers may be rounded to either, depending on where it is in memory.
    assert scores["niqe"] == pytest.approx(calculate_niqe(restored[..., ::-1], 0), rel=0.01)
    assert capsys.readouterr().out.count("test has no ground truth: no psnr") == 1


def test_a_reference_free_metric_is_taken_of_the_result_where_there_is_ground_truth(tmp_path, photographs):
    write_image(tmp_path / "gt/a.png", photographs(200, 200))
    options, network = evaluation(
        tmp_path,
        {"metrics": {"psnr": PSNR, "niqe": {**NIQE, "better": "lower"}}},
        test={"type": "PairedImageDataset", "dataroot_gt": str(tmp_path / "gt")},
    )
    scores = evaluate(load_options(options))["test"]
    restored = restore(network, downscale(read_image(tmp_path / "gt/a.png"), 2), scale=2)
    assert scores["niqe"] == calculate_niqe(restored[..., ::-1], 0)
    # Halves may be rounded to either side.
    psnr = calculate_psnr(restored, read_image(tmp_path / "gt/a.png"), 0)
    assert scores["psnr"] == pytest.approx(psnr, abs=1e-3)


def test_an_image_too_small_for_a_metric_gives_no_number_and_a_line(tmp_path, photographs, capsys):
    write_image(tmp_path / "lq/few.png", photographs(16, 16))
    options, _ = evaluation(tmp_path, {"metrics": {"niqe": NIQE}}, test=without_truth(tmp_path / "lq"))
    assert math.isnan(evaluate(load_options(options))["test"]["niqe"])
    assert "niqe cannot be computed of few: " in capsys.readouterr().out


@pytest.mark.parametrize("use_image", [True, False])
def test_use_image_decides_about_the_rounding_of_both_sides(tmp_path, photographs, use_image):
    write_image(tmp_path / "gt/a.png", photographs(32, 32, bits=16))
    write_image(tmp_path / "lq/a.png", photographs(16, 16, bits=16))
    folders = {"dataroot_gt": str(tmp_path / "gt"), "dataroot_lq": str(tmp_path / "lq")}
    options, network = evaluation(
        tmp_path,
        {"metrics": {"psnr": PSNR}, "use_image": use_image},
        test={"type": "PairedImageDataset", **folders},
    )
    gt, lq = (read_image(tmp_path / f"{side}/a.png") / 65535 for side in ("gt", "lq"))
    sides = [255 * image.astype(np.float64) for image in (restore(network, lq.astype(np.float32), 2), gt)]
    psnr = {
        True: calculate_psnr(*map(np.rint, sides), 0),
        False: calculate_psnr(*sides, 0),
    }
    assert evaluate(load_options(options))["test"]["psnr"] == pytest.approx(psnr[use_image], abs=1e-6)
    assert psnr[True] != pytest.approx(psnr[False], abs=1e-5)


def test_results_keep_their_sub_folders_and_lie_apart_from_comparisons(tmp_path, photographs):
    for seed, name in enumerate(("a/0", "b/0")):
        write_image(tmp_path / f"gt/{name}.png", photographs(16, 16, seed=seed))
        write_image(tmp_path / f"lq/{name}x2.png", photographs(8, 8, seed=seed))
    folders = {"dataroot_gt": str(tmp_path / "gt"), "dataroot_lq": str(tmp_path / "lq")}
    options, network = evaluation(
        tmp_path,
        {"save_img": True, "suffix": "ours"},
        test={"type": "PairedImageDataset", "name": "Set", "filename_tmpl": "{}x2", **folders},
    )
    evaluate(load_options(options))
    results = {str(path.relative_to(tmp_path / "results")) for path in (tmp_path / "results").rglob("*.png")}
    assert results == {f"{kind}/{name}/0x2_ours.png" for kind in ("Set", "comparison/Set") for name in "ab"}
    for name in "ab":
        expected = restore(network, read_image(tmp_path / f"lq/{name}/0x2.png"), scale=2)
        np.testing.assert_array_equal(read_image(tmp_path / f"results/Set/{name}/0x2_ours.png"), expected)


def test_training_keeps_the_best_of_a_metric_without_reference(tmp_path, photographs):
    write_image(tmp_path / "lq/a.png", photographs(100, 100))
    options = tiny_options(tmp_path / "run")
    options["datasets"]["val"] = without_truth(tmp_path / "lq")
    options["val"] |= {"val_freq": 4, "metrics": {"psnr": PSNR, "niqe": NIQE}}
    best = train(load_options(options)).best["val"]
    lines = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    values = [line["niqe"] for line in lines if "niqe" in line]
    assert len(values) == 2
    assert best["niqe"]["value"] == min(values)
    assert "psnr" not in best


def test_hats_section_runs_images_in_tiles(tmp_path, photographs):
    write_image(tmp_path / "lq/a.png", photographs(24, 40))
    options, network = evaluation(tmp_path, {"save_img": True}, test=without_truth(tmp_path / "lq"))
    options["tile"] = {"tile_size": 8, "tile_pad": 4}
    evaluate(load_options(options))
    expected = restore(network, read_image(tmp_path / "lq/a.png"), scale=2, tile=16, tile_overlap=8)
    np.testing.assert_array_equal(read_image(tmp_path / "results/test/a_results.png"), expected)


def test_dead_keys_are_named_once(tmp_path, photographs, capsys):
    write_image(tmp_path / "lq/a.png", photographs(8, 8))
    options, _ = evaluation(tmp_path, {}, test=without_truth(tmp_path / "lq"))
    evaluate(load_options({**options, "crop_border": None}))
    assert capsys.readouterr().out.count("crop_border has no effect, as in BasicSR") == 1
