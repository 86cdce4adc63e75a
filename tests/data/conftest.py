"""Pictures for the data tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from basicsr_ext.data.images import write_image
from basicsr_ext.data.resize import downscale

Textures = Callable[..., np.ndarray]


@pytest.fixture
def shared() -> Path:
    """The folder of published evaluation images, where there is one."""
    folder = Path(__file__).resolve().parents[3] / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared, which is not here")
    return folder


@pytest.fixture
def texture() -> Textures:
    """Random pictures: texture(height, width, seed=0, bits=8)."""

    def make(height: int, width: int, seed: int = 0, bits: int = 8) -> np.ndarray:
        kind = np.uint8 if bits == 8 else np.uint16
        return np.random.default_rng(seed).integers(0, 2**bits, (height, width, 3)).astype(kind)

    return make


@pytest.fixture
def coordinates() -> Textures:
    """16-bit pictures that hold each pixel's row, column and a random number."""

    def make(height: int, width: int, seed: int = 0) -> np.ndarray:
        rows, columns = np.indices((height, width))
        noise = np.random.default_rng(seed).integers(0, 2**16, (height, width))
        return np.stack([rows, columns, noise], axis=2).astype(np.uint16)

    return make


@pytest.fixture
def pairs(tmp_path: Path, texture: Textures) -> Path:
    """A folder with GT/0.png ... GT/6.png of different sizes and their quarter-size LQ/0.png ..."""
    for index in range(7):
        gt = texture(44 + 4 * index, 60 - 4 * index, index)
        write_image(tmp_path / "GT" / f"{index}.png", gt)
        write_image(tmp_path / "LQ" / f"{index}.png", downscale(gt, 4))
    return tmp_path
