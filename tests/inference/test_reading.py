"""``infer.py`` names the likeliest classes of pictures, as evaluation scores them."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
import torch
import yaml

from basicsr_ext import build_network, load_options, load_weights, train
from basicsr_ext.archs.weights import DESCRIPTION
from basicsr_ext.data.images import write_image

CLASSES = ("ant", "bee", "cat", "dog", "emu", "fox")
NETWORK = {
    "type": "SwinTransformer",
    "img_size": 24,
    "num_classes": len(CLASSES),
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 3,
    "patch_size": 2,
}
SEEN = {"type": "ImageFolder", "resize": 28, "size": 24, "batch_size": 6, "mean": [0.4, 0.5, 0.6]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make one picture of each class."""
    root, rng = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        image = rng.integers(40 * number, 40 * number + 50, (33 + number, 41, 3)).astype(np.uint8)
        write_image(root / name / "0.png", image)
    return root


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Return the folder of a run of one iteration."""
    run = tmp_path_factory.mktemp("runs") / "run"
    stage = {"iters": 1, "gt_size": 24, "batch_size_per_gpu": 6}
    options = {
        "name": run.name,
        "model_type": "ClassificationModel",
        "num_gpu": 0,
        "datasets": {
            "train": {
                **{"type": "ImageFolder", "dataroot": str(folder), "on_bad_sample": "skip"},
                **{"num_worker_per_gpu": 0, "stages": [stage]},
            },
            "test": {**SEEN, "dataroot": str(folder)},
        },
        "network_g": NETWORK,
        "path": {"experiments_root": str(run.parent)},
        "train": {"total_iter": 1, "optim_g": {"type": "AdamW", "lr": 1e-3}},
        "logger": {"use_tb_logger": False},
    }
    train(load_options(options))
    return run


@pytest.fixture
def weights(trained):
    """Return a run's weights."""
    return trained / "models/net_g_latest.pth"


def expected(trained, folder):
    """Return the probabilities of an evaluation's items, (pictures, classes)."""
    options = load_options(trained / "run.yml")
    (item,) = [options.datasets.evaluation("test")["test"].eval_set(1)[0]]
    network = build_network(NETWORK)
    load_weights(network, trained / "models/net_g_latest.pth")
    with torch.no_grad():
        return network.eval()(item["image"]).double().softmax(1)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("batch", [1, 4])
def test_pictures_get_the_classes_and_probabilities_that_evaluation_sees(
    trained, folder, weights, infer, tmp_path, batch
):
    table = tmp_path / "deep/classes.csv"
    code, output, _ = infer("-i", folder, "--weights", weights, "-o", table, "--batch", batch)
    assert code == 0
    rows, lines = rows_of(table), output.splitlines()[1:]
    assert [row["filename"] for row in rows] == [str(folder / name / "0.png") for name in CLASSES]
    for row, line, shares in zip(rows, lines, expected(trained, folder), strict=True):
        probabilities, numbers = shares.topk(5)
        names = [CLASSES[number] for number in numbers]
        assert [row[f"label_{place}"] for place in range(5)] == names
        found = [float(row[f"probability_{place}"]) for place in range(5)]
        assert found == pytest.approx(probabilities.tolist(), abs=2e-6)
        assert line == f"{row['filename']}: " + ", ".join(
            f"{name} {p:.1%}" for name, p in zip(names, found, strict=True)
        )


def test_json_holds_the_same_records(folder, weights, infer, tmp_path):
    for name in ("a.csv", "a.json"):
        assert infer("-i", folder / "bee", "--weights", weights, "-o", tmp_path / name)[0] == 0
    (record,), (row,) = json.loads((tmp_path / "a.json").read_text()), rows_of(tmp_path / "a.csv")
    assert {column: str(value) for column, value in record.items()} == row


def test_pictures_of_all_kinds_are_read_and_bad_ones_named(weights, infer, tmp_path):
    photos, rng = tmp_path / "photos", np.random.default_rng(1)
    photos.mkdir()
    for name, shape, kind in (
        ("alpha.png", (20, 30, 4), np.uint8),
        ("deep.png", (20, 30, 3), np.uint16),
        ("grey.png", (20, 30), np.uint8),
        ("pixel.png", (1, 1, 3), np.uint8),
        ("strip.png", (1, 30000, 3), np.uint8),
    ):
        cv2.imwrite(str(photos / name), rng.integers(0, 200, shape).astype(kind))
    (photos / "broken.png").write_bytes(b"\x89PNG")
    (photos / "notes.txt").write_text("no picture")
    code, output, message = infer("-i", photos, "--weights", weights)
    assert code == 1
    named = [line.partition(":")[0].rpartition("/")[2] for line in output.splitlines()[1:]]
    assert named == ["alpha.png", "deep.png", "grey.png", "pixel.png", "strip.png"]
    assert "broken.png: cannot be decoded" in message
    assert "1 image of 6 not read" in message


def test_transparency_and_depth_do_not_change_what_is_read(weights, infer, tmp_path):
    image = np.random.default_rng(2).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "b.png"), np.dstack([image, image[..., 0]]))
    cv2.imwrite(str(tmp_path / "c.png"), image.astype(np.uint16) * 257)
    lines = infer("-i", tmp_path, "--weights", weights)[1].splitlines()[1:]
    assert len({line.partition(": ")[2] for line in lines}) == 1


def bare(weights, path):
    torch.save({"params": torch.load(weights, weights_only=True)["params"]}, path)
    return path


def test_bare_weights_ask_for_an_option_file_and_take_its_folders_names(
    trained, folder, weights, infer, tmp_path
):
    file = bare(weights, tmp_path / "net.pth")
    code, _, message = infer("-i", folder / "ant", "--weights", file)
    assert (code, message.count("\n")) == (2, 1)
    assert "--opt FILE" in message
    known = infer("-i", folder, "--weights", weights)[1].splitlines()[1:]
    assert infer("-i", folder, "--weights", file, "--opt", trained / "run.yml")[1].splitlines()[1:] == known


def test_classes_without_names_are_numbers(trained, folder, weights, infer, tmp_path):
    options = yaml.safe_load((trained / "run.yml").read_text())
    for section in options["datasets"].values():
        section["dataroot"] = str(tmp_path / "gone")
    (tmp_path / "other.yml").write_text(yaml.safe_dump(options))
    file = bare(weights, tmp_path / "net.pth")
    code, output, _ = infer("-i", folder / "ant", "--weights", file, "--opt", tmp_path / "other.yml")
    assert code == 0
    named = {guess.split()[0] for guess in output.splitlines()[1].partition(": ")[2].split(", ")}
    assert len(named) == 5
    assert named < set("012345")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out"], "expected a file that ends in .csv or .json"),
        (["--self_ensemble"], "--self_ensemble: for weights that restore images"),
        (["--tile", "0"], "--tile: for weights that restore images"),
    ],
)
def test_what_is_for_restoring_is_refused(folder, weights, infer, arguments, message):
    code, output, found = infer("-i", folder, "--weights", weights, *arguments)
    assert (code, output) == (2, "")
    assert message in found


def test_a_kind_that_says_nothing_of_pictures_is_refused_in_words(weights, folder, infer, tmp_path):
    content = torch.load(weights, weights_only=True)
    content[DESCRIPTION]["purpose"] = "FewShotModel"
    torch.save(content, tmp_path / "net.pth")
    code, _, message = infer("-i", folder, "--weights", tmp_path / "net.pth")
    assert code == 2
    assert "trained with model_type: FewShotModel, which neither restores images nor" in message


@pytest.mark.parametrize("notes", [{}, {"size": 24}, {"colour": 3}])
def test_a_checkpoint_without_its_notes_asks_for_the_option_file(weights, folder, infer, tmp_path, notes):
    content = torch.load(weights, weights_only=True)
    content[DESCRIPTION]["notes"] = notes
    torch.save(content, tmp_path / "net.pth")
    code, _, message = infer("-i", folder, "--weights", tmp_path / "net.pth")
    assert (code, message.count("\n")) == (2, 1)
    assert "cannot be used as ClassificationModel" in message
    assert "--opt" in message


def test_weights_of_grey_pictures_see_colour_in_grey(infer, tmp_path, trained, weights):
    content = torch.load(weights, weights_only=True)
    content[DESCRIPTION]["notes"]["grey"] = True
    torch.save(content, tmp_path / "net.pth")
    colour = np.random.default_rng(3).integers(0, 256, (30, 30, 3)).astype(np.uint8)
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos/a.png"), colour)
    cv2.imwrite(str(tmp_path / "photos/b.png"), cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY))
    lines = infer("-i", tmp_path / "photos", "--weights", tmp_path / "net.pth")[1].splitlines()[1:]
    assert len({line.partition(": ")[2] for line in lines}) == 1


def test_a_run_that_was_moved_still_names_its_classes(trained, folder, infer, tmp_path):
    shutil.copy(trained / "models/net_g_latest.pth", tmp_path / "elsewhere.pth")
    output = infer("-i", folder / "fox", "--weights", tmp_path / "elsewhere.pth")[1]
    assert any(name in output.splitlines()[1].partition(": ")[2] for name in CLASSES)
