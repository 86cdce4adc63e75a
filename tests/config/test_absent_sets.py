"""Validation and test sets that are not on this machine, and sections that ``~`` removes."""

from __future__ import annotations

import pytest
import yaml
from helpers import ROOT

from basicsr_ext.config import OptionError, load_options
from basicsr_ext.config.published_sets import where_from

SETS = """\
  val: {type: PairedImageDataset, name: Set5, dataroot_gt: datasets/Set5/HR}
  val_2: {type: SampleImages, split: val}
  test_1: {type: PairedImageDataset, dataroot_gt: datasets/Manga109/HR, dataroot_lq: datasets/Manga109/LR}
"""


@pytest.fixture
def text(base):
    """An option file with three evaluation sets, of which one is there."""
    return base.replace("  val:\n    type: SampleImages\n    split: val\n", SETS)


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def loaded(text, *overrides, **phases):
        (tmp_path / "o.yml").write_text(text)
        return load_options("o.yml", overrides, **phases)

    return loaded


def test_sets_that_are_not_there_are_left_out_and_who_provides_them_is_named(text, load):
    options = load(text)
    assert list(options.datasets.evaluation("val")) == ["val_2"]
    assert not options.datasets.evaluation("test")
    val, test = options.absent("val"), options.absent("test")
    assert "Set5/HR does not exist" in val["val"].found
    assert val["val"].fix == "'python scripts/download_data.py benchmarks' fetches it"
    assert test["test_1"].fix == "manga109.org gives it out on request"


def test_sets_that_will_not_be_used_are_not_looked_for(text, load):
    options = load(text, phases=("train", "val"))
    assert list(options.datasets.evaluation("test")) == ["test_1"]
    assert not options.absent("test")


@pytest.mark.parametrize(
    "override",
    [
        "datasets:val:dataroot_gt=datasets/Set5/HR",
        "datasets:val={type: PairedImageDataset, dataroot_gt: datasets/Set5/HR}",
        "datasets:test_1:dataroot_lq=LR",
    ],
)
def test_a_set_whose_folder_an_override_names_must_be_there(text, load, override):
    with pytest.raises(OptionError, match=r"--force_yml datasets:(val|test_1).*does not exist"):
        load(text, override)


def test_an_override_of_another_key_asks_for_no_folder(text, load):
    assert "val" in load(text, "datasets:val:name=five").absent("val")


@pytest.mark.parametrize(("there", "key", "missing"), [("HR", "lq", "LR"), ("LR", "gt", "HR")])
def test_a_set_that_is_there_in_part_is_a_mistake(text, load, tmp_path, there, key, missing):
    (tmp_path / "datasets/Manga109" / there).mkdir(parents=True)
    (tmp_path / "datasets/Manga109" / there / "1.png").touch()
    with pytest.raises(OptionError, match=rf"test_1\.dataroot_{key}: found 'datasets/Manga109/{missing}'"):
        load(text)


def test_what_is_wrong_in_a_set_that_is_not_there_is_reported_all_the_same(text, load):
    with pytest.raises(OptionError, match=r"datasets\.val\.cach: found an unknown key"):
        load(text.replace("name: Set5", "cach: disk"))


def test_a_training_set_must_be_there(text, load):
    text = text.replace("    type: SampleImages\n", "    type: PairedImageDataset\n    dataroot_gt: hr\n")
    with pytest.raises(OptionError, match=r"datasets\.train\.dataroot_gt: found 'hr'"):
        load(text)


def test_options_written_down_still_name_the_sets_left_out(text, load, tmp_path):
    again = yaml.safe_load(load(text).to_yaml())
    assert again["datasets"]["val"]["dataroot_gt"] == "datasets/Set5/HR"


@pytest.mark.parametrize(
    "override",
    ["datasets:val=~", "val=~", "val:val_freq=~", "val:metrics:psnr=~", "logger=~", "train:scheduler=~"],
)
def test_null_removes_an_optional_section(base, load, override):
    options = load(base + "logger: {print_freq: 7}\n", override)
    removed = {
        "datasets:val=~": not options.datasets.evaluation("val"),
        "val=~": options.val.metrics == {},
        "val:val_freq=~": options.val.val_freq is None,
        "val:metrics:psnr=~": options.val.metrics == {},
        "logger=~": options.logger.print_freq == 100,
        "train:scheduler=~": options.train.scheduler is None,
    }
    assert removed[override]


def test_null_in_a_file_does_what_an_override_does(base, load):
    options = load(base.replace("  val:\n    type: SampleImages\n    split: val\n", "  val: ~\n"))
    assert not options.datasets.evaluation("val")


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("network_g=~", "network_g: found nothing, expected a mapping with type"),
        ("train:optim_g=~", "train.optim_g: found nothing, expected a mapping with type and lr"),
        ("datasets:train=~", "datasets.train: found nothing, expected a training set"),
        ("train:pixel_opt=~", "train: found no loss"),
    ],
)
def test_null_for_a_required_section_is_as_leaving_it_out(base, load, override, problem):
    with pytest.raises(OptionError) as caught:
        load(base, override)
    (line,) = str(caught.value).splitlines()
    assert problem in line


def test_a_batch_size_removed_does_not_displace_the_other(base, load):
    options = load(base, "datasets:train:batch_size_total=~")
    assert options.datasets.loader.batch_size_per_gpu == 4


def test_who_provides_a_data_set_is_known_of_all_that_option_files_name():
    folders = {
        folder
        for recipe in (ROOT / "options").glob("*.yml")
        for keys in yaml.safe_load(recipe.read_text())["datasets"].values()
        for key, folder in keys.items()
        if key.startswith("dataroot_")
    }
    assert len(folders) > 40
    assert not [folder for folder in folders if not where_from(folder)]
