"""What training several tasks at once computes, by a network that tells what it gets."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny_options
from torch import nn

from basicsr_ext import load_options
from basicsr_ext.config import OptionError
from basicsr_ext.data.sampling import SampleRequest, Share, Stage
from basicsr_ext.models.multitask_model import MultiTaskModel, Task
from basicsr_ext.registry import DEGRADATIONS


class Joint(nn.Module):
    """Repeats pixels of sr_x2 twice and adds ``lift`` to dn_g25, in its own range and order of tasks."""

    tasks = ("dn_g25", "sr_x2")

    def __init__(self, white: float = 1.0, lift: float = 0.0) -> None:
        super().__init__()
        self.pixel_range, self.lift = white, lift

    def forward(self, images: list[torch.Tensor]) -> list[torch.Tensor]:
        noisy, small = images
        return [noisy + self.lift * self.pixel_range, small.repeat_interleave(2, -1).repeat_interleave(2, -2)]


def options(tmp_path, *tasks):
    written = tiny_options(tmp_path)
    del written["scale"]
    return {**written, "model_type": "MultiTaskModel", "tasks": list(tasks)}


def model(tmp_path, network, *tasks):
    loaded = load_options(options(tmp_path, *tasks))
    made = MultiTaskModel(loaded, {"net_g": network}, torch.device("cpu"))
    made.start_training()
    return made


BOTH = {"name": "sr_x2", "weight": 3.0}, {"name": "dn_g25"}


def batch():
    generator = torch.Generator().manual_seed(0)
    draw = {
        name: (torch.rand(2, 3, side, side, generator=generator), torch.rand(2, 3, 8, 8, generator=generator))
        for name, side in (("sr_x2", 4), ("dn_g25", 8))
    }
    return {name: {"lq": lq, "gt": gt} for name, (lq, gt) in draw.items()}


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_losses_are_of_each_task_by_its_name_and_weighed(tmp_path, white):
    network, given = Joint(white, lift=0.25), batch()
    made = model(tmp_path, network, *BOTH)
    enlarged = given["sr_x2"]["lq"].repeat_interleave(2, -1).repeat_interleave(2, -2)
    expected = {
        "l_sr_x2": 3 * (enlarged - given["sr_x2"]["gt"]).abs().mean(),
        "l_dn_g25": (given["dn_g25"]["lq"] + 0.25 - given["dn_g25"]["gt"]).abs().mean(),
    }
    torch.testing.assert_close(made.losses("g", made.networks, given, {}), expected)


def test_an_output_that_would_be_broadcast_is_refused_with_the_tasks_name(tmp_path):
    made, given = model(tmp_path, Joint(), *BOTH), batch()
    given["dn_g25"]["gt"] = given["dn_g25"]["gt"][..., :1]
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\) for dn_g25, ground truth is \(2, 3, 8, 1\)"):
        made.losses("g", made.networks, given, {})


@pytest.mark.parametrize(
    ("network", "found"),
    [(nn.Identity(), "one without tasks"), (Joint(), "one with the tasks dn_g25, sr_x2")],
)
def test_a_network_of_other_tasks_is_refused(tmp_path, network, found):
    with pytest.raises(OptionError, match=f"network_g: found {found}, expected the tasks of .*, sr_x3$"):
        model(tmp_path, network, {"name": "sr_x3"})


def test_tasks_share_a_patch_as_edt_does(tmp_path):
    loaded = load_options(
        options(
            tmp_path,
            {"name": "sr_x2"},
            {"name": "sr_x4", "batch_size_per_gpu": 7},
            {"name": "dn_g25"},
            {"name": "mine", "scale": 3},
        )
    )
    made = MultiTaskModel(loaded, {"net_g": Joint()}, torch.device("cpu"))
    assert list(made.shares(Stage(5, 192, 2))) == [
        Share("sr_x2", 2, 96),  # low quality is 48 pixels large
        Share("sr_x4", 7, 192),
        Share("dn_g25", 2, 192),
        Share("mine", 2, 144),
    ]
    assert [made.scale_of({"task": name}) for name in ("sr_x2", "sr_x4", "dn_g25", "mine")] == [2, 4, 1, 3]
    assert made.patch_advice(13) == ""


@pytest.mark.parametrize(
    ("name", "kind", "arguments"),
    [
        ("dn_g25", "gaussian_noise", {"sigma": 25}),
        ("dn_g5", "gaussian_noise", {"sigma": 5}),
        ("dr_L", "rain", {"kind": "light"}),
        ("dr_H", "rain", {"kind": "heavy"}),
    ],
)
def test_the_name_of_a_task_says_what_makes_its_low_quality(name, kind, arguments):
    expected = DEGRADATIONS.section(kind).model_validate({"type": kind, **arguments})
    assert Task(name=name).steps() == [expected]


def test_super_resolution_shrinks_bicubically_unless_a_task_says_how():
    assert Task(name="sr_x2").steps() is None
    assert Task(name="mine", scale=2).steps() is None
    own = {"type": "gaussian_noise", "sigma": 3}
    expected = DEGRADATIONS.section("gaussian_noise").model_validate(own)
    for name in ("dn_g25", "sr_x2", "mine"):
        assert Task.model_validate({"name": name, "degradation": [own]}).steps() == [expected]


@pytest.mark.parametrize(
    ("task", "refused"),
    [
        ({"name": "sharpen"}, True),
        ({"name": "xsr_x2"}, True),
        ({"name": "sharpen", "scale": 1}, True),
        ({"name": "sharpen", "scale": 2}, False),
        ({"name": "sharpen", "degradation": [{"type": "gaussian_noise", "sigma": 3}]}, False),
        ({"name": "sr_x3"}, False),
        ({"name": "dr_L"}, False),
    ],
)
def test_a_name_of_ones_own_needs_a_scale_or_degradation_beside_it(tmp_path, task, refused):
    written = options(tmp_path, task)
    if not refused:
        load_options(written)
        return
    with pytest.raises(OptionError, match=r"tasks\.0\.name: found '.*', expected sr_x<scale>") as caught:
        load_options(written)
    assert len(str(caught.value).splitlines()) == 1


def test_each_task_makes_its_own_low_quality_of_the_same_images_and_is_scored_by_its_name(tmp_path):
    loaded = load_options(options(tmp_path, *BOTH))
    sets = MultiTaskModel.open_train_set(loaded)
    assert list(sets) == ["sr_x2", "dn_g25"]
    small, noisy = (sets[task][SampleRequest(0, 16, 5, task)] for task in sets)
    assert (small["lq"].shape[-1], noisy["lq"].shape[-1]) == (8, 16)
    assert 0.05 < float((noisy["lq"] - noisy["gt"]).std()) < 0.15
    scored = MultiTaskModel.open_eval_sets(loaded, "photos", loaded.datasets.evaluation("val")["val"])
    items = {name: dataset[0] for name, dataset in scored.items()}
    assert {name: item["task"] for name, item in items.items()} == {
        "photos_sr_x2": "sr_x2",
        "photos_dn_g25": "dn_g25",
    }
    assert items["photos_dn_g25"]["lq"].shape == items["photos_dn_g25"]["gt"].shape


def test_every_task_has_a_name_of_its_own(tmp_path):
    with pytest.raises(OptionError, match=r"tasks\.2\.name: found 'dn_g25', expected a name no other task"):
        load_options(options(tmp_path, {"name": "dn_g25"}, {"name": "sr_x2"}, {"name": "dn_g25"}))


def test_one_task_can_be_evaluated_alone(tmp_path):
    loaded = load_options(options(tmp_path, *BOTH))
    assert [task.name for task in MultiTaskModel.for_task(loaded, "dn_g25").tasks] == ["dn_g25"]
    assert len(loaded.tasks) == 2
