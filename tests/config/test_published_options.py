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
