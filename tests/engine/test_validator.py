"""How evaluation sets are gone through: every sample once, whatever a kind of training makes of it."""

import numpy as np
import pytest
import torch
from torch import nn

from basicsr_ext.config import Val
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.failures import StepError
from basicsr_ext.engine.validator import BrokenOffError, Evaluation, Validator
from basicsr_ext.models import Judgement

METRICS = {"psnr": {"type": "calculate_psnr"}, "ssim": {"type": "calculate_ssim"}}


class Numbers:
    """An evaluation set of numbers."""

    def __init__(self, *values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return {"value": torch.tensor(float(self.values[index])), "name": f"number {index}", "index": index}


class Judge:
    """A kind of training of which only the evaluation is there: a number is its own score."""

    memory_advice = "make it smaller"

    def __init__(self):
        self.seen = []

    def name_of(self, item):
        return item["name"]

    def evaluate(self, networks, item, dataset, index, draw):
        value = float(item["value"])
        self.seen.append((dataset, index, value, draw, networks["net_g"].training, torch.is_grad_enabled()))
        if value < 0:
            torch.empty(2**60)
        picture = np.full((2, 2, 3), int(value), np.uint8)
        return Judgement(
            {"psnr": value},
            {"half": {"psnr": value / 2}},
            pictures={f"p{index}": picture} if draw else {},
            results={f"sub/r{index}": picture},
        )


def one_of_two(rank, others=()):
    """Return a rank whose peer says ``others``, exchange by exchange, or else the same; and what it says."""
    world, others, told = World(rank, 2), iter(others), []

    def gather(value):
        told.append(value)
        return [value, next(others, value)]

    object.__setattr__(world, "gather", gather)
    return world, told


def validator(tmp_path, sets, world=None, **val):
    judge = Judge()
    return judge, Validator(Val(metrics=METRICS, **val), judge, sets, world or World(), tmp_path)


def test_every_sample_is_judged_once_and_the_first_ones_are_drawn(tmp_path):
    judge, one = validator(tmp_path, {"a": Numbers(1, 2, 3, 4, 5, 6), "b": Numbers(7)})
    network = nn.Linear(1, 1)
    results = one.run({"net_g": network}, "8")
    seen = [("a", index, index + 1.0, index < 4, False, False) for index in range(6)]
    assert judge.seen == [*seen, ("b", 0, 7.0, True, False, False)]
    assert network.training
    assert results["a"].scores == {"psnr": 3.5}  # no sample had the other metric
    assert results["a"].baselines == {"half": {"psnr": 1.75}}
    assert results["a"].flat() == {"psnr": 3.5, "half_psnr": 1.75}
    assert list(results["a"].pictures) == ["p0", "p1", "p2", "p3"]
    assert not list(tmp_path.iterdir())


def test_networks_in_eval_mode_stay_there_also_after_a_failure(tmp_path):
    _, one = validator(tmp_path, {"a": Numbers(1, -1)})
    training, evaluated = nn.Linear(1, 1), nn.Linear(1, 1).eval()
    with pytest.raises(StepError, match=r"^a, number 1: make it smaller \(.*allocate"):
        one.run({"net_g": training, "net_d": evaluated}, "8")
    assert training.training
    assert not evaluated.training


@pytest.mark.parametrize(("suffix", "ending"), [(None, "8"), ("mine", "mine")])
def test_results_and_comparisons_are_saved_where_asked_for(tmp_path, suffix, ending):
    _, one = validator(tmp_path, {"a": Numbers(1, 2, 3, 4, 5)}, save_img=True, suffix=suffix)
    one.run({"net_g": nn.Linear(1, 1)}, "8")
    saved = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    comparisons = [f"comparison/a/p{index}_{ending}.png" for index in range(4)]
    assert saved == [*(f"a/sub/r{index}_{ending}.png" for index in range(5)), *comparisons]


def test_ranks_share_the_samples_and_what_they_found(tmp_path):
    networks, numbers = {"net_g": nn.Linear(1, 1)}, {"a": Numbers(1, 2, 6)}
    world, told = one_of_two(1)
    second, validator_of_second = validator(tmp_path, numbers, world)
    validator_of_second.run(networks, "8")
    first, validator_of_first = validator(tmp_path, numbers, one_of_two(0, told)[0])
    results = validator_of_first.run(networks, "8")
    assert [index for _, index, *_ in first.seen] == [0, 2]
    assert [index for _, index, *_ in second.seen] == [1]
    assert results["a"].scores == {"psnr": 3.0}
    assert results["a"].baselines == {"half": {"psnr": 1.5}}
    assert sorted(results["a"].pictures) == ["p0", "p1", "p2"]


def test_a_rank_without_samples_adds_nothing(tmp_path):
    judge, one = validator(tmp_path, {"a": Numbers(1)}, one_of_two(1)[0])
    assert one.run({"net_g": nn.Linear(1, 1)}, "8") == {"a": Evaluation({}, {}, {})}
    assert not judge.seen


def test_a_rank_that_was_told_to_stop_judges_no_further_sample(tmp_path):
    judge, one = validator(tmp_path, {"a": Numbers(1, 2, 3), "b": Numbers(1)})
    answers = iter([False, True, False])
    with pytest.raises(BrokenOffError):
        one.run({"net_g": nn.Linear(1, 1)}, "8", stop=lambda: next(answers))
    assert [index for _, index, *_ in judge.seen] == [0]


def test_a_rank_whose_peer_was_told_to_stop_drops_its_scores(tmp_path):
    _, one = validator(tmp_path, {"a": Numbers(1, 2)}, one_of_two(0, [True])[0])
    with pytest.raises(BrokenOffError):
        one.run({"net_g": nn.Linear(1, 1)}, "8")
