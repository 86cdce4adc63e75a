"""``scripts/check_dataset.py`` finds every kind of damage, in files that are really damaged."""

import json
import sys

import check_dataset
import cv2
import lmdb
import numpy as np
import pytest
import yaml
from helpers import run_command, tiny_options

from basicsr_ext.data.phantoms import make_phantom
from basicsr_ext.data.volumes import write_nifti


@pytest.fixture
def data(tmp_path):
    """GT/a.png ... GT/f.png of 40x48 pixels and LQ of half the size."""
    rng = np.random.default_rng(0)
    for side, size in (("GT", (40, 48, 3)), ("LQ", (20, 24, 3))):
        (tmp_path / side).mkdir()
        for name in "abcdef":
            write(tmp_path / side / f"{name}.png", rng.integers(0, 256, size).astype(np.uint8))
    return tmp_path


def write(path, image):
    assert cv2.imwrite(str(path), image)


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def look(data, *arguments, workers=1):
    """Return the exit code and the findings as (kind, file name)."""
    folders = ["--gt", data / "GT", "--lq", data / "LQ", "--scale", "2"]
    code = check_dataset.main(
        [str(a) for a in (arguments or folders)]
        + ["--workers", str(workers), "--report", str(data / "report")]
    )
    report = json.loads((data / "report.json").read_text())
    return code, [(finding["kind"], finding["path"].rpartition("/")[2]) for finding in report["findings"]]


@pytest.mark.parametrize("workers", [1, 2])
def test_sound_folders_give_exit_code_0_and_an_empty_report(data, workers, capsys):
    assert look(data, workers=workers) == (0, [])
    assert "folders: 6 images looked through: nothing wrong" in capsys.readouterr().out


def truncate(path):
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda data: truncate(data / "GT/c.png"), ("unreadable", "c.png")),
        (lambda data: (data / "LQ/d.png").write_bytes(b""), ("unreadable", "d.png")),
        (lambda data: (data / "LQ/d.png").write_text("<html>not found</html>"), ("unreadable", "d.png")),
        (lambda data: write(data / "LQ/b.png", read(data / "LQ/b.png")[1:]), ("size", "b.png")),
        (lambda data: (data / "LQ/e.png").unlink(), ("unpaired", "e.png")),
        (lambda data: (data / "GT/e.png").unlink(), ("unpaired", "e.png")),
        (lambda data: write(data / "LQ/f.png", read(data / "LQ/f.png")[..., 0]), ("channels", "f.png")),
    ],
    ids=["truncated", "empty", "no image", "size", "LQ missing", "GT missing", "grey"],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_damage_is_found_and_gives_exit_code_1(data, damage, expected, workers):
    damage(data)
    assert look(data, workers=workers) == (1, [expected])


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".bmp"])
def test_an_image_cut_short_is_found_whatever_its_format(data, suffix):
    path = data / f"GT/a{suffix}"
    write(path, read(data / "GT/a.png"))
    (data / "GT/a.png").unlink()
    assert look(data) == (0, [])
    path.write_bytes(path.read_bytes()[:-100])
    assert look(data) == (1, [("unreadable", path.name)])


def test_several_things_are_found_in_one_pass_and_written_as_text_too(data):
    truncate(data / "GT/a.png")
    (data / "LQ/b.png").unlink()
    truncate(data / "GT/b.png")
    code, found = look(data)
    assert code == 1
    assert sorted(found) == [("unpaired", "b.png"), ("unreadable", "a.png"), ("unreadable", "b.png")]
    text = (data / "report.txt").read_text().splitlines()
    assert text[0] == "folders: 6 images looked through: 1 unpaired, 2 unreadable"
    assert len(text) == 4


def test_images_smaller_than_the_patch_are_found(data):
    write(data / "GT/a.png", read(data / "GT/a.png")[:30])
    write(data / "LQ/a.png", read(data / "LQ/a.png")[:15])
    folders = ["--gt", data / "GT", "--lq", data / "LQ", "--scale", "2"]
    assert look(data, *folders, "--gt_size", 32) == (1, [("small", "a.png")])
    assert look(data, *folders, "--gt_size", 30) == (0, [])


def test_a_number_of_channels_can_be_demanded(data):
    write(data / "GT/a.png", read(data / "GT/a.png")[..., 0])
    write(data / "GT/b.png", cv2.cvtColor(read(data / "GT/b.png"), cv2.COLOR_BGR2BGRA))
    assert look(data, "--gt", data / "GT") == (0, [])
    assert look(data, "--gt", data / "GT", "--channels", 3) == (1, [("channels", "a.png")])


def test_an_empty_folder_and_a_missing_one_are_found(data):
    (data / "empty").mkdir()
    for name in ("empty", "missing"):
        assert look(data, "--gt", data / name) == (1, [("folder", name)])


def test_both_views_of_a_dual_pixel_set_are_looked_through_under_its_template(data):
    for view in ("L", "R"):
        (data / view).mkdir()
        for path in (data / "GT").iterdir():
            write(data / view / f"{path.stem}_v.png", read(path))
    truncate(data / "R/c_v.png")
    options = tiny_options(data / "run")
    roots = {"dataroot_gt": data / "GT", "dataroot_lqL": data / "L", "dataroot_lqR": data / "R"}
    options["datasets"] = {
        "test": {
            "type": "Dataset_DefocusDeblur_DualPixel_16bit",
            "filename_tmpl": "{}_v",
            "scale": 1,
            **{key: str(root) for key, root in roots.items()},
        }
    }
    del options["train"], options["val"]["val_freq"]
    (data / "options.yml").write_text(yaml.safe_dump(options))
    assert look(data, "-opt", data / "options.yml") == (1, [("unreadable", "c_v.png")])


@pytest.fixture
def database(data):
    folder = data / "GT.lmdb"
    environment = lmdb.open(str(folder))
    lines = []
    with environment.begin(write=True) as transaction:
        for path in sorted((data / "GT").iterdir()):
            transaction.put(path.stem.encode(), path.read_bytes())
            lines.append(f"{path.name} (40,48,3) 1\n")
    environment.close()
    (folder / "meta_info.txt").write_text("".join(lines))
    return folder


def test_an_lmdb_without_a_listed_key_and_with_a_wrong_size_is_found(data, database):
    assert look(data, "--gt", database) == (0, [])
    meta = database / "meta_info.txt"
    meta.write_text(meta.read_text().replace("b.png (40", "b.png (41") + "zz.png (40,48,3) 1\n")
    assert look(data, "--gt", database) == (1, [("size", "b"), ("unreadable", "zz")])


@pytest.mark.parametrize("content", [b"", b"no database at all" * 500])
def test_an_lmdb_that_cannot_be_opened_is_one_finding(data, database, content):
    (database / "data.mdb").write_bytes(content)
    assert look(data, "--gt", database) == (1, [("folder", "GT.lmdb")])


def test_every_data_set_of_an_option_file_is_looked_through(data):
    truncate(data / "GT/a.png")
    truncate(data / "LQ/b.png")
    options = tiny_options(data / "run")
    paired = {"dataroot_gt": str(data / "GT"), "dataroot_lq": str(data / "LQ")}
    stages = options["datasets"]["train"]["stages"]
    options["datasets"] = {
        "train": {"type": "PairedImageDataset", **paired, "stages": stages},
        "val": {"type": "SampleImages", "split": "val"},
        "val_2": {"type": "SingleImageDataset", "dataroot_lq": str(data / "LQ")},
        "test": {"type": "RealESRGANPairedDataset", "io_backend": {"type": "disk"}, **paired},
        "test_2": {"type": "PairedImageDataset", "dataroot_gt": str(data / "nowhere")},
    }
    (data / "options.yml").write_text(yaml.safe_dump(options))
    code = check_dataset.main(["-opt", str(data / "options.yml"), "--report", str(data / "report")])
    report = json.loads((data / "report.json").read_text())
    assert code == 1
    assert report["checked"] == {"train": 6, "val": 3, "val_2": 6, "test": 6, "test_2": 0}
    found = [(finding["set"], finding["kind"]) for finding in report["findings"]]
    # The patches of the last stage are larger than the images.
    small = [("train", "small")] * 5
    assert [finding for finding in found if finding not in small] == [
        ("train", "unreadable"),
        ("train", "unreadable"),
        ("val_2", "unreadable"),
        ("test", "unreadable"),
        ("test", "unreadable"),
        ("test_2", "folder"),
    ]
    assert found.count(small[0]) == 5


def test_the_command_runs_and_says_what_is_missing(data):
    done = run_command(sys.executable, "scripts/check_dataset.py")
    assert done.returncode == 2
    assert "give either -opt FILE or --gt FOLDER" in done.stderr


@pytest.fixture
def volumes(tmp_path):
    """Five small patients with labels and supervoxels, and an option file that names them."""
    pytest.importorskip("nibabel")
    folder = tmp_path / "volumes"
    for number in range(5):
        image, label = make_phantom(1, number, (6, 24, 24))
        for kind, voxels in (("image_", image), ("label_", label), ("supervoxels_5000/super_", label + 1)):
            write_nifti(folder / f"{kind}{number}.nii.gz", voxels.astype(np.float32))
    classes = ["liver", "kidneys", "spleen"]
    dataset = {"type": "FewShotVolumes", "dataroot": str(folder), "classes": classes}
    episodes = {"gt_size": 16, "batch_size_total": 1, "min_size": 9}
    options = {
        "name": "small",
        "model_type": "FewShotModel",
        "datasets": {"train": {**dataset, **episodes}, "val": dataset},
        "network_g": {"type": "CATNet", "dim": 8},
        "train": {"total_iter": 2, "optim_g": {"type": "SGD", "lr": 1e-2}},
        "val": {"val_freq": 2, "metrics": {"dice": {"type": "Dice"}}},
    }
    (tmp_path / "options.yml").write_text(yaml.safe_dump(options))
    return folder


def change(path, how, affine=None):
    import nibabel

    file = nibabel.load(path)
    voxels = how(np.asanyarray(file.dataobj).copy())
    nibabel.save(nibabel.Nifti1Image(voxels, file.affine if affine is None else affine), path)


def spoiled(voxels):
    voxels[2, 2, 2] = np.nan
    return voxels


def test_all_that_is_wrong_with_volumes_is_found_in_one_pass(volumes, tmp_path, capsys):
    assert look(tmp_path, "-opt", tmp_path / "options.yml", workers=2) == (0, [])
    assert "train: 5 volumes looked through: nothing wrong" in capsys.readouterr().out
    change(volumes / "label_0.nii.gz", lambda v: v * 0)
    change(volumes / "label_1.nii.gz", lambda v: v[1:])
    change(volumes / "supervoxels_5000/super_1.nii.gz", lambda v: v, np.diag([2.0, 1, 1, 1]))
    change(volumes / "image_2.nii.gz", spoiled)
    change(volumes / "image_3.nii.gz", lambda v: v * 0 + 7)
    (volumes / "supervoxels_5000/super_3.nii.gz").unlink()
    (volumes / "label_4.nii.gz").write_bytes((volumes / "label_4.nii.gz").read_bytes()[:-60])
    code, found = look(tmp_path, "-opt", tmp_path / "options.yml")
    assert code == 1
    assert sorted(found) == [
        ("grid", "label_1.nii.gz"),
        ("grid", "super_1.nii.gz"),
        ("unpaired", "super*_3.nii.gz"),
        *[("unreadable", f"image_{number}.nii.gz") for number in (2, 2, 3, 3)],
        ("unreadable", "label_0.nii.gz"),
        ("unreadable", "label_4.nii.gz"),
    ]


@pytest.mark.parametrize(
    ("file", "how", "expected"),
    [
        ("label_0", lambda v: np.where(v == 1, 0, v), [("content", "label_0.nii.gz")]),
        ("supervoxels_5000/super_2", lambda v: v * 0, [("content", "image_2.nii.gz")]),
        ("image_1", lambda v: v[:, :, :1], None),
    ],
    ids=["a class that the support lacks", "no supervoxels", "one slice"],
)
def test_volumes_without_what_a_run_needs_are_found(volumes, tmp_path, file, how, expected):
    change(volumes / f"{file}.nii.gz", how)
    code, found = look(tmp_path, "-opt", tmp_path / "options.yml")
    assert code == 1
    if expected is None:
        assert ("grid", "image_1.nii.gz") in found
    else:
        assert found == expected
