"""scripts/make_lr.py, run as a user runs it."""

import numpy as np
import pytest

from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.data.resize import downscale


def test_every_scale_gets_a_folder_beside_the_ground_truth(script, folder):
    result = script("make_lr", folder, "--scales", 2, 3)
    assert result.returncode == 0, result.stderr
    for scale in (2, 3):
        for name in ("a.png", "sub/b.tif"):
            found = read_image((folder.parent / f"LR_bicubic/X{scale}" / name).with_suffix(".png"))
            np.testing.assert_array_equal(found, downscale(read_image(folder / name), scale))


def test_images_made_before_are_kept_unless_told_otherwise(script, folder, tmp_path):
    output = tmp_path / "out"
    write_image(output / "X2/a.png", np.zeros((3, 3, 3), np.uint8))
    result = script("make_lr", folder, "--scales", 2, "--output", output)
    assert "1 of 2 images exist and are kept" in result.stdout
    assert read_image(output / "X2/a.png").shape == (3, 3, 3)
    assert script("make_lr", folder, "--scales", 2, "--output", output, "--overwrite").returncode == 0
    assert read_image(output / "X2/a.png").shape == (18, 25, 3)


def test_bad_images_are_named_and_the_others_are_made(script, folder):
    (folder / "bad.png").write_bytes(b"bad")
    write_image(folder / "tiny.png", np.zeros((2, 9, 3), np.uint8))
    result = script("make_lr", folder, "--scales", 4)
    assert result.returncode == 1
    assert "bad.png: cannot be decoded" in result.stderr
    assert "tiny.png: 2x9 pixels are too few for scale 4" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.name for path in folder.parent.glob("LR_bicubic/X4/**/*.png")) == ["a.png", "b.png"]


def test_the_float_variant_is_named_as_such_and_differs_by_its_rounding(script, folder):
    assert script("make_lr", folder, "--scales", 2, "--float").returncode == 0
    assert not (folder.parent / "LR_bicubic").exists()
    made = read_image(folder.parent / "LR_bicubic_float/X2/a.png").astype(int)
    exact = downscale(read_image(folder / "a.png").astype(np.float64), 2)
    np.testing.assert_allclose(made, np.clip(exact, 0, 255), atol=0.5)
    twice_rounded = downscale(read_image(folder / "a.png"), 2)
    assert 0 < np.mean(made != twice_rounded) < 0.4


def test_published_low_quality_is_reproduced_by_the_default_only(script, shared_set5, tmp_path):
    same = {}
    for variant in ((), ("--float",)):
        output = tmp_path / f"out{len(variant)}"
        assert script("make_lr", shared_set5 / "HR", "--output", output, *variant).returncode == 0
        same[variant] = [
            np.array_equal(read_image(output / f"X{scale}" / path.name), read_image(path))
            for scale in (2, 3, 4)
            for path in sorted((shared_set5 / f"LRbicx{scale}").glob("*.png"))
        ]
    assert same[()] == [True] * 15
    assert same[("--float",)] == [False] * 15


def test_several_processes_make_what_one_makes(script, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(24):
        write_image(tmp_path / f"HR/{index:02d}.png", rng.integers(0, 256, (9, 8, 3)).astype(np.uint8))
    made = []
    for workers in (1, 2):
        output = tmp_path / f"out{workers}"
        arguments = ("--scales", 2, "--output", output, "--workers", workers)
        result = script("make_lr", tmp_path / "HR", *arguments)
        assert result.returncode == 0, result.stderr
        made.append([path.read_bytes() for path in sorted(output.rglob("*.png"))])
    assert len(made[0]) == 24
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "/nowhere is not a folder"),
        ([".", "--scales", "1"], "1 does not shrink; give 2 or more"),
        ([".", "--workers", "0"], "0 is not a positive whole number"),
    ],
)
def test_wrong_arguments_are_explained_in_one_line(script, arguments, message):
    result = script("make_lr", *arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
