"""Few-shot segmentation: episodes by their number, the published protocol, Dice, resumes, errors."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import run_command, same_bits

from basicsr_ext import load_options, train
from basicsr_ext.config import OptionError
from basicsr_ext.data.episodes import affine_matrix, neighbours, with_gamma
from basicsr_ext.data.phantoms import make_phantom
from basicsr_ext.data.samples import SampleError
from basicsr_ext.data.sampling import SampleRequest
from basicsr_ext.data.supervoxels import felzenszwalb
from basicsr_ext.data.volumes import fold_of, query_bounds, read_nifti, support_slices, write_nifti
from basicsr_ext.engine.checkpoint import Checkpointer
from basicsr_ext.metrics.dice_metric import Dice, IoU
from basicsr_ext.models.few_shot_model import pixel_loss

PROTOCOL = Path(__file__).parents[1] / "fixtures/catnet_protocol.json"
PHANTOMS = {"type": "PhantomVolumes", "shape": [8, 48, 48], "patients": 3, "phantom_seed": 5}
SHAPE = (8, 40, 48)


def options(run, dataset=PHANTOMS, training=(), validation=()):
    return {
        "name": run.name,
        "model_type": "FewShotModel",
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {
            "train": {
                **dataset,
                "gt_size": 32,
                "batch_size_total": 2,
                "num_worker_per_gpu": 0,
                "min_size": 20,
                **dict(training),
            },
            "val": {**dataset, "name": "patients", **dict(validation)},
        },
        "network_g": {"type": "CATNet", "backbone": "resnet18", "stages": 2, "dim": 8, "blocks": 1},
        "path": {"experiments_root": str(run.parent)},
        "train": {
            "total_iter": 4,
            "optim_g": {"type": "SGD", "lr": 1e-2, "momentum": 0.9},
            "scheduler": {"type": "StepLR", "step_size": 2, "gamma": 0.5},
        },
        "val": {"val_freq": 2, "metrics": {"dice": {"type": "Dice"}, "iou": {"type": "IoU"}}},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2, "use_tb_logger": False, "report": False},
    }


@pytest.fixture
def protocol():
    return json.loads(PROTOCOL.read_text())


@pytest.fixture
def files(tmp_path):
    """A folder of three small patients with labels and supervoxels."""
    pytest.importorskip("nibabel")
    for number in range(3):
        image, label = make_phantom(1, number, SHAPE)
        write_nifti(tmp_path / f"volumes/image_{number}.nii.gz", image)
        write_nifti(tmp_path / f"volumes/label_{number}.nii.gz", label)
        pieces = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 48 // 12 + 1
        write_nifti(tmp_path / f"volumes/supervoxels_9/super_{number}.nii.gz", pieces.astype(np.int32))
    return tmp_path / "volumes"


def of_files(folder):
    classes = ["liver", "kidneys", "spleen"]
    return {
        "type": "FewShotVolumes",
        "dataroot": str(folder),
        "classes": classes,
        "supervoxels": "supervoxels_9",
    }


# --- data ------------------------------------------------------------------------------------------


def test_an_episode_depends_on_its_number_alone(tmp_path):
    section = load_options(options(tmp_path / "run")).datasets.train
    one, other = section.train_set(1, 7), section.train_set(1, 7)
    other[SampleRequest(2, 32, 10)]
    torch.rand(3)
    first, second = (dataset[SampleRequest(1, 32, 11)] for dataset in (one, other))
    assert all(torch.equal(first[key], second[key]) for key in first if torch.is_tensor(first[key]))
    assert not torch.equal(first["query_images"], one[SampleRequest(1, 32, 12)]["query_images"])
    assert first["support_images"].shape == (1, 3, 32, 32)
    assert set(first["query_masks"].unique().tolist()) <= {0.0, 1.0}


def test_pairs_of_slices_are_drawn_as_by_rejection():
    supervoxels = np.random.default_rng(0).integers(0, 4, (9, 2, 2))
    supervoxels[5] = 0
    numbers, slices, probabilities = neighbours(supervoxels, np.ones(9, bool), 2)
    rng, drawn = np.random.default_rng(1), []
    while len(drawn) < 4000:
        piece = int(rng.integers(1, 4))
        there = [z for z in range(9) if (supervoxels[z] == piece).any()]
        runs = [run for run in np.split(there, np.nonzero(np.diff(there) != 1)[0] + 1) if len(run) > 1]
        run = runs[rng.integers(len(runs))]
        z = int(run[rng.integers(len(run) - 1)])
        if max((supervoxels[z + i] == piece).sum() for i in (0, 1)) >= 2:
            drawn.append((piece, z))
    expected = dict(zip(zip(numbers.tolist(), slices.tolist(), strict=True), probabilities, strict=True))
    assert set(drawn) == set(expected)
    for pair, probability in expected.items():
        assert drawn.count(pair) / len(drawn) == pytest.approx(probability, abs=0.03)


def test_several_shots_are_neighbours_of_the_query(tmp_path):
    section = load_options(options(tmp_path / "run", training={"shots": 2})).datasets.train
    dataset = section.train_set(1, 7)
    episode = dataset[SampleRequest(1, 32, 11)]
    assert episode["support_images"].shape == (2, 3, 32, 32)
    assert episode["support_masks"].flatten(1).any(1).all()
    supervoxels = np.array([[[1, 2, 3]], [[1, 2, 0]], [[1, 0, 3]], [[0, 2, 3]], [[1, 2, 3]]])
    numbers, slices, _ = neighbours(supervoxels, np.ones(5, bool), 1, length=3)
    assert list(zip(numbers.tolist(), slices.tolist(), strict=True)) == [(1, 0), (3, 2)]
    assert not len(neighbours(supervoxels, np.ones(5, bool), 1, length=6)[0])


def test_several_supports_are_a_shot_each(tmp_path):
    def items(support):
        shots = {"support": support, "organs": ["liver"]}
        section = load_options(options(tmp_path / "run", validation=shots)).datasets
        return section.evaluation("val")["val"].eval_set(1)

    both, first, second = items([0, 1]), items(0), items([1])
    assert len(both) == 1
    found = both[0]
    assert found["support_images"].shape == (3, 2, 3, 48, 48)
    for shot, alone in enumerate((first[1], second[1])):  # of volume 2, the second query of each
        assert torch.equal(found["support_images"][:, shot], alone["support_images"][:, 0])
        assert torch.equal(found["label"], alone["label"])
    assert torch.equal(found["copy"], first[1]["copy"] & second[1]["copy"])
    for support, message in (([0, 0], "each volume once"), ([0, 1, 2], "no query beside 3"), (3, "0 to 2")):
        with pytest.raises(ValueError, match=message):
            items(support)


def test_a_run_takes_several_shots(tmp_path):
    shots = options(tmp_path / "run", training={"shots": 2}, validation={"support": [0, 2]})
    shots["train"]["total_iter"] = shots["val"]["val_freq"] = 1
    assert train(load_options(shots)).best["patients"]["dice"]["value"] >= 0


@pytest.mark.parametrize(("rule", "kept"), [("all", [0, 1, 2]), ("any", [0])])
def test_slices_with_excluded_classes_are_left_out(rule, kept):
    from basicsr_ext.data.episodes import Exclusion

    label = np.zeros((4, 2, 2), int)
    label[1, 0, 0], label[2, 0, 0], label[3, 0] = 1, 2, (1, 2)
    assert np.nonzero(Exclusion((1, 2), rule).keeps(label))[0].tolist() == kept


def test_folds_slices_and_distortions_are_the_recorded_ones(protocol):
    for name, volumes in (("CHAOST2", 20), ("SABS", 30), ("CMR", 35)):
        for fold, positions in protocol["folds"][name].items():
            assert fold_of(volumes, int(fold)) == positions
    for case in protocol["protocol"]:
        assert support_slices(case["n_slices"], case["n_part"]) == case["support_index"]
        assert query_bounds(case["n_slices"], case["n_part"]) == case["query_bounds"]
    for case in protocol["affine"]:
        values = case["rotation_deg"], (case["tx"], case["ty"]), case["shear_deg"], case["zoom"]
        np.testing.assert_allclose(affine_matrix(case["shape"], *values), case["matrix_float32"], atol=2e-6)
    for case, (seed, shape) in zip(protocol["gamma"], ((305, (2, 3, 6)), (306, (4, 5))), strict=True):
        image = np.random.default_rng(seed).random(shape) * 4 - 2
        changed = with_gamma(image, case["gamma"])
        assert changed.sum() == pytest.approx(case["sum"], rel=1e-12)
        np.testing.assert_allclose(changed.reshape(-1, shape[-1])[0], case["first_row"], rtol=1e-12)


def test_every_query_slice_has_the_support_slice_of_its_part(tmp_path):
    section = load_options(options(tmp_path / "run", validation={"organs": ["liver"]}))
    item = section.datasets.evaluation("val")["val"].eval_set(1)[0]
    assert len(item["support_images"]) == 3
    assert item["label"].flatten(1).any(1).all()
    assert item["part"].tolist() == sorted(item["part"].tolist())
    for z, part in enumerate(item["part"]):
        assert torch.equal(item["copy"][z], item["support_masks"][part, 0].bool())


def test_the_stricter_setting_shows_the_whole_volume(tmp_path):
    section = load_options(options(tmp_path / "run", validation={"query_range": "volume"}))
    item = section.datasets.evaluation("val")["val"].eval_set(1)[0]
    assert item["query_images"].shape == (8, 3, 48, 48)
    assert set(item["part"].tolist()) == {0}
    assert len(item["support_images"]) == 1


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "AIL"])
def test_volumes_read_alike_however_their_axes_are_stored(files, axes):
    import nibabel
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    path = files / "image_0.nii.gz"
    before = read_nifti(path)
    file = nibabel.load(path)
    turned = file.as_reoriented(ornt_transform(io_orientation(file.affine), axcodes2ornt(axes)))
    other = files / "image_7.nii.gz"
    nibabel.save(turned, other)
    np.testing.assert_array_equal(read_nifti(other), before)
    write_nifti(files / "label_7.nii.gz", before, like=other)
    np.testing.assert_array_equal(read_nifti(files / "label_7.nii.gz"), before)
    np.testing.assert_allclose(nibabel.load(files / "label_7.nii.gz").affine, turned.affine)


# --- scores and losses -----------------------------------------------------------------------------


def test_overlaps_are_the_recorded_ones(protocol):
    shape = (5, 8, 9)
    for case, (a, b) in zip(protocol["metrics"], ((301, 302), (303, 304)), strict=True):
        prediction = torch.from_numpy(np.random.default_rng(a).random(shape) > 0.5)
        label = torch.from_numpy(np.random.default_rng(b).random(shape) > 0.6)
        for metric, expected in ((Dice(), case["dice"]), (IoU(), case["iou"])):
            metric.update(0, metric.statistic(prediction, ("organ", label)))
            assert metric.result() == pytest.approx(expected, rel=1e-7)  # recorded in float32


def test_classes_count_alike_however_many_volumes_they_have():
    metric, other = Dice(), Dice()
    there = torch.tensor([[[True, True, False, False]]])
    metric.update(0, metric.statistic(there, ("liver", there)))
    metric.update(2, metric.statistic(~there, ("spleen", there)))
    other.update(1, other.statistic(there, ("liver", there)))
    metric.merge(other)
    assert metric.result() == 0.5
    spleen = Dice(organ="spleen")
    assert not spleen.seen
    spleen.merge(metric)
    assert spleen.seen
    assert spleen.result() == 0.0
    with pytest.raises(ValueError, match="shows no liver"):
        metric.statistic(there, ("liver", there & False))


def test_the_loss_is_that_of_torch():
    logits, masks = torch.randn(1, 2, 6, 5), (torch.rand(1, 6, 5) > 0.7).float()
    expected = torch.nn.functional.cross_entropy(logits, masks.long(), torch.tensor([0.1, 1.0]))
    torch.testing.assert_close(pixel_loss(logits, masks, 0.1)[0], expected)


# --- runs ------------------------------------------------------------------------------------------


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    train(load_options(options(tmp_path / "run")))
    whole = Checkpointer(tmp_path / "run").load(4)
    for kind in ("training_states/4.json", "training_states/4.state", "models/net_g_4.pth"):
        (tmp_path / "run" / kind).unlink(missing_ok=True)
    train(load_options(options(tmp_path / "run")), auto_resume=True)
    resumed = Checkpointer(tmp_path / "run").load(4)
    assert same_bits(resumed.networks, whole.networks)
    assert same_bits(resumed.state["optimizers"], whole.state["optimizers"])
    assert resumed.state["best"] == whole.state["best"]


def test_the_untrained_network_is_scored_once_where_asked_for(tmp_path):
    written = options(tmp_path / "run")
    written["val"]["at_start"] = True
    written["train"]["total_iter"] = written["val"]["val_freq"] = 1
    for _ in range(2):  # as after a run that was killed before its first checkpoint
        train(load_options(written), auto_resume=True)
        lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
        assert [line["iteration"] for line in lines if line["kind"] == "val/patients"] == [0, 1]
        shutil.rmtree(tmp_path / "run/training_states")


def test_volumes_in_files_are_trained_on_and_scored(files, tmp_path):
    written = options(tmp_path / "run", of_files(files), training={"exclude": ["spleen"]})
    assert train(load_options(written)).iteration == 4
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    scores = [line for line in lines if line["kind"] == "val/patients"]
    assert all(0 < line["support_mask_dice"] < 1 for line in scores)
    assert len(scores) == 2


@pytest.mark.slow
def test_two_ranks_score_what_one_does(tmp_path, train_command):
    scores = []
    for name, ranks in (("one", 0), ("two", 2)):
        finished = train_command(options(tmp_path / name), ranks=ranks)
        assert finished.returncode == 0, finished.stderr
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        # Batch normalisation is a rank's own, so the networks differ; what they are compared with does not.
        scores.append([line["support_mask_dice"] for line in lines if line["kind"] == "val/patients"])
    assert scores[0] == scores[1]


@pytest.mark.parametrize(("scale", "min_size"), [(1, 20), (30, 5), (100, 1), (300, 30)])
def test_a_slice_is_cut_as_scikit_image_does(scale, min_size):
    from skimage.segmentation import felzenszwalb as of_scikit_image

    image = np.random.default_rng(0).random((30, 40))
    expected = of_scikit_image(image, scale=scale, sigma=0, min_size=min_size, channel_axis=None)
    found = felzenszwalb(image, scale, min_size, diagonals=True)
    assert len(np.unique(expected)) == len(np.unique(found)) > 1
    assert len(np.unique(np.stack([expected, found]).reshape(2, -1), axis=1).T) == len(np.unique(found))


def test_supervoxels_are_pieces_of_one_brightness(monkeypatch):
    monkeypatch.setattr("basicsr_ext.data.supervoxels._EDGES_AT_ONCE", 1000)
    image = np.zeros((6, 20, 20))
    image[:, 2:9, 2:9], image[1:5, 12:18, 4:16] = 0.5, 1.0
    pieces = felzenszwalb(image + 0.001 * np.random.default_rng(0).random(image.shape), 1.0, 20)
    assert len(np.unique(pieces)) == 3
    for value in (0.0, 0.5, 1.0):
        assert len(np.unique(pieces[image == value])) == 1


@pytest.mark.slow
def test_supervoxels_are_made_once(files):
    command = [sys.executable, "scripts/make_supervoxels.py", files, "--size", "50", "--workers", "1"]
    made = run_command(*command)
    assert made.returncode == 0, made.stderr
    assert "3 volumes of supervoxels written" in made.stdout
    written = files / "supervoxels_50/supervoxels_1.nii.gz"
    pieces = read_nifti(written)
    assert pieces.shape == SHAPE
    assert len(np.unique(pieces)) > 10
    written.unlink()
    assert "2 of 3 exist and are kept" in run_command(*command).stdout
    np.testing.assert_array_equal(read_nifti(written), pieces)


# --- errors ----------------------------------------------------------------------------------------


def _rewrite(path, change, affine=None):
    import nibabel

    file = nibabel.load(path)
    voxels = change(np.asanyarray(file.dataobj).copy())
    nibabel.save(nibabel.Nifti1Image(voxels, file.affine if affine is None else affine), path)


def _one_axis_twice():
    affine = np.diag([1.0, 1, 1, 1])
    affine[:2, :2] = 1
    return affine


def _with_nan(voxels):
    voxels[3, 4, 5] = np.nan
    return voxels


def _without_liver(voxels):
    voxels[voxels == 1] = 0
    return voxels


@pytest.mark.parametrize(
    ("file", "change", "affine", "message"),
    [
        (
            "label_1",
            lambda v: v[:-1],
            None,
            r"label_1.nii.gz: found \[47, 40, 8\] voxels, image_1.nii.gz has",
        ),
        (
            "label_1",
            lambda v: v,
            np.diag([2.0, 1, 1, 1]),
            r"label_1.nii.gz: its affine is not that of image_1",
        ),
        ("label_0", _without_liver, None, r"label_0.nii.gz: the support does not show liver \(label 1\)"),
        ("label_0", lambda v: v * 0, None, "label_0.nii.gz: all voxels are 0; the label is empty"),
        ("label_2", lambda v: v * 0, None, "label_2.nii.gz: all voxels are 0; the label is empty"),
        ("image_2", lambda v: v, _one_axis_twice(), "image_2.nii.gz: its affine does not say how"),
        ("image_0", lambda v: v[:, :, :1], None, "image_0.nii.gz"),
        ("image_2", lambda v: v[..., None], None, "image_2.nii.gz: found 4 dimensions, expected 3"),
        ("label_2", lambda v: v + 0.5, None, "label_2.nii.gz: whole numbers from 0 up were expected"),
    ],
)
def test_volumes_that_cannot_be_evaluated_on_are_named(files, tmp_path, file, change, affine, message):
    _rewrite(files / f"{file}.nii.gz", change, affine)
    section = load_options(options(tmp_path / "run", of_files(files))).datasets.evaluation("val")["val"]
    with pytest.raises(ValueError, match=message):
        section.eval_set(1)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("image_1", _with_nan, "image_1.nii.gz: 1 of 15360 voxels are NaN or infinite"),
        ("image_1", lambda v: v * 0, "image_1.nii.gz: all voxels are 0; the volume is empty"),
        ("supervoxels_9/super_1", lambda v: v * 0, "super_1.nii.gz covers 20 pixels in one of 2"),
    ],
)
def test_volumes_that_cannot_be_trained_on_are_named(files, tmp_path, file, change, message):
    _rewrite(files / f"{file}.nii.gz", change)
    dataset = load_options(options(tmp_path / "run", of_files(files))).datasets.train.train_set(1, 0)
    with pytest.raises(SampleError, match=f"^episode 4, .*{message}"):
        dataset[SampleRequest(1, 32, 4)]


def cached_files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.npy"))


def test_cached_volumes_are_those_of_the_files_which_are_read_once(files, tmp_path, monkeypatch):
    def sets(**keys):
        opts = load_options(
            options(tmp_path / "run", {**of_files(files), **keys}, training=[("exclude", ["spleen"])])
        )
        return opts.datasets.train.train_set(1, 0), opts.datasets.evaluation("val")["val"].eval_set(1)

    def same(one, other):
        requests = [SampleRequest(k % 3, 32, k) for k in range(6)]
        assert same_bits(
            [one[0][request] for request in requests], [other[0][request] for request in requests]
        )
        items = range(len(one[1]))
        assert same_bits([one[1][index] for index in items], [other[1][index] for index in items])

    cached = sets(cache="disk")
    same(sets(), cached)
    names = cached_files(tmp_path / "volumes.cache")
    assert len(names) == 9
    monkeypatch.setattr("basicsr_ext.data.volumes.read_nifti", lambda path: pytest.fail(f"reads {path}"))
    same(cached, sets(cache="disk"))
    assert cached_files(tmp_path / "volumes.cache") == names


def test_a_changed_volume_is_cached_anew_and_a_damaged_file_replaced(files, tmp_path):
    dataset = load_options(options(tmp_path / "run", {**of_files(files), "cache": "disk"})).datasets.train
    source = dataset.volumes(True)[0]
    before, pieces = source.image(0).copy(), source.supervoxels(0)
    (file,) = (tmp_path / "volumes.cache").rglob("image_0*")
    for damage in (lambda content: content[:-100], lambda content: b"", lambda content: b"x" * 200):
        file.write_bytes(damage(file.read_bytes()))
        assert np.array_equal(source.image(0), before)
    changed = read_nifti(files / "image_0.nii.gz")
    changed[0] += 1
    write_nifti(files / "image_0.nii.gz", changed)
    assert not np.array_equal(source.image(0), before)
    (newer,) = (tmp_path / "volumes.cache").rglob("image_0*")
    assert newer != file
    assert np.array_equal(source.supervoxels(0), pieces)


@pytest.mark.parametrize("where", ["../elsewhere", "{}/elsewhere"])
def test_supervoxels_that_lie_elsewhere_are_cached_with_their_volumes(files, tmp_path, where):
    (files / "supervoxels_9").rename(tmp_path / "elsewhere")
    data = {**of_files(files), "supervoxels": where.format(tmp_path), "cache": "disk"}
    source = load_options(options(tmp_path / "run", data)).datasets.train.volumes(True)[0]
    expected = read_nifti(tmp_path / "elsewhere/super_2.nii.gz")
    assert np.array_equal(source.supervoxels(2), expected)
    assert [name.split(".")[0] for name in cached_files(tmp_path / "volumes.cache")] == ["elsewhere/super_2"]
    assert len(list((tmp_path / "elsewhere").iterdir())) == 3


def test_a_cache_without_a_place_says_so(files, tmp_path):
    (tmp_path / "volumes.cache").write_text("in the way")
    dataset = load_options(options(tmp_path / "run", {**of_files(files), "cache": "disk"})).datasets.train
    with pytest.raises(ValueError, match=r"image_1\.nii\.gz: cache: disk could not write .*leave cache out"):
        dataset.volumes(True)[0].image(1)


def test_a_single_slice_is_no_volume(files, tmp_path):
    for file in ("image_0", "label_0", "supervoxels_9/super_0"):
        _rewrite(files / f"{file}.nii.gz", lambda v: v[:, :, :1])
    section = load_options(options(tmp_path / "run", of_files(files))).datasets.train
    with pytest.raises(ValueError, match=r"image_0.nii.gz: found one slice"):
        section.train_set(1, 0)


def test_scaled_integers_are_read_as_the_header_says(files):
    import nibabel

    path = files / "image_0.nii.gz"
    before, file = read_nifti(path), nibabel.load(path)
    stored = nibabel.Nifti1Image(np.round(np.asanyarray(file.dataobj) * 1000).astype(np.int16), file.affine)
    stored.header.set_slope_inter(0.001, 0.25)  # as stored, not to be divided by
    nibabel.save(stored, path)
    assert nibabel.load(path).header.get_data_dtype() == np.int16
    np.testing.assert_allclose(read_nifti(path), before + 0.25, atol=6e-4)


def test_slanted_axes_count_as_the_nearest_straight_ones(files):
    import nibabel

    path = files / "image_0.nii.gz"
    before, file = read_nifti(path), nibabel.load(path)
    turn = [[0.98, -0.2, 0, 5], [0.2, 0.98, 0.1, 7], [0, -0.1, 1, 9], [0, 0, 0, 1]]
    slanted = nibabel.Nifti1Image(np.asanyarray(file.dataobj).astype(np.float64), turn @ file.affine)
    nibabel.save(slanted.as_reoriented(np.array([[2, 1], [0, -1], [1, 1]])), path)
    np.testing.assert_array_equal(read_nifti(path), before)


def test_missing_supervoxels_are_named_with_the_command_that_makes_them(files, tmp_path):
    (files / "supervoxels_9/super_2.nii.gz").unlink()
    section = load_options(options(tmp_path / "run", of_files(files))).datasets.train
    with pytest.raises(ValueError, match=r"super\*_2.nii.gz: is missing.*make_supervoxels"):
        section.train_set(1, 0)


def test_a_folder_without_volumes_is_refused(tmp_path):
    with pytest.raises(OptionError, match=r"holds no image_<number>\.nii\.gz"):
        load_options(options(tmp_path / "run", of_files(tmp_path)))


def test_nibabel_is_asked_for_by_name(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(ValueError, match="need nibabel: 'pip install nibabel'"):
        read_nifti(files / "image_0.nii.gz")
