"""Networks, losses, metrics, data sets, steps, schedules, optimizers from outside: one file, one option."""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import run_command, tiny_options

from basicsr_ext import load_options, train
from basicsr_ext.config import OptionError
from basicsr_ext.engine.build import build_parts
from basicsr_ext.losses.edge_loss import EdgeLoss
from basicsr_ext.losses.fft_loss import FFTLoss

PLUGIN = Path(__file__).parents[1] / "plugin"


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGIN))


def extended(folder):
    options = tiny_options(
        folder,
        optim_g={"type": "SignSGD", "lr": 1e-3},
        scheduler={"type": "Halving", "period": 4},
        losses={"light": {"type": "BrightnessLoss", "loss_weight": 0.1}},
    )
    options["plugins"] = ["one_of_each"]
    options["network_g"] = {"type": "TwoLayers", "width": 6}
    options["datasets"]["train"]["type"] = "FewPhotographs"
    options["datasets"]["train"]["degradation"] = [
        {"type": "darken", "factor": [0.5, 0.5]},
        {"type": "matlab_bicubic"},
    ]
    options["val"]["metrics"] = {"largest": {"type": "largest_error", "better": "lower"}}
    return options


def log_of(folder, kind="train"):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_a_run_of_extensions_alone(tmp_path):
    summary = train(load_options(extended(tmp_path)))
    lines = log_of(tmp_path)
    assert [line["lr"] for line in lines] == [1e-3] * 4 + [5e-4] * 4
    assert {"l_pix", "l_light"} <= lines[0].keys()
    assert summary.best["photos"]["largest"]["value"] > 0


def test_a_step_from_outside_does_what_it_says(tmp_path):
    from basicsr_ext.data.sampling import SampleRequest

    options = extended(tmp_path)
    bright = extended(tmp_path)
    bright["datasets"]["train"]["degradation"][0]["factor"] = [1, 1]
    lq, twice = (
        build_parts(load_options(o), 1, training=True).train_set[SampleRequest(0, 32, 5)]["lq"]
        for o in (options, bright)
    )
    torch.testing.assert_close(2 * lq, twice)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"network_g": {"type": "TwoLayers", "widht": 4}}, "did you mean 'width'?"),
        (
            {"train": {"scheduler": {"type": "Halving", "perod": 4}}},
            "a key of Halving; did you mean 'period'?",
        ),
        ({"train": {"optim_g": {"type": "SignSGD", "lr": 1, "momentumm": 0}}}, "did you mean 'momentum'?"),
        ({"train": {"optim_g": {"type": "one_of_each.SignSDG", "lr": 1}}}, "expected a registered optimizer"),
        (
            {"train": {"losses": {"a": {"type": "BrightnessLoss", "weight": 1}}}},
            "did you mean 'loss_weight'?",
        ),
        ({"val": {"metrics": {"a": {"type": "largest_eror"}}}}, "did you mean 'largest_error'?"),
        (
            {"datasets": {"train": {"degradation": [{"type": "darken", "factr": 1}]}}},
            "did you mean 'factor'?",
        ),
        ({"plugins": ["one_of_eech"]}, "plugins.0: found ModuleNotFoundError"),
    ],
)
def test_mistakes_in_extensions_are_one_line_each(tmp_path, change, line):
    def merge(into, values):
        for key, value in values.items():
            if isinstance(value, dict) and "type" not in value and isinstance(into.get(key), dict):
                merge(into[key], value)
            else:
                into[key] = value

    options = extended(tmp_path)
    merge(options, change)
    if change.get("datasets"):
        options["datasets"]["train"]["degradation"].append({"type": "matlab_bicubic"})
    with pytest.raises(OptionError) as caught:
        build_parts(load_options(options), 1, training=True)
    lines = str(caught.value).splitlines()
    assert any(line in found for found in lines), lines
    if "plugins" not in change:
        assert len(lines) == 1


def with_mixer(folder, mixer, feed_forward="linear"):
    options = extended(folder)
    body = {"type": "AttentionRestorer", "upscale": 2, "dim": 4, "depths": [2]}
    options["network_g"] = {**body, "mixer": mixer, "feed_forward": feed_forward}
    return options


def test_attention_from_outside_trains_in_the_body_for_any(tmp_path):
    assert train(load_options(with_mixer(tmp_path, {"type": "average", "side": 3}))).iteration == 8


@pytest.mark.parametrize(
    ("mixer", "line"),
    [
        ({"type": "average", "sid": 3}, "network_g.mixer.sid: found an unknown key, expected an argument of"),
        ({"type": "average", "dim": 3}, "network_g.mixer.dim: found an unknown key"),
        (
            "averag",
            "network_g.mixer: found 'averag', expected a registered token mixer; did you mean 'average'?",
        ),
    ],
    ids=str,
)
def test_mistakes_in_attention_from_outside_are_one_line_each(tmp_path, mixer, line):
    with pytest.raises(OptionError) as caught:
        build_parts(load_options(with_mixer(tmp_path, mixer)), 1, training=True)
    assert line in str(caught.value)
    assert len(caught.value.problems) == 1


def test_optimizers_are_found_where_they_can_be_imported(tmp_path):
    options = extended(tmp_path)
    options["train"]["optim_g"] = {"type": "torch.optim.adagrad.Adagrad", "lr": 1e-3}
    assert train(load_options(options)).iteration == 8


@pytest.mark.parametrize(
    "command",
    ["train.py", *(pytest.param(c, marks=pytest.mark.slow) for c in ("test.py", "scripts/show_batch.py"))],
)
def test_every_command_imports_plugins(tmp_path, options_file, command):
    options = extended(tmp_path / "run")
    if command == "test.py":
        train(load_options(options))
        options["path"]["pretrain_network_g"] = str(tmp_path / "run/models/net_g_latest.pth")
    arguments = ["--output", tmp_path / "sheet.png"] if "show" in command else []
    environment = {"PYTHONPATH": f"{PLUGIN}:{Path(__file__).parents[2]}"}
    done = run_command(
        *(sys.executable, command, "-opt", options_file(options), *arguments), environment=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_infer_imports_plugins(tmp_path):
    from basicsr_ext.data.images import read_image, write_image

    train(load_options(with_mixer(tmp_path / "run", {"type": "average", "side": 3})))
    write_image(tmp_path / "in/a.png", torch.zeros(8, 9, 3, dtype=torch.uint8).numpy())
    weights = tmp_path / "run/models/net_g_latest.pth"
    environment = {"PYTHONPATH": f"{PLUGIN}:{Path(__file__).parents[2]}"}
    command = (
        sys.executable,
        "infer.py",
        "-i",
        tmp_path / "in",
        "-o",
        tmp_path / "out",
        "--weights",
        weights,
    )
    done = run_command(*command, environment=environment)
    assert done.returncode == 0, done.stderr
    assert read_image(tmp_path / "out/a.png").shape == (16, 18, 3)


# --- losses of ours, and how they are named ---------------------------------------------------------


def test_losses_of_forks_are_logged_under_their_names(tmp_path):
    options = tiny_options(tmp_path, fft_opt={"type": "FFTLoss"}, edge_opt={"type": "EdgeLoss"}, total_iter=3)
    options["datasets"]["train"]["stages"] = options["datasets"]["train"]["stages"][:1]
    train(load_options(options))
    assert {"l_pix", "l_fft", "l_edge"} <= log_of(tmp_path)[0].keys()


def test_a_loss_that_does_not_take_two_images_is_said_before_the_run(tmp_path):
    losses = {"gan": {"type": "GANLoss", "gan_type": "vanilla"}}
    options = tiny_options(tmp_path / "run", losses=losses)
    with pytest.raises(OptionError, match=r"train\.losses\.gan cannot be computed of two images"):
        train(load_options(options))
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_loss_is_refused(tmp_path):
    options = tiny_options(tmp_path)
    del options["train"]["pixel_opt"]
    with pytest.raises(OptionError, match="found no loss, expected pixel_opt, or losses by name"):
        load_options(options)


def test_a_listed_loss_cannot_take_the_name_of_a_spelled_one(tmp_path):
    with pytest.raises(OptionError, match=r"train\.losses\.pix: found the name 'pix'"):
        load_options(tiny_options(tmp_path, losses={"pix": {"type": "L1Loss"}}))


def test_the_fft_loss_is_the_distance_of_both_parts_of_the_spectra():
    a, b = torch.rand(2, 3, 8, 6), torch.rand(2, 3, 8, 6)
    difference = torch.fft.rfft2(a) - torch.fft.rfft2(b)
    expected = 0.5 * (difference.real.abs() + difference.imag.abs()).mean()  # over both parts
    torch.testing.assert_close(FFTLoss(loss_weight=1.0)(a, b), expected)
    torch.testing.assert_close(FFTLoss(2.0, "sum")(a, b), 4 * expected * difference.numel())


def test_the_edge_loss_is_the_charbonnier_distance_of_laplacians():
    a, b = torch.rand(2, 1, 3, 9, 12)
    loss = EdgeLoss(loss_weight=2.0)
    expected = 2 * torch.sqrt((laplacian(a) - laplacian(b)) ** 2 + 1e-6).mean()
    torch.testing.assert_close(loss(a, b), expected)
    flat = torch.full((1, 3, 9, 12), 0.3)
    # Inside, what is constant has no edges; at the border the zeros of the pyramid show.
    assert laplacian(flat)[..., 3:-3, 3:-3].abs().max() < 1e-6


def laplacian(image):
    """Compute it channel by channel, blurring rows and columns one after the other."""
    line = torch.tensor([0.05, 0.25, 0.4, 0.25, 0.05])

    def blurred(plane):
        padded = torch.nn.functional.pad(plane[None, None], (2, 2, 2, 2), mode="replicate")[0, 0]
        rows = sum(line[i] * padded[i : i + plane.shape[0]] for i in range(5))
        return sum(line[i] * rows[:, i : i + plane.shape[1]] for i in range(5))

    planes = []
    for plane in image[0]:
        pyramid = torch.zeros_like(plane)
        pyramid[::2, ::2] = blurred(plane)[::2, ::2] * 4
        planes.append(plane - blurred(pyramid))
    return torch.stack(planes)[None]
