"""Measures take statistics of samples in any order, from any number of ranks, and give the same number."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from basicsr_ext.config import Spec
from basicsr_ext.metrics import ImageMean, build_metric
from basicsr_ext.metrics.topk_metric import TopKAccuracy

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


def mean():
    return ImageMean(max, {}, "higher")


def measured(values, ranks):
    """Return the mean of ``values``, shared out over ranks as samples are."""
    merged = mean()
    for rank in range(ranks):
        own = mean()
        for index in range(rank, len(values), ranks):
            own.update(index, values[index])
        merged.merge(own)
    return merged.result()


@given(values, st.integers(1, 5))
def test_a_mean_has_the_same_bits_on_any_number_of_ranks(values, ranks):
    assert measured(values, ranks) == measured(values, 1) == sum(values) / len(values)


def test_a_measure_that_has_seen_nothing_says_so():
    assert not mean().seen
    seen = mean()
    seen.update(0, 1.0)
    assert seen.seen


@pytest.mark.parametrize(
    ("spec", "better"),
    [
        ({"type": "calculate_psnr", "crop_border": 0}, "higher"),
        ({"type": "calculate_niqe", "crop_border": 0}, "lower"),
        ({"type": "calculate_psnr", "crop_border": 0, "better": "lower"}, "lower"),
    ],
)
def test_the_better_direction_is_the_measures_or_the_option_files(spec, better):
    metric = build_metric(Spec(**spec))
    assert metric.better == better
    assert metric.improves(2.0, 1.0) is (better == "higher")
    assert metric.improves(1.0, 2.0) is (better == "lower")
    assert metric.improves(1.0, None)


def test_nan_beats_nothing_and_is_beaten_by_every_number():
    metric = build_metric(Spec(type="calculate_psnr", crop_border=0))
    assert not metric.improves(math.nan, None)
    assert not metric.improves(math.nan, 3.0)
    assert metric.improves(-5.0, math.nan)


@pytest.mark.parametrize(("asked", "better"), [({}, "higher"), ({"better": "lower"}, "lower")])
def test_the_option_file_may_turn_a_measure_of_ours_round(asked, better):
    metric = build_metric(Spec(type="TopKAccuracy", **asked))
    assert isinstance(metric, TopKAccuracy)
    assert metric.better == better


@pytest.mark.parametrize(
    ("function", "needs_target"),
    [
        (lambda img, crop_border: 0.0, False),
        (lambda img, img2, crop_border: 0.0, True),
        (lambda result, truth: 0.0, True),
        (max, True),  # it tells no names
    ],
)
def test_a_function_of_one_image_is_known_by_the_names_of_its_arguments(function, needs_target):
    assert ImageMean(function, {}, "higher").needs_target is needs_target
