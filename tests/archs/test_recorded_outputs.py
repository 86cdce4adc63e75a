"""Networks give the outputs and gradients that the released code gave, in float64."""

import pytest
from recorded import SHARED, SHIPPED, find, load
from reference import run

FIXTURES = {
    **{"edt_": 10, "emt_": 5, "grl_": 10, "restormer_": 6, "swin_": 4, "cloformer_": 4},
    **{"dat_v1_": 9, "dat_v2_": 13, "dat_nat_": 3, "mswin_": 9},
    "catnet_": 10,
}
"""How many there are at least in ../shared/reference, by the beginning of their names."""
SLOW = {  # ten seconds to two minutes
    *("edt_b_x2", "edt_b_dn_g25"),
    *("grl_base_x4", "grl_small_dn_color", "grl_small_x3", "grl_tiny_x4"),
    *("restormer_deblur", "restormer_denoise_color", "restormer_dualpixel"),
    "catnet_eval_256",
}
RECORDED = [
    pytest.param(path, id=f"{folder.name}-{path.stem}", marks=[pytest.mark.slow] * (path.stem in SLOW))
    for prefix in FIXTURES
    for folder in (SHIPPED, SHARED)
    for path in find(folder, prefix)
]


@pytest.mark.parametrize("path", RECORDED)
def test_outputs_and_gradients_equal_the_released_codes(path):
    fixture = load(path)
    got = run(fixture)
    assert got.keys() == fixture.arrays.keys()
    for name, array in got.items():
        assert fixture.error(name, array) < (1e-6 if name.startswith("y") else 1e-5), name


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/reference is not on this machine")
@pytest.mark.parametrize("prefix", FIXTURES)
def test_all_reference_fixtures_are_found(prefix):
    assert len(find(SHARED, prefix)) >= FIXTURES[prefix]
