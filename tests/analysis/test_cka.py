"""CKA: what it must not change under, and the numbers of a published implementation."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

import basicsr_ext as bx
from basicsr_ext.analysis.cka import MinibatchCKA
from basicsr_ext.analysis.features import by_example, layers, recorded

# numpy promises that Philox draws these numbers for ever.
CKATORCH = {
    1: (0.7966681749087646, -0.13326246127935581),
    2: (0.8062872909679036, -0.23782347321577904),
    4: (0.7556335669228952, -0.06695526673739392),
}
"""``ckatorch.core.cka_batch`` of ckatorch 1.0.3 (PyPI), of :func:`examples` in so many batches: of x with y
and of x with z. Recorded, since the package would bring pandas, seaborn and matplotlib for six numbers."""


def features(n, p, seed):
    return np.random.Generator(np.random.Philox(seed)).standard_normal((n, p))


def examples():
    x = features(24, 7, 1)
    return x, x @ features(7, 30, 2) + 2 * features(24, 30, 3) + 5, features(24, 9, 4)


def in_batches(count, x, *others):
    estimator = MinibatchCKA()
    for first, *rest in zip(*(np.split(part, count) for part in (x, *others)), strict=True):
        estimator.update([torch.from_numpy(first)], [torch.from_numpy(part) for part in rest])
    return estimator.value()[0]


def by_definition(x, y):
    """Song et al., eq. 5, as it is written."""
    n = len(x)
    one = np.ones(n)
    K, L = ((part @ part.T) * (1 - np.eye(n)) for part in (x, y))
    sums = (one @ K @ one) * (one @ L @ one) / ((n - 1) * (n - 2))
    return (np.trace(K @ L) + sums - 2 / (n - 2) * (one @ K @ L @ one)) / (n * (n - 3))


def test_it_is_1_for_itself():
    assert bx.analysis.cka(features(9, 5, 0), features(9, 5, 0)) == pytest.approx(1, abs=1e-14)


def test_rotations_scales_and_means_do_not_matter():
    x, y, _ = examples()
    rotation, _ = np.linalg.qr(features(30, 30, 5))
    assert bx.analysis.cka(x, -3e4 * y @ rotation + 70) == pytest.approx(bx.analysis.cka(x, y), abs=1e-12)
    stretched = y * np.linspace(1, 3, 30)
    assert abs(bx.analysis.cka(x, stretched) - bx.analysis.cka(x, y)) > 1e-3


def test_it_is_the_quotient_of_the_unbiased_estimates():
    x, y, _ = examples()
    expected = by_definition(x, y) / np.sqrt(by_definition(x, x) * by_definition(y, y))
    assert bx.analysis.cka(x, y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("batches", CKATORCH)
def test_it_agrees_with_ckatorch(batches):
    assert in_batches(batches, *examples()) == pytest.approx(CKATORCH[batches], abs=1e-12)


def test_one_batch_gives_what_a_direct_computation_does():
    x, y, z = examples()
    direct = [bx.analysis.cka(x, y), bx.analysis.cka(x, z)]
    assert in_batches(1, x, y, z) == pytest.approx(direct, abs=1e-12)


def test_all_batches_together_estimate_what_all_examples_do():
    """The estimator is unbiased: its mean over all batches of 5 of 8 examples is the value of all 8."""
    x, y = features(8, 3, 6), features(8, 4, 7) + features(8, 3, 6) @ features(3, 4, 8)
    estimator = MinibatchCKA()
    for batch in combinations(range(8), 5):
        estimator.update([torch.from_numpy(x[list(batch)])], [torch.from_numpy(y[list(batch)])])
    assert estimator.value().item() == pytest.approx(bx.analysis.cka(x, y), abs=1e-12)


def test_independent_features_have_none():
    """The biased estimate would be 0.5: as many features as examples."""
    values = [bx.analysis.cka(features(50, 50, 2 * i), features(50, 50, 2 * i + 1)) for i in range(40)]
    assert abs(np.mean(values)) < 0.02


def test_features_of_any_shape_and_kind_are_taken():
    x, y, _ = examples()
    images = torch.from_numpy(y).float().reshape(24, 2, 3, 5).requires_grad_()
    assert bx.analysis.cka(x.astype(np.float32), images) == pytest.approx(bx.analysis.cka(x, y), abs=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.eye(3), np.eye(3), r"x: found shape \(3, 3\), expected \(4 or more"),
        (np.eye(5), np.eye(6), "5 examples and y has 6"),
        (np.eye(5), np.full((5, 2), 0.1), "do not vary"),
        (np.eye(5), np.full((5, 2), np.nan), "y: holds infinities or NaN"),
    ],
)
def test_what_has_no_value_is_explained(x, y, message):
    with pytest.raises(ValueError, match=message):
        bx.analysis.cka(x, y)


def test_a_layer_that_does_not_vary_has_no_value_beside_those_that_do():
    x, _, z = examples()
    values = in_batches(2, x, np.full((24, 3), 0.1), z)
    assert np.isnan(values[0])
    assert values[1] == pytest.approx(CKATORCH[2][1])


# --- layers -----------------------------------------------------------------------------------------


def net():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), nn.Flatten()))


@pytest.mark.parametrize(
    ("pattern", "found"), [("*", ["0", "1"]), ("1.*", ["1.0", "1.1"]), ("**1", ["1", "1.1"])]
)
def test_layers_are_named_by_a_pattern(pattern, found):
    assert layers(net(), pattern) == found


def test_the_repeated_blocks_are_the_layers_if_none_are_named():
    edt = bx.build_network(
        {"type": "EDT", "scales": [2], "embed_dim": 12, "depths": [2, 1], "num_heads": [2, 2]}
    )
    blocks = ["0.residual_group.blocks.0", "0.residual_group.blocks.1", "1.residual_group.blocks.0"]
    assert layers(edt) == [f"body.layers.{block}" for block in blocks]


@pytest.mark.parametrize("pattern", [None, "2*"])
def test_without_layers_it_is_said_which_there_are(pattern):
    with pytest.raises(ValueError, match=r"there are, for example, \*, \*\.\*"):
        layers(net(), pattern)


def test_what_layers_return_is_recorded_while_asked_for():
    network, x = net(), torch.rand(2, 1, 4, 4)
    with recorded(network, ["0", "1"]) as found:
        y = network(x)
    assert torch.equal(found["1"], y)
    assert by_example(found["0"], 2).shape == (2, 8)
    found.clear()
    network(x)
    assert not found
