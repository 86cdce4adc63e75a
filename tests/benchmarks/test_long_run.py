"""Nothing grows while a run goes on, and growth would be seen."""

import sys

import pytest
from helpers import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from long_run import MIB, TOLERANCE, Reading, growth, watch


def readings(**per_iteration):
    """Return 100 readings of quantities that rise by so much an iteration after a jump while warming up."""
    return [
        Reading(
            iteration=i,
            **{name: 1000 + 50 * MIB * (i > 10) + i * per_iteration.get(name, 0) for name in TOLERANCE},
        )
        for i in range(1, 101)
    ]


def test_a_jump_while_warming_up_is_no_growth():
    assert growth(readings()) == dict.fromkeys(TOLERANCE, 0)


@pytest.mark.parametrize("name", TOLERANCE)
def test_a_steady_rise_of_any_quantity_exceeds_what_is_allowed(name):
    grown = growth(readings(**{name: TOLERANCE[name] / 40}))
    assert [key for key, value in grown.items() if value > TOLERANCE[key]] == [name]


@pytest.mark.slow
def test_nothing_grows_over_1500_iterations(tmp_path):
    grown = growth(watch(tmp_path, iterations=1500, workers=2, interval=0.3))
    assert {name: value for name, value in grown.items() if value > TOLERANCE[name]} == {}
