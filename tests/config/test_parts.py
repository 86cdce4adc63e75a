"""Arguments that name a part with arguments of its own are checked like others, before torch is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from helpers import ROOT, tiny_options

from basicsr_ext import load_options
from basicsr_ext.config import OptionError
from basicsr_ext.engine.build import build_parts


def options_with(folder, **network):
    options = tiny_options(folder)
    options["network_g"] = {"type": "AttentionRestorer", "upscale": 2, "dim": 8, "depths": [2], **network}
    return options


@pytest.mark.parametrize(
    "network",
    [
        {"mixer": "mswin"},
        {"mixer": {"type": "swin", "window": 4}, "feed_forward": {"type": "gated", "ratio": 2}},
        {"mixer": {"type": "mswin_deformable_keys", "strides": [1, 2, 4], "offsets": False}},
    ],
    ids=str,
)
def test_parts_by_name_or_with_arguments_are_accepted(tmp_path, network):
    assert load_options(options_with(tmp_path, **network)).network_g.kwargs["dim"] == 8


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (
            {"mixer": "swim"},
            "network_g.mixer: found 'swim', expected a registered token mixer; did you mean 'swin'?",
        ),
        (
            {"mixer": {"type": "swim"}},
            "network_g.mixer.type: found 'swim', expected a registered token mixer",
        ),
        ({"mixer": {"window": 4}}, "network_g.mixer.type: found nothing, expected the name of a token mixer"),
        (
            {"mixer": {"type": "swin", "windw": 4}},
            "expected an argument of ShiftedWindows; did you mean 'window'?",
        ),
        (
            {"mixer": {"type": "swin", "window": "4"}},
            "network_g.mixer.window: found '4' (text), expected int",
        ),
        ({"mixer": {"type": "swin", "dim": 4}}, "network_g.mixer.dim: found an unknown key"),
        ({"mixer": 3}, "network_g.mixer: found 3, expected "),
        (
            {"feed_forward": {"type": "mlp", "ratios": 2}},
            "network_g.feed_forward.ratios: found an unknown key",
        ),
        (
            {"feed_forward": "swin"},
            "network_g.feed_forward: found 'swin', expected a registered feed-forward",
        ),
    ],
    ids=str,
)
def test_a_mistake_in_a_part_is_one_line(tmp_path, network, line):
    with pytest.raises(OptionError) as caught:
        load_options(options_with(tmp_path, **network))
    assert line in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_name_that_a_plug_in_may_bring_is_checked_once_it_is_imported(tmp_path):
    options = options_with(tmp_path, mixer="nowhere")
    options["plugins"] = ["json"]
    loaded = load_options(options)
    with pytest.raises(
        OptionError, match=r"network_g\.mixer: found 'nowhere', expected a registered token mixer"
    ):
        build_parts(loaded, 1, training=True)


def test_parts_are_checked_without_importing_torch():
    program = (
        "import sys; from basicsr_ext.config.signature import check_arguments, written_constructor\n"
        "from basicsr_ext.registry import NETWORKS\n"
        "body = written_constructor(NETWORKS.definition('AttentionRestorer'))\n"
        "problems = check_arguments(body, {'mixer': {'type': 'swin', 'windw': 4}}, 'n')\n"
        "print(len(problems), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "1 False\n"
