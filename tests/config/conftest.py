from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from basicsr_ext.config import OptionError, load_options

BASE = """\
name: tiny
scale: 4
datasets:
  train:
    type: SampleImages
    gt_size: 128
    batch_size_per_gpu: 4
  val:
    type: SampleImages
    split: val
network_g:
  type: EDT
  scales: [4]
train:
  total_iter: 100
  optim_g:
    type: Adam
    lr: 2e-4
  pixel_opt: {type: L1Loss}
val:
  val_freq: 50
  metrics:
    psnr: {type: calculate_psnr, crop_border: 4}
"""


@pytest.fixture
def base() -> str:
    """A small valid option file; line 1 is its name."""
    return BASE


@pytest.fixture
def change() -> Callable[..., str]:
    """The small file with a piece of text exchanged."""

    def changed(old: str, new: str) -> str:
        assert BASE.count(old) == 1, f"{old!r} is not in the file exactly once"
        return BASE.replace(old, new)

    return changed


@pytest.fixture
def complaints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """The lines that loading a text as ``o.yml`` complains with; none if it loads."""
    monkeypatch.chdir(tmp_path)

    def load(text: str | bytes, *overrides: str) -> list[str]:
        content = text.encode() if isinstance(text, str) else text
        (tmp_path / "o.yml").write_bytes(content)
        try:
            load_options("o.yml", overrides)
        except OptionError as error:
            return str(error).splitlines()
        return []

    return load
