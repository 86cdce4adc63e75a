"""scripts/make_lr.py, run as a user runs it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.data.resize import downscale

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_lr.py"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    write_image(tmp_path / "HR/a.png", rng.integers(0, 256, (37, 50, 3)).astype(np.uint8))
    write_image(tmp_path / "HR/sub/b.tif", rng.integers(0, 65536, (40, 41, 3)).astype(np.uint16))
    return tmp_path / "HR"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    # From another folder and without PYTHONPATH, as in a fresh clone.
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd="/", env={"PATH": ""}, check=False)


def test_every_scale_gets_a_folder_beside_the_ground_truth(folder):
    result = run(folder, "--scales", 2, 3)
    assert result.returncode == 0, result.stderr
    for scale in (2, 3):
        for name in ("a.png", "sub/b.tif"):
            found = read_image((folder.parent / f"LR_bicubic/X{scale}" / name).with_suffix(".png"))
            np.testing.assert_array_equal(found, downscale(read_image(folder / name), scale))


def test_images_made_before_are_kept_unless_told_otherwise(folder, tmp_path):
    output = tmp_path / "out"
    write_image(output / "X2/a.png", np.zeros((3, 3, 3), np.uint8))
    result = run(folder, "--scales", 2, "--output", output)
    assert "1 of 2 images exist and are kept" in result.stdout
    assert read_image(output / "X2/a.png").shape == (3, 3, 3)
    assert run(folder, "--scales", 2, "--output", output, "--overwrite").returncode == 0
    assert read_image(output / "X2/a.png").shape == (18, 25, 3)


def test_bad_images_are_named_and_the_others_are_made(folder):
    (folder / "bad.png").write_bytes(b"bad")
    write_image(folder / "tiny.png", np.zeros((2, 9, 3), np.uint8))
    result = run(folder, "--scales", 4)
    assert result.returncode == 1
    assert "bad.png: cannot be decoded" in result.stderr
    assert "tiny.png: 2x9 pixels are too few for scale 4" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in folder.parent.glob("LR_bicubic/X4/**/*.png")) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "/nowhere is not a folder"),
        ([".", "--scales", "1"], "1 does not shrink; give 2 or more"),
    ],
)
def test_wrong_arguments_are_explained_in_one_line(arguments, message):
    result = run(*arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
