"""Measures take statistics of samples in any order, from any number of ranks, and give the same number."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from basicsr_ext.config import Spec
from basicsr_ext.metrics import ImageMean, build_metric
from basicsr_ext.metrics.dice_metric import Dice, IoU
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


def test_accuracy_is_of_the_likeliest_class_unless_told_and_weighs_images_alike():
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.9, 0.04, 0.06], [0.3, 0.2, 0.5]])
    classes = torch.tensor([2, 0, 1])
    for metric, right in ((TopKAccuracy(), 1), (TopKAccuracy(2), 2), (TopKAccuracy(9), 3)):
        assert metric.statistic(scores, classes) == (right, 3)
        assert not metric.seen
        metric.update(0, metric.statistic(scores, classes))
        metric.update(3, (5, 5))
        assert metric.seen
        assert metric.result() == pytest.approx(100 * (right + 5) / 8)


def test_accuracy_counts_a_sample_that_two_ranks_saw_once():
    one, other = TopKAccuracy(), TopKAccuracy()
    one.update(0, (1, 1))
    other.update(0, (1, 1))
    other.update(1, (0, 1))
    one.merge(other)
    assert one.result() == 50


@pytest.mark.parametrize(("kind", "liver", "spleen"), [(Dice, 0.5, 0.4), (IoU, 1 / 3, 0.25)])
def test_overlap_is_the_mean_of_classes_not_of_volumes(kind, liver, spleen):
    label = torch.zeros(1, 2, 4, dtype=torch.bool)
    label[0, 0] = True
    half = label.clone()  # 2 hits, 2 excess, 2 missed
    half[0, :, 2:] = ~label[0, :, 2:]
    metric = kind()
    assert not metric.seen
    assert metric.statistic(half, ("liver", label)) == ("liver", 2, 2, 2)
    metric.update(0, ("liver", 2, 2, 2))
    metric.update(1, ("liver", 2, 2, 2))
    metric.update(2, ("spleen", 1, 2, 1))
    assert metric.seen
    assert metric.result() == pytest.approx((liver + spleen) / 2)
    alone = kind(organ="spleen")
    alone.merge(metric)
    assert alone.seen
    assert alone.result() == pytest.approx(spleen)
    other = kind(organ="kidneys")
    other.merge(metric)
    assert not other.seen


def test_volumes_of_other_shapes_are_not_compared():
    label = torch.ones(2, 3, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"found \[1, 3, 4\] voxels, expected \[2, 3, 4\] of liver"):
        Dice().statistic(label[:1], ("liver", label))
