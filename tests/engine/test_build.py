"""What is wrong with types, arguments, weights and data is found before the first iteration, all at once."""

import copy
import re
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from helpers import same_bits, tiny_options

from basicsr_ext import build_network, load_options, train
from basicsr_ext.config import OptionError
from basicsr_ext.engine import check
from basicsr_ext.engine.build import build_parts


def problems_of(options):
    with pytest.raises(OptionError) as caught:
        build_parts(load_options(options), 1, training=True)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("section", "key", "expected"),
    [
        ("network_g", {"type": "SwinIR", "upscale": 2, "embed_dm": 60}, "embed_dim"),
        ("metric", {"type": "calculate_psnr", "crop_border": 2, "test_y_chanel": True}, "test_y_channel"),
        ("pixel_opt", {"type": "L1Loss", "los_weight": 2}, "loss_weight"),
        ("optim_g", {"type": "Adam", "lr": 1e-3, "beta": [0.9, 0.99]}, "betas"),
    ],
)
def test_a_misspelt_argument_is_found_even_where_basicsr_would_swallow_it(tmp_path, section, key, expected):
    options = tiny_options(tmp_path)
    if section == "network_g":
        options["network_g"] = key
    elif section == "metric":
        options["val"]["metrics"]["psnr"] = key
    else:
        options["train"][section] = key
    (line,) = problems_of(options)
    assert f"did you mean {expected!r}?" in line


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pixel_opt", {"type": "L1Loss", "reduction": "average"}, "train.pixel_opt: found ValueError"),
        ("optim_g", {"type": "Adam", "lr": 1e-3, "betas": [2, 0.9]}, "train.optim_g: found ValueError"),
        (
            "perceptual_opt",
            {"type": "PerceptualLoss", "layer_weights": {"conv5_4": 1}},
            "train.perceptual_opt: found weights that cannot be downloaded",
        ),
    ],
)
def test_what_a_constructor_refuses_is_one_problem(tmp_path, monkeypatch, key, value, words):
    def offline(*_, **__):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    options = tiny_options(tmp_path)
    options["train"][key] = value
    (line,) = problems_of(options)
    assert words in line


def test_patches_that_the_network_cannot_take_are_found_before_the_run(tmp_path):
    options = tiny_options(tmp_path / "run")
    options["network_g"] = {
        **{"type": "SwinIR", "upscale": 2, "upsampler": "pixelshuffledirect", "window_size": 7},
        **{"img_size": 14, "embed_dim": 12, "depths": [2], "num_heads": [2]},
    }
    for stage, gt_size in zip(options["datasets"]["train"]["stages"], (28, 32, 42), strict=True):
        stage["gt_size"] = gt_size
    with pytest.raises(OptionError) as caught:
        train(load_options(options))
    (line,) = str(caught.value).splitlines()
    assert line.startswith("options: datasets.train.stages.1.gt_size: found 32, with which a step fails")
    assert line.endswith("its windows need multiples of 14")
    assert not (tmp_path / "run").exists()


def test_a_network_of_another_scale_is_found_before_the_run(tmp_path):
    options = tiny_options(tmp_path / "run")
    options["network_g"]["scales"] = [3]
    with pytest.raises(OptionError) as caught:
        check(load_options(options))
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "network_g gives (1, 3, 24, 24), ground truth is (1, 3, 16, 16)" in lines[0]


def test_weights_of_another_network_are_refused_with_the_keys_that_do_not_fit(tmp_path):
    options = tiny_options(tmp_path)
    other = {**options["network_g"], "embed_dim": 16}
    torch.save({"params": build_network(other).state_dict()}, tmp_path / "other.pth")
    options["path"]["pretrain_network_g"] = str(tmp_path / "other.pth")
    (line,) = problems_of(options)
    assert line.startswith("options: path.pretrain_network_g: ")
    assert "body.norm.weight" in line


def test_a_pre_trained_multi_task_network_gives_body_and_task(tmp_path):
    options = tiny_options(tmp_path)
    many = build_network({**options["network_g"], "scales": [2, 3], "noise_levels": [25]})
    torch.save({"params": many.state_dict()}, tmp_path / "pretrained.pth")
    options["path"] |= {
        "pretrain_network_g": str(tmp_path / "pretrained.pth"),
        "pretrain_tasks": ["sr_x2"],
    }
    state = build_parts(load_options(options), 1, training=True).networks["net_g"].state_dict()
    expected = {key: value for key, value in many.state_dict().items() if not re.search("sr_x3|dn_", key)}
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)


def test_a_pickle_that_would_run_code_is_refused_as_weights(tmp_path):
    marker = tmp_path / "ran"

    class Exploit:
        def __reduce__(self):
            return open, (str(marker), "w")

    torch.save({"params": Exploit()}, tmp_path / "evil.pth")
    options = tiny_options(tmp_path)
    options["path"]["pretrain_network_g"] = str(tmp_path / "evil.pth")
    (line,) = problems_of(options)
    assert "path.pretrain_network_g" in line
    assert not marker.exists()


def test_an_image_smaller_than_the_largest_patch_is_named(tmp_path):
    (tmp_path / "gt").mkdir()
    for name, side in (("large", 64), ("small", 40)):
        cv2.imwrite(str(tmp_path / f"gt/{name}.png"), np.zeros((side, side, 3), np.uint8))
    options = tiny_options(tmp_path / "run")
    del options["datasets"]["val"], options["val"]
    options["datasets"]["train"] |= {"type": "PairedImageDataset", "dataroot_gt": str(tmp_path / "gt")}
    (line,) = problems_of(options)
    assert "small.png" in line
    assert "large.png" not in line


def test_a_plugin_that_cannot_be_imported_is_one_problem(tmp_path):
    options = tiny_options(tmp_path)
    options["plugins"] = ["no_such_plugin"]
    (line,) = problems_of(options)
    assert line.startswith("options: plugins.0: found ModuleNotFoundError")


def test_a_plugin_can_bring_a_network(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_plugin.py").write_text(
        "from basicsr.utils.registry import ARCH_REGISTRY\n"
        "from torch import nn\n"
        "@ARCH_REGISTRY.register()\n"
        "class PluginNet(nn.Sequential):\n"
        "    def __init__(self, width: int):\n"
        "        super().__init__(nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 12, 3, padding=1),\n"
        "                         nn.PixelShuffle(2))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    options = tiny_options(tmp_path / "run")
    options["plugins"] = ["my_plugin"]
    options["network_g"] = {"type": "PluginNet", "width": 4}
    parts = build_parts(load_options(copy.deepcopy(options)), 1, training=True)
    assert type(parts.networks["net_g"]).__name__ == "PluginNet"
    assert check(load_options(options))
    assert "(measured)" in capsys.readouterr().out


def test_evaluation_sets_need_different_names(tmp_path):
    options = tiny_options(tmp_path)
    options["datasets"]["val_2"] = dict(options["datasets"]["val"])
    (line,) = problems_of(options)
    assert "datasets.val_2.name: found 'photos', expected a name no other set has" in line


@pytest.mark.parametrize(
    ("entries", "key", "taken", "line"),
    [
        (
            ["params", "params_ema"],
            None,
            "params",
            "param_key_g: params_ema takes the averaged weights instead",
        ),
        (["params", "params_ema"], "params_ema", "params_ema", "tensors of 'params_ema' taken"),
        (["params"], "params_ema", "params", "there is no entry 'params_ema'; 'params' was taken"),
        (["params_ema"], None, "params_ema", "tensors of 'params_ema' taken"),
    ],
)
def test_weights_to_start_from_are_those_that_basicsr_takes(tmp_path, caplog, entries, key, taken, line):
    options = tiny_options(tmp_path)
    contents = {}
    for seed, entry in enumerate(entries):
        torch.manual_seed(seed)
        contents[entry] = build_network(options["network_g"]).state_dict()
    torch.save(contents, tmp_path / "weights.pth")
    options["path"] |= {"pretrain_network_g": str(tmp_path / "weights.pth"), "param_key_g": key}
    with caplog.at_level("INFO", "basicsr_ext"):
        network = build_parts(load_options(options), 1, training=True).networks["net_g"]
    assert same_bits(dict(network.state_dict()), dict(contents[taken]))
    assert line in caplog.text


@pytest.mark.parametrize("strict", [True, False, None])
def test_weights_that_lack_some_are_taken_only_where_strict_load_is_off(tmp_path, strict):
    options = tiny_options(tmp_path)
    torch.manual_seed(9)
    weights = build_network(options["network_g"]).state_dict()
    lacking = next(name for name, value in weights.items() if value.ndim > 1)
    torch.save({"params": {k: v for k, v in weights.items() if k != lacking}}, tmp_path / "weights.pth")
    options["path"] |= {"pretrain_network_g": str(tmp_path / "weights.pth")}
    if strict is not None:
        options["path"]["strict_load_g"] = strict
    if strict is not False:
        (problem,) = problems_of(options)
        assert lacking in problem
        return
    found = build_parts(load_options(options), 1, training=True).networks["net_g"].state_dict()
    assert {name for name in weights if not torch.equal(found[name], weights[name])} == {lacking}
