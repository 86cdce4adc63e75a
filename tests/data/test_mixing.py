"""Mixup."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from basicsr_ext.data.mixing import mixup
from basicsr_ext.data.sampling import Purpose, sample_rng

keys = st.integers(0, 10**9)


def batch(size: int = 5, scale: int = 2):
    generator = torch.Generator().manual_seed(0)
    gt = torch.rand(size, 3, 4 * scale, 4 * scale, generator=generator)
    return gt, gt[..., ::scale, ::scale].contiguous()


def rng(k: int):
    return sample_rng(0, k, Purpose.MIXING)


@given(keys)
def test_every_pair_is_blended_with_one_partner_by_one_weight(k):
    # Image i is the i-th unit vector, so that row i of the result holds its weights.
    units = torch.eye(5).view(5, 5, 1, 1)
    shares = mixup(units, units, 1.2, False, rng(k))[0].view(5, 5)
    (weight,) = {float(share) for share in shares.diagonal() if share < 1} or {1.0}
    for index, row in enumerate(shares):
        given_away = row.clone()
        given_away[index] = 0
        assert row[index] in (weight, 1)
        assert sorted(given_away.tolist())[:4] == [0] * 4
    # Everyone is somebody's partner once.
    torch.testing.assert_close(shares.sum(dim=0), torch.ones(5))
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(5))


@given(keys)
def test_ground_truth_and_low_quality_stay_partners(k):
    gt, lq = batch()
    mixed_gt, mixed_lq = mixup(gt, lq, 1.2, False, rng(k))
    torch.testing.assert_close(mixed_gt[..., ::2, ::2], mixed_lq)


@given(keys)
def test_the_result_depends_on_the_generator_alone(k):
    first, second = (mixup(*batch(), 1.2, True, rng(k)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@given(keys)
def test_the_batch_itself_is_not_changed(k):
    gt, lq = batch()
    mixup(gt, lq, 1.2, False, rng(k))
    assert torch.equal(gt, batch()[0])
    assert torch.equal(lq, batch()[1])


def test_identity_leaves_about_half_of_the_batches():
    gt, lq = batch()
    left = sum(mixup(gt, lq, 1.2, True, rng(k))[0] is gt for k in range(400))
    assert 160 < left < 240
    assert not any(mixup(gt, lq, 1.2, False, rng(k))[0] is gt for k in range(50))


def test_weights_follow_the_beta_distribution():
    gt = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    found = [mixup(gt, gt, 1.2, False, rng(k))[0] for k in range(2000)]
    # Where the two were exchanged, image 1 holds the weight.
    weights = torch.stack([mixed[1, 0, 0, 0] for mixed in found if mixed[0] != 0])
    assert float(weights.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(weights.var()) == pytest.approx(1 / (4 * (2 * 1.2 + 1)), abs=0.01)


def test_a_batch_of_one_is_left_as_it_is():
    gt, lq = batch(1)
    mixed = mixup(gt, lq, 1.2, False, rng(3))
    torch.testing.assert_close(mixed[0], gt)
