"""PSNR-B equals its definition, written down pixel by pixel, and PSNR where no boundary shows."""

import math

import numpy as np
import pytest
from basicsr.metrics import calculate_psnr
from basicsr.metrics.metric_util import to_y_channel

from basicsr_ext.config import Spec
from basicsr_ext.metrics import build_metric

PSNRB = build_metric(Spec(type="calculate_psnrb", crop_border=0))


def blocky(height, width, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(40, 200, (height // 8 + 1, width // 8 + 1, channels))
    image = np.kron(blocks, np.ones((8, 8, 1)))[:height, :width]
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).round().astype(np.uint8)


def by_definition(image, reference):
    """Yim and Bovik's equations 10 to 16 on one channel, with the release's count of boundaries."""
    x, y = image[..., 0] / 255.0, reference[..., 0] / 255.0
    height, width = x.shape
    sums, pairs = [0.0, 0.0], [0, height * (width - 1) + width * (height - 1)]
    for i in range(height):
        for j in range(width):
            if j + 1 < width:
                sums[(j + 1) % 8 != 0] += (x[i, j] - x[i, j + 1]) ** 2
            if i + 1 < height:
                sums[(i + 1) % 8 != 0] += (x[i, j] - x[i + 1, j]) ** 2
    pairs[0] = height * (width // 8 - 1) + width * (height // 8 - 1)
    pairs[1] -= pairs[0]
    excess = max(0.0, sums[0] / pairs[0] - sums[1] / pairs[1])
    return 10 * math.log10(1 / (((x - y) ** 2).mean() + 3 / math.log2(min(height, width)) * excess))


@pytest.mark.parametrize("size", [(32, 48), (35, 50), (24, 24)])
def test_it_is_the_released_formula(size):
    image, reference = blocky(*size), blocky(*size, seed=1)
    assert PSNRB.statistic(image, reference) == pytest.approx(by_definition(image, reference), rel=1e-12)
    assert PSNRB.statistic(image, reference) < calculate_psnr(image, reference, 0)


def test_without_visible_boundaries_it_is_psnr():
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 256, (32, 32, 1)).astype(np.uint8)
    image = np.repeat(np.arange(32, dtype=np.uint8)[:, None, None], 32, axis=1)
    assert PSNRB.statistic(image, reference) == pytest.approx(calculate_psnr(image, reference, 0), rel=1e-12)
    assert PSNRB.statistic(image, image) == math.inf
    assert PSNRB.better == "higher"


def test_colours_are_averaged_in_decibels_and_borders_left_out():
    image, reference = blocky(40, 40, 3), blocky(40, 40, 3, seed=1)
    metric = build_metric(Spec(type="calculate_psnrb", crop_border=4))
    inner = slice(4, -4)
    channels = [
        by_definition(image[inner, inner, c : c + 1], reference[inner, inner, c : c + 1]) for c in range(3)
    ]
    assert metric.statistic(image, reference) == pytest.approx(sum(channels) / 3, rel=1e-12)


def test_sides_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(32, 32, 1\) cannot be compared with \(32, 40, 1\)"):
        PSNRB.statistic(blocky(32, 32), blocky(32, 40))


def test_the_y_of_colours_is_compared_where_asked_for_and_nothing_is_cropped_unless_told():
    image, reference = blocky(40, 40, 3), blocky(40, 40, 3, seed=1)
    metric = build_metric(Spec(type="calculate_psnrb", test_y_channel=True))
    sides = [to_y_channel(side.astype(np.float64))[..., :1] for side in (image, reference)]
    assert metric.statistic(image, reference) == pytest.approx(by_definition(*sides), rel=1e-9)
    grey = image[..., :1], reference[..., :1]
    assert metric.statistic(*grey) == pytest.approx(by_definition(*grey), rel=1e-12)
    plain = build_metric(Spec(type="calculate_psnrb"))
    assert plain.statistic(image, reference) == PSNRB.statistic(image, reference)
    assert plain.statistic(*grey) == plain.statistic(*(side[..., 0] for side in grey))
