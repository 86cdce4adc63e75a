"""``infer.py`` restores an image or a folder with the weights and options of a finished run."""

import sys

import cv2
import numpy as np
import pytest
import yaml
from helpers import run_command, tiny_options

from basicsr_ext import load_options
from basicsr_ext.engine.build import build_parts
from basicsr_ext.engine.checkpoint import Checkpointer


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Lay out a run: ``tiny/tiny.yml`` and ``tiny/models/net_g_latest.pth``."""
    run = tmp_path_factory.mktemp("experiments") / "tiny"
    run.mkdir()
    options = tiny_options(run)
    (run / "tiny.yml").write_text(yaml.safe_dump(options))
    network = build_parts(load_options(options), 1, training=True).networks["net_g"]
    Checkpointer(run).save_networks("latest", {"net_g": {"params": network.state_dict()}})
    return run / "models/net_g_latest.pth"


def infer(weights, source, target, *arguments):
    return run_command(
        sys.executable, "infer.py", "-i", source, "-o", target, "--weights", weights, *arguments
    )


def test_a_tilde_is_the_home_folder_in_arguments(tmp_path, weights):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 13, 3), np.uint8))
    (tmp_path / "run").symlink_to(weights.parent.parent)
    arguments = ("-i", "~/a.png", "-o", "~/out", "--weights", "~/run/models/net_g_latest.pth")
    options = ("--opt", "~/run/tiny.yml")
    environment = {"HOME": str(tmp_path)}
    done = run_command(sys.executable, "infer.py", *arguments, *options, environment=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/a.png").is_file()


def test_every_image_of_a_folder_is_restored_under_its_name(tmp_path, weights):
    (tmp_path / "in/deep").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "in/a.png"), np.zeros((20, 13, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "in/deep/b.jpg"), np.zeros((9, 30, 3), np.uint8))
    done = infer(weights, tmp_path / "in", tmp_path / "out", "--tile", "40")
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "out/a.png")).shape == (40, 26, 3)
    assert cv2.imread(str(tmp_path / "out/deep/b.png")).shape == (18, 60, 3)


def test_a_file_that_is_no_image_is_one_clear_line(tmp_path, weights):
    (tmp_path / "broken.png").write_bytes(b"no image")
    done = infer(weights, tmp_path / "broken.png", tmp_path / "out")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "broken.png" in done.stderr


def test_weights_outside_of_a_run_need_an_option_file(tmp_path):
    (tmp_path / "net.pth").touch()
    done = infer(tmp_path / "net.pth", tmp_path, tmp_path / "out")
    assert done.returncode == 2
    assert "--opt" in done.stderr
