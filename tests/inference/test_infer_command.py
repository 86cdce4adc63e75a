"""``infer.py`` restores files with our checkpoints and with published weights."""

import json
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers import ROOT, run_command, tiny_options
from PIL import Image
from recorded import SHARED

from basicsr_ext import build_network, load_options, train
from basicsr_ext.archs.weights import DESCRIPTION
from basicsr_ext.inference.description import Description
from basicsr_ext.inference.records import NAME
from basicsr_ext.metrics import build_metric
from basicsr_ext.registry import NETWORKS

# Its tail is set to zero: it restores an image by the bilinearly enlarged one.
TINY = tiny_options(Path())["network_g"]
SEES_NOTHING = {"type": "Restormer", "dim": 8, "num_blocks": [1] * 4, "heads": [1, 1, 1, 1]}
SEES_NOTHING |= {"num_refinement_blocks": 1}


def zeroed(network):
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    return network


def saved(path, network, **described):
    """Write a checkpoint as training does, of a network that gives back its image."""
    content = {"params": zeroed(build_network(network)).state_dict()}
    content[DESCRIPTION] = Description(network, **described).entry()
    torch.save(content, path)
    return path


@pytest.fixture
def weights(tmp_path):
    """Return weights that enlarge twice."""
    return saved(tmp_path / "net_g.pth", TINY)


@pytest.fixture
def photos(tmp_path):
    """Make a folder with two pictures of one size, one in a folder of its own, and a text."""
    (tmp_path / "photos/deep").mkdir(parents=True)
    (tmp_path / "photos/notes.txt").write_text("no picture")
    for name, value in (("a.png", 40), ("deep/b.jpg", 90)):
        cv2.imwrite(str(tmp_path / "photos" / name), np.full((9, 13, 3), value, np.uint8))
    return tmp_path / "photos"


def read(path):
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None, f"{path} is missing"
    return image


# --- which network ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a plug-in's network for a moment, starting from weights that are gone afterwards."""
    folder = tmp_path_factory.mktemp("trained")
    options = tiny_options(
        folder / "tiny", total_iter=2, scheduler={"type": "MultiStepLR", "milestones": [1]}
    )
    options["plugins"] = ["one_of_each"]
    options["network_g"] = {"type": "TwoLayers", "width": 6}
    options["datasets"]["train"]["stages"] = [{"iters": 2, "gt_size": 16, "batch_size_per_gpu": 1}]
    options["val"] = {"window_size": 4}
    del options["datasets"]["val"]
    options["path"] |= {"pretrain_network_g": str(folder / "start.pth"), "param_key_g": "params"}
    sys.path.insert(0, str(ROOT / "tests/plugin"))
    load_options({**options, "path": {}})  # registers the network
    torch.save({"params": build_network(options["network_g"]).state_dict()}, folder / "start.pth")
    train(load_options(options))
    (folder / "start.pth").unlink()
    return folder / "tiny/models/net_g_latest.pth"


def test_training_writes_down_which_network_it_is(trained):
    content = torch.load(trained, weights_only=True)
    assert list(content) == ["params", "params_ema", DESCRIPTION]
    described = Description.of_entry(content[DESCRIPTION], trained)
    assert described.network == {"type": "TwoLayers", "width": 6}
    assert (described.window_size, described.plugins) == (4, ["one_of_each"])


def test_a_plug_ins_network_restores_in_its_run_with_averaged_weights(trained, photos, tmp_path):
    done = run_command(
        *(sys.executable, "infer.py", "-i", photos, "-o", tmp_path / "out", "--weights", trained),
        environment={"PYTHONPATH": str(ROOT / "tests/plugin")},
    )
    assert done.returncode == 0, done.stderr
    assert "2 images restored" in done.stdout
    content = torch.load(trained, weights_only=True)
    network = NETWORKS.find("TwoLayers")(width=6)
    network.load_state_dict(content["params_ema"])
    image = torch.from_numpy(read(photos / "a.png")[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    padded = torch.nn.functional.pad(image, (0, 3, 0, 3), mode="reflect")
    expected = (network(padded)[0, :, :18, :26].clamp(0, 1) * 255).round().permute(1, 2, 0).detach().numpy()
    np.testing.assert_array_equal(read(tmp_path / "out/a.png")[..., ::-1], expected)


def test_a_plug_ins_weights_elsewhere_ask_for_its_module(trained, photos, tmp_path, infer):
    content = torch.load(trained, weights_only=True)
    content[DESCRIPTION]["network"]["type"] = "NetworkOfAPlugInNotImported"
    torch.save(content, tmp_path / "net.pth")
    code, _, message = infer("-i", photos, "-o", tmp_path / "out", "--weights", tmp_path / "net.pth")
    assert (code, message.count("\n")) == (2, 1)
    assert "--plugins one_of_each" in message


def test_a_module_that_cannot_be_imported_is_named(weights, photos, tmp_path, infer):
    code, _, message = infer(
        "-i", photos, "-o", tmp_path / "out", "--weights", weights, "--plugins", "no_such_module"
    )
    assert (code, message.count("\n")) == (2, 1)
    assert "no_such_module" in message


def test_weights_without_description_go_by_the_option_file_of_their_run(tmp_path, photos, infer):
    run = tmp_path / "tiny"
    (run / "models").mkdir(parents=True)
    options = tiny_options(run)
    options["path"]["pretrain_network_g"] = str(tmp_path / "deleted.pth")
    (run / "tiny.yml").write_text(yaml.safe_dump(options))
    bare = {"params": build_network(TINY).state_dict()}
    torch.save(bare, run / "models/net_g_5.pth")
    code, *messages = infer("-i", photos, "-o", tmp_path / "out", "--weights", run / "models/net_g_5.pth")
    assert code == 0, messages
    torch.save(bare, tmp_path / "bare.pth")
    arguments = ("-i", photos, "-o", tmp_path / "out2", "--weights", tmp_path / "bare.pth")
    code, _, message = infer(*arguments)
    assert (code, message.count("\n")) == (2, 1)
    assert "num_heads" in message
    assert "--opt" in message
    assert infer(*arguments, "--opt", run / "tiny.yml")[0] == 0


def test_published_weights_are_recognised(tmp_path, photos, infer):
    network = {"type": "SwinIR", "upscale": 2, "upsampler": "pixelshuffledirect", "window_size": 8}
    network |= {"embed_dim": 12, "depths": [2], "num_heads": [2], "img_size": 64}
    torch.save({"params": build_network(network).state_dict()}, tmp_path / "light.pth")
    code, output, _ = infer("-i", photos, "-o", tmp_path / "out", "--weights", tmp_path / "light.pth")
    assert code == 0
    assert "SwinIR, x2: " in output
    assert "recognised" in output
    assert read(tmp_path / "out/deep/b.png").shape == (18, 26, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"params": {"unheard.of": torch.zeros(3)}}, "--opt"),
        ({"params": {}}, "holds no weights"),
        (
            {"params": {"w": torch.zeros(1)}, DESCRIPTION: {"network": {"kind": "EDT"}}},
            "cannot be read",
        ),
        (
            {"params": {"w": torch.zeros(1)}, DESCRIPTION: {"network": {"type": "EDT"}}},
            "at least one task",
        ),
        (
            {"params": {"w": torch.zeros(1)}, DESCRIPTION: {"network": TINY}},
            "none of its 1 tensors (w, …) fits EDT",
        ),
        (
            {"params": {"w": torch.zeros(1)}, DESCRIPTION: {"network": TINY, "normalised": True}},
            "mean or std",
        ),
    ],
)
def test_weights_of_no_known_network_are_one_clear_error(content, message, tmp_path, photos, infer):
    torch.save(content, tmp_path / "net.pth")
    code, _, said = infer("-i", photos, "-o", tmp_path / "out", "--weights", tmp_path / "net.pth")
    assert code == 2
    assert message in said
    assert "net.pth" in said
    assert not (tmp_path / "out").exists()


def test_one_of_several_tasks_is_chosen(tmp_path, photos, infer):
    network = TINY | {"scales": [2, 3]}
    weights = saved(tmp_path / "net.pth", network)
    arguments = ("-i", photos, "-o", tmp_path / "out", "--weights", weights)
    code, _, message = infer(*arguments)
    assert code == 2
    assert "--task: sr_x2 sr_x3" in message
    assert infer(*arguments, "--task", "sr_x3")[0] == 0
    assert read(tmp_path / "out/a.png").shape == (27, 39, 3)


# --- what pictures ----------------------------------------------------------------------------------


def test_grey_recipes_restore_colour_and_grey_files_to_grey(tmp_path, infer):
    network = SEES_NOTHING | {"inp_channels": 1, "out_channels": 1}
    weights = saved(tmp_path / "net.pth", network, color="gray")
    (tmp_path / "in").mkdir()
    colour = np.random.default_rng(0).integers(0, 256, (16, 8, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "in/colour.png"), colour)
    cv2.imwrite(str(tmp_path / "in/grey.png"), colour[..., 0].astype(np.uint16) * 257)
    code, *messages = infer("-i", tmp_path / "in", "-o", tmp_path / "out", "--weights", weights)
    assert code == 0, messages
    np.testing.assert_array_equal(read(tmp_path / "out/colour.png"), cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY))
    np.testing.assert_array_equal(read(tmp_path / "out/grey.png"), colour[..., 0].astype(np.uint16) * 257)


def test_dual_pixel_views_are_paired_by_name(tmp_path, infer):
    weights = saved(
        tmp_path / "net.pth", SEES_NOTHING | {"inp_channels": 6, "out_channels": 3, "dual_pixel_task": True}
    )
    for view in ("left", "right"):
        (tmp_path / view).mkdir()
        cv2.imwrite(str(tmp_path / view / "a.png"), np.full((8, 8, 3), 1000, np.uint16))
    arguments = ("-i", tmp_path / "left", "-o", tmp_path / "out", "--weights", weights)
    code, _, message = infer(*arguments)
    assert code == 1
    assert "--right" in message
    assert infer(*arguments, "--right", tmp_path / "right")[0] == 0
    assert read(tmp_path / "out/a.png").dtype == np.uint16
    (tmp_path / "right/a.png").unlink()
    code, _, message = infer(*arguments, "--right", tmp_path / "right", "--overwrite")
    assert code == 2
    assert "no right view" in message


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (7, 3)])
def test_any_size_is_restored_with_alpha(size, tmp_path, weights, infer):
    image = np.full((*size, 4), 77, np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    assert infer("-i", tmp_path / "a.png", "-o", tmp_path / "b.png", "--weights", weights)[0] == 0
    np.testing.assert_array_equal(read(tmp_path / "b.png"), image.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("option", ["--half", "--bf16", "--self_ensemble", "--tile=40"])
def test_options_change_how_it_is_computed_not_what(option, tmp_path, weights, photos, infer):
    assert infer("-i", photos, "-o", tmp_path / "out", "--weights", weights, option)[0] == 0
    assert abs(int(read(tmp_path / "out/a.png").mean()) - 40) <= 1


@pytest.mark.parametrize(
    ("option", "precision"), [(None, None), ("--half", torch.float16), ("--bf16", torch.bfloat16)]
)
def test_precision_is_that_of_the_networks_arithmetic(
    option, precision, tmp_path, weights, photos, infer, monkeypatch
):
    seen = []
    forward = NETWORKS.find("EDT").forward

    def watched(self, *given):
        enabled = torch.is_autocast_enabled("cpu")
        seen.append(torch.get_autocast_dtype("cpu") if enabled else None)
        return forward(self, *given)

    monkeypatch.setattr(NETWORKS.find("EDT"), "forward", watched)
    options = [option] if option else []
    assert infer("-i", photos, "-o", tmp_path / "out", "--weights", weights, *options)[0] == 0
    assert set(seen[1:]) == {precision}  # the first call tries the network


@pytest.mark.parametrize(("kind", "suffix"), [("jpg", "jpg"), ("webp", "webp"), ("tiff", "tiff")])
def test_the_format_is_chosen(kind, suffix, tmp_path, weights, photos, infer):
    assert infer("-i", photos, "-o", tmp_path / "out", "--weights", weights, "--format", kind)[0] == 0
    assert read(tmp_path / f"out/deep/b.{suffix}").shape == (18, 26, 3)


def test_pictures_of_one_size_are_one_batch(tmp_path, weights, photos, infer, monkeypatch):
    sizes = []
    forward = NETWORKS.find("EDT").forward
    monkeypatch.setattr(
        NETWORKS.find("EDT"), "forward", lambda self, x: (sizes.append(len(x)), forward(self, x))[1]
    )
    cv2.imwrite(str(photos / "other.png"), np.zeros((5, 5, 3), np.uint8))
    arguments = ("-i", photos, "-o", tmp_path / "out", "--weights", weights, "--batch", "3")
    assert infer(*arguments)[0] == 0
    assert sizes[1:] == [2, 1]  # the first call tries the network
    assert read(tmp_path / "out/a.png").mean() == 40
    assert abs(read(tmp_path / "out/deep/b.png").mean() - 90) <= 1


# --- which files, to where --------------------------------------------------------------------------


def test_every_image_of_a_folder_is_restored_under_its_name(tmp_path, weights, photos, infer):
    code, output, _ = infer("-i", photos, "-o", tmp_path / "out", "--weights", weights)
    assert code == 0
    assert "2 images restored" in output
    assert read(tmp_path / "out/a.png").shape == (18, 26, 3)
    assert read(tmp_path / "out/deep/b.png").shape == (18, 26, 3)


def test_a_pattern_does_not_match_earlier_results(weights, photos, infer):
    def restored():
        arguments = ("-i", photos.parent / "**/*.png", "-o", photos / "x2", "--weights", weights)
        return infer(*arguments)[1]

    assert "1 image restored" in restored()
    assert "1 image skipped" in restored()


def test_a_folder_inside_of_the_output_folder_is_an_input(weights, photos, infer):
    code, output, _ = infer("-i", photos, photos / "deep/*.jpg", "-o", photos.parent, "--weights", weights)
    assert code == 0
    assert "2 images restored" in output


def test_patterns_and_several_inputs_are_taken(tmp_path, weights, photos, infer):
    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((4, 4, 3), np.uint8))
    code, output, _ = infer(
        "-i", photos / "*.png", tmp_path / "c.png", photos / "**/*.jpg", "-o", tmp_path / "out",
        "--weights", weights,
    )  # fmt: skip
    assert code == 0
    assert "3 images restored" in output
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "b.png", "c.png", NAME}


def test_one_image_may_be_restored_to_a_file(tmp_path, weights, photos, infer):
    assert infer("-i", photos / "a.png", "-o", tmp_path / "new/res.jpg", "--weights", weights)[0] == 0
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["res.jpg"]


@pytest.mark.parametrize(
    ("source", "target", "arguments", "message"),
    [
        (".", ".", (), "mix with the images"),
        ("a.png", ".", (), "would replace an input"),
        ("a.png", "a.png", (), "would replace an input"),
        (".", "res.png", (), "name a folder"),
        ("a.png", "../res.png", ("--format", "jpg"), "another suffix"),
        ("nothing", "../out", (), "no such file"),
        ("*.gif", "../out", (), "no file matches"),
        ("notes.txt", "../out", (), "cannot be decoded"),
        (".", "../out", ("--tile", "16", "--tile_overlap", "16"), "must be smaller"),
        (".", "../out", ("--device", "nonsense"), "nonsense"),
        (".", "../out", ("--device", "cuda:99"), "--device cuda:99: not usable here"),
        (".", "../out", ("--task", "dn_g15"), "sr_x2"),
    ],
)
def test_what_cannot_be_meant_is_refused(source, target, arguments, message, weights, photos, infer):
    before = sorted(photos.parent.rglob("*"))
    try:
        code, _, said = infer("-i", photos / source, "-o", photos / target, "--weights", weights, *arguments)
    except SystemExit as end:
        code, said = end.code, message
    assert code == (1 if source == "notes.txt" else 2)
    assert message in said
    assert sorted(photos.parent.rglob("*")) == before


def test_folders_for_results_are_made_however_deep(tmp_path, weights, photos, infer):
    assert infer("-i", photos, "-o", tmp_path / "new/deeper/out", "--weights", weights)[0] == 0
    assert (tmp_path / f"new/deeper/out/{NAME}").is_file()


def test_no_picture_is_too_large_for_its_notes_to_be_read(tmp_path, weights, infer, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    Image.fromarray(np.zeros((9, 13, 3), np.uint8)).save(tmp_path / "a.jpg", exif=rotated)
    assert infer("-i", tmp_path / "a.jpg", "-o", tmp_path / "b.png", "--weights", weights)[0] == 0
    assert read(tmp_path / "b.png").shape == (26, 18, 3)


def test_two_images_of_one_result_are_refused(tmp_path, weights, photos, infer):
    shutil.copy(photos / "deep/b.jpg", photos / "a.jpg")
    code, _, message = infer("-i", photos, "-o", tmp_path / "out", "--weights", weights)
    assert code == 2
    assert "would be the result of both" in message


def test_results_inside_of_the_input_folder_are_no_inputs(weights, photos, infer):
    def restored(source, target):
        return infer("-i", source, "-o", target, "--weights", weights)[1]

    assert "2 images restored" in restored(photos, photos / "x2")
    assert "2 images skipped" in restored(photos, photos / "x2")
    assert "2 images restored" in restored(photos, photos / "again")
    # A folder of results is one to restore if that is what is asked for.
    assert "2 images restored" in restored(photos / "x2", photos / "x4")


def test_a_bad_file_among_good_ones_is_named_at_the_end(tmp_path, weights, photos, infer):
    (photos / "aa_broken.png").write_bytes(b"no image")
    code, output, message = infer("-i", photos, "-o", tmp_path / "out", "--weights", weights)
    assert code == 1
    assert "2 images restored" in output
    first, last = message.strip().splitlines()
    assert "aa_broken.png: cannot be decoded" in first
    assert last == "1 image of 3 not restored, see above"
    assert (tmp_path / "out/deep/b.png").is_file()


def test_a_single_bad_file_is_one_line(tmp_path, weights, infer):
    (tmp_path / "broken.png").write_bytes(b"no image")
    code, _, message = infer("-i", tmp_path / "broken.png", "-o", tmp_path / "out", "--weights", weights)
    assert (code, message.count("\n")) == (1, 1)


def test_a_result_that_cannot_be_written_is_named(tmp_path, weights, photos, infer):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/deep").write_text("in the way of a folder")
    code, output, message = infer("-i", photos, "-o", tmp_path / "out", "--weights", weights)
    assert code == 1
    assert "1 image restored" in output
    assert "b.jpg" in message


# --- reruns -----------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path, weights, photos, infer):
    """Return what restores the photos again, as it has been done once; it says how many were restored."""
    arguments = ("-i", photos, "-o", tmp_path / "out", "--weights", weights)
    infer(*arguments)

    def again(*more):
        code, output, message = infer(*arguments, *more)
        assert code == 0, message
        match = re.search(r"(\d+) images? restored", output)
        return int(match[1]) if match else 0

    return again


def test_finished_images_are_skipped_unless_asked_for(finished):
    assert finished() == 0
    assert finished("--overwrite") == 2


def test_what_was_cut_short_or_removed_is_restored_again(finished, tmp_path):
    result = tmp_path / "out/a.png"
    whole = result.read_bytes()
    result.write_bytes(whole[:-20])
    assert finished() == 1
    assert result.read_bytes() == whole
    result.unlink()
    assert finished() == 1


def test_a_record_that_was_cut_short_holds_what_is_before(finished, tmp_path):
    record = tmp_path / f"out/{NAME}"
    # Which of two is written down first is left to chance.
    lines = sorted(record.read_text().splitlines(), key=lambda line: "deep/b.png" in line)
    record.write_text("\n".join(lines)[:-30])
    (tmp_path / "out/deep/b.png").unlink()  # it would have been written after its line
    assert finished() == 1
    assert finished() == 0


def test_lines_that_others_wrote_into_the_record_are_passed_over(finished, tmp_path):
    record = tmp_path / f"out/{NAME}"
    record.write_text('[1]\n7\n{"size": 3}\n{"result": 5}\n' + record.read_text())
    assert finished() == 0


def test_changed_inputs_weights_and_settings_are_restored_again(finished, photos, weights):
    cv2.imwrite(str(photos / "a.png"), np.full((9, 13, 3), 41, np.uint8))
    assert finished() == 1
    assert finished("--self_ensemble") == 2
    network = build_network(TINY)
    torch.save({"params": network.state_dict(), DESCRIPTION: Description(TINY).entry()}, weights)
    assert finished("--self_ensemble") == 2


def test_a_file_that_is_no_result_is_not_replaced(tmp_path, weights, photos, infer):
    (tmp_path / "out").mkdir()
    precious = tmp_path / "out/a.png"
    precious.write_bytes(b"somebody's")
    arguments = ("-i", photos, "-o", tmp_path / "out", "--weights", weights)
    code, _, message = infer(*arguments)
    assert code == 1
    assert "no result of infer.py" in message
    assert precious.read_bytes() == b"somebody's"
    assert infer(*arguments, "--overwrite")[0] == 0
    assert read(precious).shape == (18, 26, 3)


def test_the_record_is_written_before_the_result(tmp_path, weights, photos, infer, monkeypatch):
    seen = []

    def write(path, data):
        lines = (tmp_path / f"out/{NAME}").read_text().split("\n")[1:]
        seen.append(
            (path.name, len(data)) in [(Path(x["result"]).name, x["size"]) for x in map(json.loads, lines)]
        )
        raise OSError("disk full")

    monkeypatch.setattr("basicsr_ext.inference.files.write_atomically", write)
    assert infer("-i", photos, "-o", tmp_path / "out", "--weights", weights)[0] == 1
    assert seen == [True, True]


# --- numbers ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the weights lie beside {SHARED}, which is not there")
def test_the_released_emt_restores_set5_as_published(tmp_path, infer):
    data = SHARED.parent / "data"
    weights = data / "emt/EMT_LSR_x4.pth"
    code, *messages = infer("-i", data / "set5/LRbicx4", "-o", tmp_path / "out", "--weights", weights)
    assert code == 0, messages
    metric = build_metric(
        load_options(tiny_options(tmp_path)).val.metrics["psnr"].model_copy(update={"crop_border": 4})
    )
    for index, path in enumerate(sorted((tmp_path / "out").glob("*.png"))):
        restored = read(path)
        reference = read(data / "set5/HR" / path.name)[: restored.shape[0], : restored.shape[1]]
        metric.update(index, metric.statistic(restored, reference))
    assert metric.result() == pytest.approx(32.6387, abs=1e-4)
