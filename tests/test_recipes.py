"""Every file under ``options/`` loads, names the schema, and can be built once its data folders exist."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers import ROOT, run_command

from basicsr_ext import load_options
from basicsr_ext.config import resolved_stages
from basicsr_ext.engine.build import build_parts

RECIPES = sorted((ROOT / "options").glob("*.yml"))
PUBLISHED_PARAMETERS = {"edt_x2": 11_479_355, "edt_tiny_x2": 916_924}


@pytest.fixture
def data_folders(tmp_path: Path, monkeypatch):
    """Make every folder the recipes name, with one small image each, in a new working directory."""
    texture = np.random.default_rng(0).integers(0, 256, (300, 320, 3), np.uint8)
    for name in ("DF2K", "Set5", "Set14", "B100", "Urban100", "Manga109"):
        folder = tmp_path / "datasets" / name / "HR"
        folder.mkdir(parents=True)
        cv2.imwrite(str(folder / "image.png"), texture)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_named_like_its_file_and_names_the_schema(recipe):
    options = load_options(recipe, phases=())
    assert options.name == recipe.stem
    assert recipe.read_text().splitlines()[0] == "# yaml-language-server: $schema=schema.json"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("data_folders")
def test_all_parts_of_a_recipe_can_be_built(recipe):
    options = load_options(recipe)
    parts = build_parts(options, 1, training=True)
    assert sum(stage.iters for stage in parts.stages) == options.train.total_iter
    if recipe.stem in PUBLISHED_PARAMETERS:
        parameters = sum(parameter.numel() for parameter in parts.network.parameters())
        assert parameters == PUBLISHED_PARAMETERS[recipe.stem]


def test_the_published_edt_recipe_is_the_papers():
    options = load_options(ROOT / "options/edt_x4.yml", phases=())
    (stage,) = resolved_stages(options)
    assert (stage.gt_size // options.scale, stage.batch_size_total, stage.iters) == (48, 32, 500_000)
    assert options.train.scheduler.kwargs["milestones"] == [250_000, 400_000, 450_000, 475_000]
    assert options.train.optim_g.kwargs["betas"] == [0.9, 0.99]


@pytest.mark.slow
@pytest.mark.usefixtures("data_folders")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_check_passes(recipe):
    done = run_command(
        sys.executable,
        ROOT / "train.py",
        "-opt",
        recipe,
        "--check",
        "--force_yml",
        "num_gpu=0",
        cwd=Path.cwd(),
    )
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stdout
