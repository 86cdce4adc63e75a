"""Keys that contradict each other: stages, schedules, sections, paths."""

# ruff: noqa: E501 (a message is one line here, too)

from __future__ import annotations

import pytest

PLAIN = "gt_size: 128\n    batch_size_per_gpu: 4"
LOSS = "pixel_opt: {type: L1Loss}"


def stage(iters: int, size: int, batch: str = "batch_size_per_gpu: 2") -> str:
    return f"{{iters: {iters}, gt_size: {size}, {batch}}}"


def restormer(**values: object) -> str:
    keys = {"mini_batch_sizes": [4, 2], "iters": [60, 40], "gt_sizes": [64, 128], **values}
    return "\n    ".join(f"{key}: {value}" for key, value in keys.items() if value is not None)


@pytest.mark.parametrize(
    "keys",
    [
        f"stages: [{stage(60, 64)}, {stage(40, 128, 'batch_size_total: 8')}]",
        restormer(),
        restormer(gt_size=128, batch_size_per_gpu=4),
        "gt_size: 128\n    batch_size_total: 8",
    ],
)
def test_each_spelling_of_progressive_learning_is_accepted(change, complaints, keys):
    assert complaints(change(PLAIN, keys)) == []


@pytest.mark.parametrize(
    ("keys", "lines"),
    [
        (f"stages: [{stage(100, 64)}]\n    gt_size: 64", ["o.yml:4: datasets.train: found stages beside gt_size, expected stages alone: each has its own gt_size, iters and batch size; delete the others"]),
        (f"stages: [{stage(100, 64)}]\n    iters: [5]", ["o.yml:4: datasets.train: found stages beside iters, expected stages alone: each has its own gt_size, iters and batch size; delete the others"]),
        (f"stages: [{stage(100, 130)}]", ["o.yml:6: datasets.train.stages.0.gt_size: found 130, which is not divisible by scale 4, expected a multiple of 4; use 128 or 132"]),
        (f"stages: [{stage(100, 2)}]", ["o.yml:6: datasets.train.stages.0.gt_size: found 2, which is not divisible by scale 4, expected a multiple of 4; use 4"]),
        ("stages: [{iters: 100, gt_size: 64}]", ["o.yml:6: datasets.train.stages.0: found no batch size, expected exactly one of batch_size_per_gpu and batch_size_total; add batch_size_per_gpu"]),
        ("stages: []", ["o.yml:6: datasets.train.stages: found the list [], expected a list of mappings with iters and gt_size"]),
        (f"stages: [{stage(100, 64).replace('iters', 'iter')}]", ["o.yml:6: datasets.train.stages.0.iter: found an unknown key, expected a key of datasets.train.stages.0; did you mean 'iters'?"]),
        (restormer(iters=None), ["o.yml:4: datasets.train.iters: found nothing, expected a list with one value a stage, as in mini_batch_sizes"]),
        (restormer(iters=[60, 50]), ["o.yml:7: datasets.train.iters: found stages of 110 iterations in all (60 + 50), expected the 100 of train.total_iter; set train.total_iter to 110 or change the stages"]),
        (restormer(gt_sizes=[64, 130]), ["o.yml:8: datasets.train.gt_sizes.1: found 130, which is not divisible by scale 4, expected a multiple of 4; use 128 or 132"]),
        (restormer(gt_size=96), ["o.yml:8: datasets.train.gt_sizes.1: found 128, expected at most gt_size, the largest of all stages, which is 96; raise gt_size or lower this"]),
        (restormer(batch_size_per_gpu=2), ["o.yml:6: datasets.train.mini_batch_sizes.0: found 4, expected at most batch_size_per_gpu, the largest of all stages, which is 2; raise batch_size_per_gpu or lower this"]),
        (restormer(batch_size_total=2), ["o.yml:9: datasets.train.batch_size_total: found it beside mini_batch_sizes, expected mini_batch_sizes alone, which are per GPU; delete it"]),
        ("gt_size: 128", ["o.yml:4: datasets.train: found no batch size, expected exactly one of batch_size_per_gpu and batch_size_total; add batch_size_per_gpu"]),
        (f"{PLAIN}\n    batch_size_total: 8", ["o.yml:4: datasets.train: found batch_size_per_gpu and batch_size_total, expected exactly one of batch_size_per_gpu and batch_size_total; delete one of them"]),
        ("batch_size_per_gpu: 4", ["o.yml:4: datasets.train.gt_size: found nothing, expected a positive whole number (side of the ground-truth crop), or stages"]),
        # A value that is wrong by itself makes no second problem of the sums it is part of.
        (f"stages: [{stage(50, 64).replace('50', 'x')}, {stage(50, 64)}]", ["o.yml:6: datasets.train.stages.0.iters: found 'x' (text), expected a positive whole number"]),
    ],
)  # fmt: skip
def test_a_wrong_training_schedule_gives_one_line_a_mistake(change, complaints, keys, lines):
    assert complaints(change(PLAIN, keys)) == lines


def test_a_data_sets_own_scale_counts(base, complaints):
    assert complaints(base, "datasets:train:scale=3")[0].endswith("use 126 or 129")


@pytest.mark.parametrize(
    "scheduler",
    [
        "{type: MultiStepLR, milestones: [50, 80], gamma: 0.5}",
        "{type: MultiStepRestartLR, milestones: [50], restarts: [0, 60], restart_weights: [1, 0.5]}",
        "{type: CosineAnnealingRestartLR, periods: [100], eta_min: 1e-7}",
        "{type: CosineAnnealingRestartCyclicLR, periods: [40, 60], restart_weights: [1, 1], eta_mins: [1e-4, 1e-6]}",
    ],
)
def test_schedulers_of_basicsr_and_restormer_are_accepted(change, complaints, scheduler):
    assert complaints(change(LOSS, f"{LOSS}\n  scheduler: {scheduler}")) == []


@pytest.mark.parametrize(
    ("scheduler", "line"),
    [
        ("{type: MultiStepRL, milestones: [5]}", "type: found 'MultiStepRL' (text), expected a known learning-rate schedule; did you mean 'MultiStepLR'?"),
        ("{type: MultiStepLR}", "milestones: found nothing, expected a list of whole numbers from 0 up (Iterations after which the rate drops, increasing.)"),
        ("{type: MultiStepLR, milestone: [5]}", "milestone: found an unknown key, expected a key of MultiStepLR; did you mean 'milestones'?"),
        ("{type: MultiStepLR, milestones: 5}", "milestones: found 5, expected a list of whole numbers from 0 up; write [5]"),
        ("{type: MultiStepLR, milestones: [8, 5]}", "milestones: found the list [8, 5], expected increasing iterations; write [5, 8]"),
        ("{type: MultiStepLR, milestones: [5.5]}", "milestones.0: found 5.5, expected a whole number from 0 up"),
        ("{type: MultiStepLR, milestones: [5], gamma: half}", "gamma: found 'half' (text), expected a number from 0 up"),
        ("{type: MultiStepLR, milestones: [5], restarts: [0, 5]}", "restart_weights: found 1 value (the list [1]), expected 2, one for each of restarts"),
        ("{type: CosineAnnealingRestartLR, periods: [50, 50]}", "restart_weights: found 1 value (the list [1]), expected 2, one for each of periods"),
        ("{type: CosineAnnealingRestartLR, periods: [99]}", "periods: found periods of 99 iterations in all, expected at least train.total_iter, which is 100"),
        ("{type: CosineAnnealingRestartLR, periods: [0]}", "periods.0: found 0, expected a positive whole number"),
        ("{type: CosineAnnealingRestartCyclicLR, periods: [50, 50], restart_weights: [1, 1]}", "eta_mins: found 1 value (the list [0]), expected 2, one for each of periods"),
        ("{type: CosineAnnealingRestartCyclicLR, periods: [100], eta_min: 0}", "eta_min: found an unknown key, expected a key of CosineAnnealingRestartCyclicLR; did you mean 'eta_mins'?"),
    ],
)  # fmt: skip
def test_a_wrong_scheduler_gives_one_line(change, complaints, scheduler, line):
    assert complaints(change(LOSS, f"{LOSS}\n  scheduler: {scheduler}")) == [
        f"o.yml:20: train.scheduler.{line}"
    ]


def test_a_wrong_argument_of_an_unknown_scheduler_is_not_guessed_at(change, complaints):
    assert len(complaints(change(LOSS, f"{LOSS}\n  scheduler: {{type: Mine, milestones: 5}}"))) == 1


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("  val:\n    type: SampleImages\n    split: val\n", "", "o.yml:18: val.val_freq: found 50 but no validation set, expected datasets.val beside it; add datasets.val or delete val_freq"),
        ("  val_freq: 50\n", "", "o.yml:20: val.val_freq: found nothing, though there is datasets.val, expected a positive whole number (iterations between validations)"),
        ("val_freq: 50", "val_freq: 50\n  tile: 32", "o.yml:20: val.tile_overlap: found 32, expected less than val.tile, which is 32"),
        (LOSS, f"{LOSS}\n  warmup_iter: 100", "o.yml:20: train.warmup_iter: found 100, expected less than train.total_iter, which is 100"),
        (LOSS, f"{LOSS}\n  warmup_iter: -2", "o.yml:20: train.warmup_iter: found -2, expected a whole number from -1 up"),
        ("type: EDT\n  scales: [4]", "upscale: 2\n  type: MSRResNet", "o.yml:12: network_g.upscale: found 2, expected the file's scale, which is 4"),
        ("type: calculate_psnr, ", "", "o.yml:23: val.metrics.psnr.type: found nothing, expected text (Registered name: ours first, then basicsr's and the plug-ins'.)"),
    ],
)  # fmt: skip
def test_keys_that_contradict_each_other_give_one_line(change, complaints, old, new, line):
    assert complaints(change(old, new)) == [line]


def test_a_training_set_without_train_section_gives_one_line(base, complaints):
    start, end = base.index("train:\n  total"), base.index("val:\n  val_freq")
    assert complaints(base[:start] + base[end:]) == [
        "o.yml: train: found nothing, expected a train section (total_iter, optim_g, …) for datasets.train"
    ]


def test_a_train_section_without_training_set_gives_one_line(base, complaints):
    start, end = base.index("  train:\n    type"), base.index("  val:\n    type")
    assert complaints(base[:start] + base[end:]) == [
        "o.yml:3: datasets.train: found nothing, expected a training set, as there is a train section"
    ]


def test_a_file_without_data_sets_gives_one_line(base, complaints):
    text = "name: x\ndatasets: {}\nnetwork_g: {type: EDT}\n"
    assert complaints(text) == [
        "o.yml:2: datasets: found no data set, expected train, val, val_1, test or test_1 below it"
    ]


# --- paths ------------------------------------------------------------------------------------------


@pytest.fixture
def paired(base) -> str:
    """The file with pairs of images; their folders stand in lines 6 and 7."""
    text = base.replace("    type: SampleImages\n    gt", "    type: PairedImageDataset\n    gt")
    return text.replace("    gt_size", "    dataroot_gt: hr\n    dataroot_lq: lr\n    gt_size")


@pytest.fixture
def folders(tmp_path):
    """Folders hr and lr with an image each."""
    for name in ("hr", "lr"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "0001.PNG").touch()
    return tmp_path


def test_folders_with_images_at_any_depth_are_accepted(paired, folders, complaints):
    assert complaints(paired) == []


def test_a_folder_without_images_gives_one_line(paired, folders, complaints):
    (folders / "lr" / "deep" / "0001.PNG").unlink()
    [line] = complaints(paired)
    assert line.startswith(
        f"o.yml:7: datasets.train.dataroot_lq: found 'lr' ({folders}/lr), which holds no image, expected"
    )


def test_a_missing_folder_suggests_its_neighbour(paired, folders, complaints):
    [line] = complaints(paired.replace("dataroot_gt: hr", "dataroot_gt: ./hrr"))
    assert "; did you mean './hr'? 'python scripts/" in line


def test_low_quality_folders_that_no_script_of_ours_makes_are_not_said_to_be_made(
    paired, folders, complaints
):
    text = paired.replace("dataroot_lq: lr", "dataroot_lq: rainy")
    assert "make_lr.py" in complaints(text)[0]
    assert "make_lr.py" not in complaints(text, "scale=1")[0]


def test_the_home_folder_is_known(paired, folders, complaints, monkeypatch):
    monkeypatch.setenv("HOME", str(folders))
    assert complaints(paired.replace("dataroot_gt: hr", "dataroot_gt: ~/hr")) == []


def test_pairs_without_low_quality_images_need_a_scale(paired, folders, complaints):
    text = paired.replace("    dataroot_lq: lr\n", "")
    assert complaints(text) == []
    assert complaints(text, "scale=1") == [
        "o.yml:4: datasets.train.dataroot_lq: found nothing, expected a folder of low-quality images, "
        "which can be left out only where scale is above 1; or name the steps under degradation"
    ]


def test_an_lmdb_is_a_folder_of_that_name_with_its_files(paired, folders, complaints):
    text = paired.replace("dataroot_gt: hr", "dataroot_gt: hr.lmdb")
    assert "expected a BasicSR LMDB (a folder with data.mdb, meta_info.txt)" in complaints(text)[0]
    (folders / "hr.lmdb").mkdir()
    (folders / "hr.lmdb" / "data.mdb").touch()
    assert complaints(text) == []
    [line] = complaints(text, "datasets:train:io_backend:type=lmdb")
    assert line.startswith(
        "o.yml:7: datasets.train.dataroot_lq: found 'lr', expected a folder whose name ends in .lmdb"
    )


def test_a_store_must_have_been_packed_to_its_end(paired, folders, complaints):
    text = paired.replace("dataroot_gt: hr", "dataroot_gt: hr.store")
    (line,) = complaints(text)
    assert "does not exist), expected a complete store (a folder with meta.yml, images.txt)" in line
    (folders / "hr.store").mkdir()
    (line,) = complaints(text)
    assert "found 'hr.store', which lacks images.txt, expected a complete store" in line
    assert "start scripts/make_store.py" in line
    (folders / "hr.store" / "images.txt").touch()
    assert complaints(text) == []


def test_missing_files_are_named(paired, folders, complaints):
    (folders / "net_g_5.pth").touch()
    text = paired.replace("    gt_size", "    meta_info_file: names.txt\n    gt_size")
    text += "path:\n  pretrain_network_g: net_g_6.pth\n  resume_state: 5.state\n"
    meta, weights, state = complaints(text)
    assert meta.startswith(
        f"o.yml:8: datasets.train.meta_info_file: found 'names.txt' ({folders}/names.txt does not exist)"
    )
    assert "; did you mean 'net_g_5.pth'?" in weights
    assert state.startswith("o.yml:29: path.resume_state: found '5.state'")


def test_data_of_phases_that_do_not_run_may_be_missing(paired, tmp_path):
    from basicsr_ext.config import load_options

    file = tmp_path / "o.yml"
    file.write_text(paired)
    assert load_options(file, phases=("val", "test")).name == "tiny"


def test_a_start_of_the_warm_up_needs_one(complaints, change):
    with_rate = change("total_iter: 100\n", "total_iter: 100\n  warmup_lr: 1e-5\n")
    (line,) = complaints(with_rate)
    assert "train.warmup_lr: found it without a warm-up, expected train.warmup_iter beside it" in line
    assert complaints(with_rate.replace("warmup_lr", "warmup_iter: 10\n  warmup_lr")) == []
