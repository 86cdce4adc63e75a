"""Nothing grows while a run goes on, and growth would be seen."""

import pytest
from long_run import MIB, TOLERANCE, Reading, allowed, growing, growth, watch

QUANTITIES = (*TOLERANCE, "log_rate")


def readings(**per_iteration):
    """Return 100 readings of quantities that rise by so much an iteration after a jump while warming up."""
    return [
        Reading(
            iteration=i,
            **{name: 1000 + 50 * MIB * (i > 10) + i * per_iteration.get(name, 0) for name in QUANTITIES},
        )
        for i in range(1, 101)
    ]


def test_a_jump_while_warming_up_is_no_growth():
    assert growth(readings()) == dict.fromkeys(QUANTITIES, 0)


@pytest.mark.parametrize("name", QUANTITIES)
def test_a_steady_rise_of_any_quantity_exceeds_what_is_allowed(name):
    assert growing(readings(**{name: allowed(readings())[name] / 40})) == [name]


@pytest.mark.slow
def test_nothing_grows_over_1500_iterations(tmp_path):
    assert growing(watch(tmp_path, iterations=1500, workers=2, interval=0.3)) == []
