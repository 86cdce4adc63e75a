"""The analysis commands, on a small EDT for two tasks."""

import sys

import analyze_attention
import analyze_cka
import analyze_lam
import numpy as np
import pytest
import torch
from _command import CommandError

import basicsr_ext as bx
from basicsr_ext.archs.weights import DESCRIPTION
from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.inference.description import Description

NETWORK = {
    "type": "EDT",
    "scales": [2],
    "noise_levels": [25],
    "window_size": [2, 4],
    "num_feat": 4,
    "embed_dim": 8,
    "depths": [2],
    "num_heads": [2],
    "upsampler": "pixelshuffledirect",
}
PLUGIN = """
import torch
from basicsr_ext.registry import NETWORKS

@NETWORKS.register()
class Blurrer(torch.nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 3, padding=1)
"""


def save(path, network, seed=0, **description):
    torch.manual_seed(seed)
    state = bx.build_network(network).state_dict()
    torch.save({"params": state, DESCRIPTION: Description(network, **description).entry()}, path)
    return path


@pytest.fixture
def weights(tmp_path):
    return save(tmp_path / "net_g.pth", NETWORK)


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(5):
        image = rng.integers(0, 256, (40, 50 + number, 3)).astype(np.uint8)
        write_image(tmp_path / f"photos/{number}.png", image)
    return tmp_path / "photos"


def run(script, weights, out, *arguments):
    given = ["--weights", weights, "--out", out, "--device", "cpu", *arguments]
    assert script.main([str(argument) for argument in given]) == []


def without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def cka_of(folder):
    found = np.load(folder / "cka.npz")
    return found["cka"], found["layers"].tolist(), found["layers2"].tolist()


def test_cka_is_between_layers_of_one_network(weights, photos, tmp_path):
    pytest.importorskip("matplotlib")
    run(
        analyze_cka,
        weights,
        tmp_path / "out",
        "--task",
        "sr_x2",
        "--data",
        photos,
        "--size",
        16,
        "--batch",
        5,
    )
    matrix, layers, columns = cka_of(tmp_path / "out")
    assert layers == columns == [f"body.layers.0.residual_group.blocks.{i}" for i in (0, 1)]
    np.testing.assert_allclose(np.diag(matrix), 1)
    np.testing.assert_allclose(matrix, matrix.T)
    assert read_image(tmp_path / "out/cka.png").std() > 0


def test_cka_is_between_tasks_and_between_networks(weights, photos, tmp_path, monkeypatch, capsys):
    without_matplotlib(monkeypatch)
    data = ("--data", photos, "--size", 16, "--batch", 5, "--images", 9)
    run(
        analyze_cka,
        weights,
        tmp_path / "a",
        "--task",
        "sr_x2",
        "--task2",
        "dn_g25",
        *data,
        "--layers",
        "body",
    )
    assert "1 x 1 layers, 10 examples" in capsys.readouterr().out
    between_tasks, *_ = cka_of(tmp_path / "a")
    assert abs(between_tasks[0, 0] - 1) > 1e-3
    other = save(tmp_path / "other.pth", {**NETWORK, "depths": [3]}, seed=1)
    run(analyze_cka, weights, tmp_path / "b", "--task", "sr_x2", "--weights2", other, *data)
    matrix, rows, columns = cka_of(tmp_path / "b")
    assert matrix.shape == (2, 3)
    assert (len(rows), len(columns)) == (2, 3)
    assert "pip install matplotlib" in capsys.readouterr().out
    assert not (tmp_path / "b/cka.png").exists()


def test_distances_are_those_of_every_head(weights, photos, tmp_path):
    pytest.importorskip("matplotlib")
    data = ("--data", photos, "--size", 32, "--images", 2)
    run(analyze_attention, weights, tmp_path / "out", "--task", "dn_g25", *data)
    blocks, layers = (np.load(tmp_path / f"out/{name}.npz") for name in ("distances", "by_layer"))
    assert [len(blocks[name]) for name in blocks] == [4, 4]
    assert [len(layers[name]) for name in layers] == [2, 2, 2, 2]
    for name in blocks:
        assert (np.diff(blocks[name]) >= 0).all()
        assert (
            0 < blocks[name][0] < blocks[name][-1] < 4 * 20**0.5
        )  # the windows' diagonal, a quarter as large
    assert read_image(tmp_path / "out/distances.png").std() > 0


def test_a_network_without_attention_has_no_distances(photos, tmp_path):
    sizes = {"num_feat": 4, "num_block": 1, "num_grow_ch": 2}
    plain = save(tmp_path / "plain.pth", {"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, **sizes})
    with pytest.raises(CommandError, match="RRDBNet has no layer of ours that attends"):
        run(analyze_attention, plain, tmp_path / "out", "--data", photos, "--size", 16, "--images", 1)


def test_the_map_lies_over_the_picture_between_input_and_output(weights, photos, tmp_path):
    pytest.importorskip("matplotlib")
    where = ("--crop", 4, 8, 20, "--at", 10, 12, "--patch", 6)
    run(
        analyze_lam,
        weights,
        tmp_path / "out",
        "-i",
        photos / "0.png",
        "--task",
        "sr_x2",
        "--steps",
        2,
        *where,
    )
    found = np.load(tmp_path / "out/lam.npz")
    assert found["map"].shape == (20, 20)
    assert 0 < found["diffusion_index"] < 100
    sheet = read_image(tmp_path / "out/lam.png")
    assert sheet.shape == (200, 3 * 200, 3)  # 10 times the input
    red = (sheet == (229, 72, 77)).all(2)
    for first in (0, 400):
        rows, columns = np.nonzero(red[:, first : first + 200])
        assert (rows.min(), columns.min()) == (10 * 5, 12 * 5)
        assert (rows.max(), columns.max()) == (16 * 5 - 1, 18 * 5 - 1)
    lq = read_image(photos / "0.png")[4:24, 8:28]
    assert (sheet[-10:, :200:10] == lq[-1]).all()
    assert read_image(tmp_path / "out/curve.png").std() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "sr_x3"], "--task sr_x3: the weights are for"),
        ([], "choose one with --task: sr_x2 dn_g25"),
        (["--task", "sr_x2", "--crop", "30", "0", "16"], r"--crop: 16x16 at \(30, 0\) is not within 40x50"),
        (["--task", "sr_x2", "--at", "70", "0"], "do not lie in an output of 80x100"),
        (["--task", "sr_x2", "--sigma", "0"], "--sigma: found 0.0"),
    ],
)
def test_what_cannot_be_looked_at_is_explained(weights, photos, tmp_path, arguments, message):
    with pytest.raises((CommandError, ValueError), match=message):
        run(analyze_lam, weights, tmp_path / "out", "-i", photos / "0.png", *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "15"], "size: 15 is not a multiple of 2"),
        (["--layers", "tail"], "no module of EDT is called tail; there are, for example, body"),
        (["--layers", "tail_dn_g25"], "tail_dn_g25 does not take part in net_g, sr_x2"),
    ],
)
def test_what_cannot_be_compared_is_explained(weights, photos, tmp_path, arguments, message):
    with pytest.raises((CommandError, ValueError), match=message):
        run(
            analyze_cka,
            weights,
            tmp_path / "out",
            "--task",
            "sr_x2",
            "--data",
            photos,
            "--batch",
            "4",
            *arguments,
        )


def test_a_plug_ins_network_is_found_by_its_module(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "blurring.py").write_text(PLUGIN)
    import blurring  # noqa: F401  # pyright: ignore[reportMissingImports]

    plugged = save(tmp_path / "plugged.pth", {"type": "Blurrer"}, plugins=["blurring"])
    run(analyze_lam, plugged, tmp_path / "out", "-i", photos / "0.png", "--plugins", "blurring", "--steps", 2)
    assert np.load(tmp_path / "out/lam.npz")["map"].shape == (40, 50)
