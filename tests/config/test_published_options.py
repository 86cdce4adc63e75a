"""BasicSR's and Restormer's published option files load as they are; only their data is missing here."""

from __future__ import annotations

from pathlib import Path

import pytest

from basicsr_ext.config import OptionError, Options, load_options, resolved_stages

FOLDER = Path(__file__).parent / "published"
FILES = sorted(FOLDER.glob("*.yml"))


def load(name: str) -> Options:
    return load_options(FOLDER / f"{name}.yml", ["path:pretrain_network_g=~"], phases=())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_missing_data_and_weights_are_the_only_problems(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError) as caught:
        load_options(file)
    assert all("does not exist)" in line for line in str(caught.value).splitlines())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_files_load_where_their_data_is(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError) as caught:
        load_options(file)
    for problem in caught.value.problems:
        path = Path(problem.found.split("'")[1])
        if path.suffix in (".txt", ".pth"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        else:
            path.mkdir(parents=True)
            (path / ("data.mdb" if path.suffix == ".lmdb" else "0001.png")).touch()
    assert load_options(file).name


def test_numbers_written_as_floats_keep_their_meaning():
    options = load("basicsr_train_msrresnet_x4")
    assert options.train.optim_g.lr == 2e-4
    assert options.train.scheduler.eta_min == 1e-7
    assert options.val.val_freq == options.logger.save_checkpoint_freq == 5000


def test_plain_files_train_in_one_stage():
    [stage] = resolved_stages(load("basicsr_train_swinir_x4"))
    assert (stage.iters, stage.gt_size, stage.batch_size_per_gpu) == (500_000, 192, 4)


def test_restormers_lists_become_stages():
    stages = resolved_stages(load("restormer_Deraining"))
    assert [stage.iters for stage in stages] == [92000, 64000, 48000, 36000, 36000, 24000]
    assert [stage.gt_size for stage in stages] == [128, 160, 192, 256, 320, 384]
    assert [stage.batch_size_per_gpu for stage in stages] == [8, 5, 4, 2, 1, 1]


def test_a_file_for_testing_needs_neither_training_set_nor_train_section():
    options = load("basicsr_test_msrresnet_x4")
    assert options.train is None
    assert list(options.datasets.evaluation("test")) == ["test_1", "test_2", "test_3"]
    assert resolved_stages(options) == ()


def test_validation_sets_keep_their_names_and_order():
    assert list(load("basicsr_train_msrresnet_x4").datasets.evaluation("val")) == ["val", "val_2"]


def test_the_placeholder_for_noise_made_on_the_fly_is_no_folder():
    assert load("restormer_GaussianColorDenoising").datasets.train.dataroot_lq == "none"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"model_type": "VideoRecurrentModel"},
            "model_type: found 'VideoRecurrentModel', which is for video restoration",
        ),
        ({"model_type": "EDVRModel"}, "model_type: found 'EDVRModel', which is for video restoration"),
        ({"model_type": "RealESRGANModel"}, "model_type: found 'RealESRGANModel', which is for adversarial"),
        (
            {"model_type": "StyleGAN2Model"},
            "model_type: found 'StyleGAN2Model', which is for image generation",
        ),
        ({}, "datasets.train.type: found 'REDSRecurrentDataset', which is for video restoration"),
    ],
)
def test_what_only_basicsr_trains_is_one_line(change, line):
    options = {
        "name": "train_BasicVSR_REDS",
        "model_type": "SRModel",
        "scale": 4,
        "datasets": {
            "train": {"type": "REDSRecurrentDataset", "dataroot_gt": "datasets/REDS", "num_frame": 15},
            "val": {"type": "VideoRecurrentTestDataset", "num_frame": -1},
        },
        "network_g": {"type": "BasicVSR", "num_feat": 64},
        "network_d": {"type": "StyleGAN2Discriminator"},
        "train": {"total_iter": 300000, "fix_flow": 5000, "flow_lr_mul": 0.125, "mixing_prob": 0.9},
    }
    with pytest.raises(OptionError) as caught:
        load_options({**options, **change}, phases=())
    (problem,) = str(caught.value).splitlines()
    assert problem.startswith(f"options: {line}")


def test_the_data_sets_of_other_kinds_are_the_plug_ins_own_matter():
    options = {"name": "x", "plugins": ["json"], "datasets": {"val": {"type": "VideoTestDataset"}}}
    options["network_g"] = {"type": "EDT", "scales": [4]}
    assert load_options(options, phases=()).plugins == ["json"]


def test_hats_section_for_tiles_is_that_of_val_in_other_words():
    file = FOLDER / "basicsr_test_swinir_x4_woGT.yml"
    weights = "path:pretrain_network_g=~"
    options = load_options(file, [weights, "tile:tile_size=256", "tile:tile_pad=32"], phases=())
    assert options.tiling == (320, 64)
    with pytest.raises(OptionError, match=r"tile: found it beside val\.tile, expected one of the two"):
        load_options(file, [weights, "tile:tile_size=256", "val:tile=256"], phases=())


def test_keys_at_the_top_of_basicsrs_older_files_are_accepted_and_called_dead():
    file = FOLDER / "basicsr_test_msrresnet_x4.yml"
    options = load_options(file, ["path:pretrain_network_g=~", "suffix=~", "crop_border=~"], phases=())
    assert options.dead_keys == [
        "--force_yml suffix: suffix has no effect, as in BasicSR; val.suffix has",
        "--force_yml crop_border: crop_border has no effect, as in BasicSR; crop_border of each metric has",
    ]
    assert load("basicsr_test_msrresnet_x4").dead_keys == []


def test_an_unknown_network_may_be_a_plug_ins(complaints, change):
    (line,) = complaints(change("type: EDT\n  scales: [4]", "type: HAT"))
    assert line.endswith("or name under plugins: the module that registers it")
