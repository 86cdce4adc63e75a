"""Every file under ``options/`` loads, names the schema, and can be built once its data folders exist."""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers import ROOT, run_command

from basicsr_ext import build_network, load_options, load_weights, train
from basicsr_ext.config import Options, resolved_stages
from basicsr_ext.config.yaml_text import read_yaml
from basicsr_ext.data.phantoms import make_phantom
from basicsr_ext.data.volumes import write_nifti
from basicsr_ext.engine.build import build_parts

RECIPES = sorted((ROOT / "options").glob("*.yml"))
LIKE_ANOTHER = re.compile(
    r"_finetune$|^edt_de(noise_\d+|rain_heavy)$|^(swin|dat|dat_plus_plus)_(small|base)$|_x3$|_(gray|color)_(25|50|20|30|blind)$|^catnet_(abd_ct|cmr)$"
)
"""Recipes that differ from others which are trained below in size, in one number or in where they start."""
# Those of more released networks are in tests/test_released_weights.py. EDT-S would have 34,391 less with the
# upsampler of EDT-T.
PUBLISHED_PARAMETERS = {"emt_x3": 678_687, "edt_small_x2": 4_230_323}


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Make a directory with every folder the recipes name, one image in each: small ones to validate on."""
    texture = np.random.default_rng(0).integers(0, 256, (1024, 1040, 3), np.uint8)
    root = tmp_path_factory.mktemp("recipes")
    train = {path for recipe in RECIPES for path in _data_roots(recipe, "train")}
    for folder in {path for recipe in RECIPES for path in _data_roots(recipe)}:
        if folder.endswith("_normalized"):
            write_volumes(root / folder)
            continue
        image = texture if folder in train else texture[:96, :120]
        for part in ("one class", "another class") if "ImageNet" in folder else ("",):
            (root / folder / part).mkdir(parents=True)
            assert cv2.imwrite(str(root / folder / part / "image.png"), image)
    return root


def write_volumes(folder: Path) -> None:
    """Write six small patients; nothing where nibabel is not installed."""
    if find_spec("nibabel") is None:
        return
    for number in range(6):
        image, label = make_phantom(0, number, (8, 32, 32))
        write_nifti(folder / f"image_{number}.nii.gz", image)
        # Every class that any of the sets has.
        classes = np.arange(label.size, dtype=np.int16).reshape(label.shape) % 14
        write_nifti(folder / f"label_{number}.nii.gz", classes)
        for size in (1000, 5000):
            pieces = np.int16(image > np.median(image))
            write_nifti(folder / f"supervoxels_{size}/super_{number}.nii.gz", pieces)


def needs(recipe: Path) -> list[str]:
    """Return overrides for what is not on this machine, or skip the test."""
    if recipe.stem.startswith("edt_pretrain"):
        return ["datasets:train:range=~"]  # two images have no first 200,000
    if not recipe.stem.startswith("catnet_"):
        return []
    pytest.importorskip("nibabel")
    # A fold of six patients has two, and no support number 3.
    return ["network_g:backbone_weights=~", "datasets:val:support=0"]


@pytest.fixture
def data_folders(photographs: Path, monkeypatch):
    """Work where the recipes' data folders are."""
    monkeypatch.chdir(photographs)


def _data_roots(recipe: Path, kind: str = "") -> list[str]:
    datasets = yaml.safe_load(recipe.read_text())["datasets"]
    return [
        folder
        for name, keys in datasets.items()
        if name.startswith(kind)
        for key, folder in keys.items()
        if key.startswith("dataroot")
    ]


def described(recipe: Path) -> Options:
    """Return a recipe's options though neither its data nor the weights it starts from are there."""
    return load_options(recipe, ["path:pretrain_network_g=~"], phases=())


@contextmanager
def start_weights(recipe: Path) -> Iterator[None]:
    """Put weights where ``recipe`` looks for those of the recipe that it goes on from, if there is one."""
    if (started := started_from(recipe)) is None:
        yield
        return
    weights = build_network(yaml.safe_load(started.read_text())["network_g"]).state_dict()
    path = Path("experiments", started.stem, "models/net_g_latest.pth")
    path.parent.mkdir(parents=True)
    torch.save({"params": weights}, path)
    try:
        yield
    finally:
        shutil.rmtree(path.parents[1])


def started_from(recipe: Path) -> Path | None:
    """Return the recipe whose last weights ``recipe`` starts from."""
    path = yaml.safe_load(recipe.read_text()).get("path", {}).get("pretrain_network_g")
    return path and ROOT / f"options/{Path(path).parts[1]}.yml"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_named_like_its_file_and_names_the_schema(recipe):
    options = described(recipe)
    assert options.name == recipe.stem
    assert recipe.read_text().splitlines()[0] == "# yaml-language-server: $schema=schema.json"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("data_folders")
def test_all_parts_of_a_recipe_can_be_built(recipe):
    with start_weights(recipe):
        options = load_options(recipe, needs(recipe))
        parts = build_parts(options, 1, training=True)
    assert sum(stage.iters for stage in parts.stages) == options.train.total_iter
    if recipe.stem in PUBLISHED_PARAMETERS:
        parameters = sum(parameter.numel() for parameter in parts.networks["net_g"].parameters())
        assert parameters == PUBLISHED_PARAMETERS[recipe.stem]


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in RECIPES if started_from(recipe)], ids=lambda path: path.stem
)
def test_a_fine_tuned_recipe_starts_from_the_network_of_another(recipe):
    started, ours = described(started_from(recipe)), described(recipe)
    # Weights of several tasks hold those of each.
    tasks = ("scales", "noise_levels", "rain_levels")
    theirs = {key: value for key, value in started.network_g.kwargs.items() if key not in (*tasks, "upscale")}
    assert theirs == {k: v for k, v in ours.network_g.kwargs.items() if k not in (*tasks, "upscale")}
    for key in tasks:
        assert set(ours.network_g.kwargs.get(key, ())) <= set(started.network_g.kwargs.get(key, ()))
    assert ours.train.optim_g.lr < started.train.optim_g.lr
    assert ours.train.total_iter <= started.train.total_iter


@pytest.mark.parametrize("name", ["swinir_x3", "swinir_light_x4"])
def test_weights_of_another_scale_fit_but_for_the_upsampler(name):
    recipe = ROOT / f"options/{name}.yml"
    first, ours = (
        build_network(yaml.safe_load(path.read_text())["network_g"])
        for path in (started_from(recipe), recipe)
    )
    report = load_weights(ours, first.state_dict(), strict=False)
    lost = [*report.missing, *report.unexpected, *(key for key, *_ in report.mismatched)]
    assert {key.split(".")[0] for key in lost} == {"upsample"}


# Optimizer, learning rate, second beta, thousands of iterations, milestones in thousands, patch, batch.
RELEASED_TRAINING = {
    "edt_x4": ("Adam", 0.0002, 0.99, 500, [250, 400, 450, 475], 192, 32),
    "edt_small_x2": ("Adam", 0.0002, 0.99, 500, [250, 400, 450, 475], 96, 32),
    "emt_x4": ("Adam", 0.0005, 0.999, 1000, None, 256, 64),
    "swinir_x2": ("Adam", 0.0002, 0.999, 500, [250, 400, 450, 475], 128, 32),
    "swinir_light_x2": ("Adam", 0.0002, 0.999, 500, [250, 400, 450, 475], 128, 64),
    "swinir_denoise_gray_15": ("Adam", 0.0002, 0.999, 1600, [800, 1200, 1400, 1500], 128, 8),
    "swinir_denoise_gray_50": ("Adam", 0.0001, 0.999, 800, [400, 600, 700, 750], 128, 8),
    "swinir_jpeg_gray_40": ("Adam", 0.0002, 0.999, 1600, [800, 1200, 1400, 1500], 126, 8),
    "swinir_jpeg_gray_10": ("Adam", 0.0001, 0.999, 800, [400, 600, 700, 750], 126, 8),
    "grl_base_x2_finetune": ("AdamW", 0.0001, 0.999, 225, [100, 150, 175, 200], 512, 8),
    "grl_denoise_color_25_finetune": ("AdamW", 0.0001, 0.999, 225, [100, 150, 175, 200], 256, 8),
    "grl_jpeg_gray_30_finetune": ("AdamW", 0.0001, 0.999, 175, [50, 100, 125, 150], 288, 8),
    "grl_deblur_motion_finetune": ("AdamW", 1e-05, 0.999, 40, [40, 80], 480, 8),
    "grl_deblur_defocus_single_finetune": ("AdamW", 5e-05, 0.999, 80, [20, 40, 60, 70], 480, 8),
    "grl_dm": ("AdamW", 0.0002, 0.999, 1000, [400, 700, 850, 900, 950], 64, 32),
}


@pytest.mark.parametrize("recipe", RELEASED_TRAINING)
def test_a_recipe_trains_as_released(recipe):
    options = described(ROOT / f"options/{recipe}.yml")
    optim, [stage] = options.train.optim_g, resolved_stages(options)
    milestones = getattr(options.train.scheduler, "milestones", None)
    assert (
        optim.type,
        optim.lr,
        optim.kwargs["betas"][1],
        stage.iters // 1000,
        milestones and [milestone // 1000 for milestone in milestones],
        stage.gt_size,
        stage.batch_size_total,
    ) == RELEASED_TRAINING[recipe]
    assert optim.kwargs.get("weight_decay", 0) == (1e-4 if optim.type == "AdamW" else 0)
    assert milestones is None or options.train.scheduler.gamma == 0.5


PUBLISHED_BY_RESTORMER = {
    "restormer_deraining": "Deraining",
    "restormer_motion_deblurring": "Motion_Deblurring",
    "restormer_defocus_single": "DefocusDeblur_Single_8bit",
    "restormer_defocus_dual": "DefocusDeblur_DualPixel_16bit",
    "restormer_denoise_gray_50": "GaussianGrayDenoisingSigma50",
    "restormer_denoise_gray_blind": "GaussianGrayDenoising",
    "restormer_denoise_color_15": "GaussianColorDenoisingSigma15",
    "restormer_denoise_color_blind": "GaussianColorDenoising",
    "restormer_denoise_real": "RealDenoising",
}


@pytest.mark.parametrize("recipe", PUBLISHED_BY_RESTORMER)
def test_a_restormer_recipe_is_the_released_option_file(recipe):
    released = ROOT / f"tests/config/published/restormer_{PUBLISHED_BY_RESTORMER[recipe]}.yml"
    ours, theirs = described(ROOT / f"options/{recipe}.yml"), described(released)
    assert ours.train == theirs.train
    assert ours.network_g == theirs.network_g
    assert (ours.val.use_image, ours.val.val_freq) == (theirs.val.use_image, theirs.val.val_freq)
    assert ours.val.metrics["psnr"] == theirs.val.metrics["psnr"]
    stages = [(stage.iters, stage.gt_size, stage.batch_size_total) for stage in resolved_stages(ours)]
    assert stages == [
        (stage.iters, stage.gt_size, 8 * stage.batch_size_per_gpu) for stage in resolved_stages(theirs)
    ]
    for key in ("type", "sigma_type", "sigma_range", "in_ch", "geometric_augs"):
        assert getattr(ours.datasets.train, key, None) == getattr(theirs.datasets.train, key, None)


def test_every_restormer_recipe_has_the_same_training():
    recipes = [recipe for recipe in RECIPES if recipe.stem.startswith("restormer_")]
    schedules = {str(resolved_stages(described(recipe))) for recipe in recipes}
    assert (len(recipes), len(schedules)) == (13, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("data_folders")
@pytest.mark.parametrize(
    "recipe",
    [recipe for recipe in RECIPES if not LIKE_ANOTHER.search(recipe.stem)],
    ids=lambda path: path.stem,
)
def test_a_recipe_trains_eight_iterations_with_shrunk_stages(recipe, tmp_path):
    absent = needs(recipe)
    options = described(recipe)
    count = len(resolved_stages(options))
    classifies = options.model_type == "ClassificationModel"
    window = 7 if "swinir_jpeg" in recipe.stem else 32 if classifies else 8
    stages = [
        {"iters": 8 // count + (i < 8 % count), "gt_size": (2 + i) * window * options.scale}
        for i in range(count)
    ]
    changed = read_yaml(recipe.read_text(), str).value
    changed |= {"num_gpu": 0, "name": "run", "path": {"experiments_root": str(tmp_path)}}
    changed["train"]["total_iter"] = 8
    changed["train"].pop("warmup_iter", None)
    for key in ("gt_size", "batch_size_per_gpu", "batch_size_total", "range"):
        changed["datasets"]["train"].pop(key, None)
    changed["datasets"]["train"] |= {
        "stages": [stage | {"batch_size_per_gpu": 1 + classifies} for stage in stages],
        "num_worker_per_gpu": 0,
    }
    network = changed["network_g"]
    if classifies:
        network["num_classes"] = 12 if recipe.stem.startswith("quickstart") else 2
    elif "depths" in network:  # up to 40 blocks take minutes
        network["depths"] = [2] * len(network["depths"])
    if absent:
        network |= {"backbone": "resnet18", "backbone_weights": None, "dim": 8}
        changed["datasets"]["val"] |= {"support": 0, "side": 32}
    if network["type"] == "GRL":  # it pads patches to the size of its stripes
        network |= {"window_size": 8, "stripe_size": [8, 16]}
    assert train(load_options(changed)).iteration == 8
    assert (tmp_path / "run/models/net_g_latest.pth").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("data_folders")
@pytest.mark.parametrize(
    "name",
    [
        "edt_x4_progressive",
        "emt_x2",
        "grl_tiny_x4",
        "restormer_denoise_gray_15",
        "swinir_light_x2",
        "quickstart",
    ],
)
def test_check_passes(name):
    recipe = ROOT / f"options/{name}.yml"
    arguments = ["-opt", recipe, "--check", "--force_yml", "num_gpu=0"]
    done = run_command(sys.executable, ROOT / "train.py", *arguments, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stdout
    assert "One iteration of the largest stage (" in done.stdout
