"""What every kind of training has from its base: phases, data sets, samples' names."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny_options

from basicsr_ext import load_options
from basicsr_ext.data.sampling import SampleRequest, Share, Stage
from basicsr_ext.models import Judgement, ModelKind, Phase


class Plain(ModelKind):
    def losses(self, phase, networks, batch, earlier):
        return {}

    def evaluate(self, networks, item, dataset, index, draw):
        return Judgement()


@pytest.fixture
def options(tmp_path):
    return load_options(tiny_options(tmp_path))


def test_a_phase_is_due_every_so_often_once_it_has_begun():
    def due(phase):
        return [iteration for iteration in range(1, 13) if phase.due(iteration)]

    assert due(Phase("g", ("net_g",))) == list(range(1, 13))
    assert due(Phase("d", ("net_d",), every=3)) == [3, 6, 9, 12]
    assert due(Phase("d", ("net_d",), after=9)) == [10, 11, 12]
    assert due(Phase("d", ("net_d",), every=3, after=6)) == [9, 12]


def test_a_kind_trains_net_g_on_one_share_of_its_stage_unless_it_says_otherwise(options):
    kind = Plain(options, {}, torch.device("cpu"))
    assert kind.phases() == (Phase("g", ("net_g",), "optim_g"),)
    assert list(kind.shares(Stage(5, 64, 3))) == [Share("", 3, 64)]
    assert kind.patch_advice(17) == ""
    assert kind.start_training() is None


@pytest.mark.parametrize(
    ("item", "name"), [({"name": "a/b", "index": 3}, "a/b"), ({"index": 3}, "3"), ({}, "a sample")]
)
def test_a_sample_is_called_by_its_name_else_its_number(options, item, name):
    assert Plain(options, {}, torch.device("cpu")).name_of(item) == name


def test_data_sets_know_the_runs_scale_and_seed(options):
    ((source, dataset),) = Plain.open_train_set(options).items()
    assert source == ""
    sample = dataset[SampleRequest(0, 16, 5)]
    assert (sample["lq"].shape[-1], sample["gt"].shape[-1]) == (8, 16)
    other = Plain.open_train_set(options.model_copy(update={"manual_seed": 4}))[""][SampleRequest(0, 16, 5)]
    assert not torch.equal(sample["gt"], other["gt"])
    option = options.datasets.evaluation("val")["val"]
    ((name, evaluated),) = Plain.open_eval_sets(options, "photos", option).items()
    assert name == "photos"
    item = evaluated[0]
    assert item["lq"].shape[-1] == item["gt"].shape[-1] // 2


def test_what_an_evaluation_does_not_give_is_empty_and_its_own():
    one, other = Judgement(), Judgement()
    assert one.statistics == one.baselines == one.pictures == one.results == {}
    assert one.results is not other.results
