"""scripts/make_store.py, run as a user runs it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import run_command

from basicsr_ext.data.images import read_image, write_image
from basicsr_ext.data.opening import open_source

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "make_store.py"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("GT/a", "GT/b", "LQ/ax2", "LQ/bx2"):
        side = 60 if name.startswith("GT") else 30
        write_image(tmp_path / f"{name}.png", rng.integers(0, 256, (side, side, 3)).astype(np.uint8))
    return tmp_path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_command(sys.executable, SCRIPT, *map(str, arguments), cwd=Path("/"))


def test_a_tilde_is_the_home_folder_in_arguments(folder):
    arguments = ("~/GT", "--lq", "~/LQ", "--filename_tmpl", "{}x2", "--output", "~/stores")
    home = {"HOME": str(folder)}
    done = run_command(sys.executable, SCRIPT, *arguments, cwd=Path("/"), environment=home)
    assert done.returncode == 0, done.stderr
    assert {store.name for store in (folder / "stores").iterdir()} == {"GT.store", "LQ.store"}


def test_a_folder_is_packed_beside_itself_with_a_report(folder):
    result = run(folder / "GT")
    assert result.returncode == 0, result.stderr
    assert re.match(rf"{folder}/GT.store: 2 images packed in \d+ s, 0 kept\n", result.stdout)
    assert "MB in 1 files; a crop of 192x192 pixels takes" in result.stdout
    store = open_source(str(folder / "GT.store"), "dataroot_gt")
    np.testing.assert_array_equal(store.read(1), read_image(folder / "GT/b.png"))
    assert re.search(r": 0 images packed in \d+ s, 2 kept\n", run(folder / "GT").stdout)


def test_pairs_are_packed_into_two_stores_with_the_layout_asked_for(folder):
    output = folder / "stores"
    result = run(
        *(folder / "GT", "--lq", folder / "LQ", "--filename_tmpl", "{}x2", "--output", output),
        *("--shards", 2, "--tiles", 32, "--compress", "--verify", "--workers", 1),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("all checksums are right") == 2
    assert (
        (output / "GT.store/meta.yml")
        .read_text()
        .endswith("shards: 2\ntile: 32\ncompression: png\nformat: 2\n")
    )
    assert list(open_source(str(output / "LQ.store"), "x").names) == ["ax2", "bx2"]


def test_a_store_is_verified_and_the_damaged_image_named(folder):
    run(folder / "GT")
    assert "all checksums are right" in run(folder / "GT.store").stdout
    shard = folder / "GT.store/00.mdb"
    pixels = read_image(folder / "GT/b.png").tobytes()
    shard.write_bytes(shard.read_bytes().replace(pixels, pixels[::-1]))
    result = run(folder / "GT.store", "--verify")
    assert result.returncode == 1
    assert result.stderr == f"error: {folder}/GT.store: wrong checksums: b; pack the images again\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "error: folder: /nowhere is not a folder"),
        (["GT", "--lq", "LQ"], "error: --lq: {folder}/LQ lacks partners of {folder}/GT: a, b"),
        (["GT", "--shards", "0"], "0 is not positive"),
    ],
)
def test_wrong_arguments_are_explained_in_one_line(folder, arguments, message):
    result = run(*(folder / item if item in ("GT", "LQ") else item for item in arguments))
    assert result.returncode != 0
    assert message.format(folder=folder) in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "GT.store").exists()
