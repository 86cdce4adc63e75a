"""Each mistake in an option file gives one line: place, key, found, expected, what to do."""

from __future__ import annotations

import pytest

from basicsr_ext.registry import DATASETS

KNOWN_SETS = f"known: {', '.join(DATASETS.names())}"
STAGE = "{{iters: {}, gt_size: {}, batch_size_per_gpu: 2}}"


@pytest.mark.parametrize(
    "name", ["a/b", "/tmp/run", "..", ".", "''", "x" * 201, "ä" * 101, '"a\\nb"'], ids=lambda name: name[:8]
)
@pytest.mark.parametrize("key", ["name", "datasets.val.name"])
def test_a_name_that_no_folder_can_have_is_one_error(change, complaints, name, key):
    old, new = (
        ("name: tiny", f"name: {name}") if key == "name" else ("split: val", f"split: val\n    name: {name}")
    )
    (line,) = complaints(change(old, new))
    assert f": {key}: found " in line
    assert "expected the name of a folder: text of 1 to 200 bytes without /" in line


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "scale: 4",
            "scael: 4",
            "o.yml:2: scael: found an unknown key, expected a key of the option file; did you mean 'scale'?",
        ),
        (
            "total_iter: 100",
            "totl_iter: 100",
            "o.yml:15: train.totl_iter: found an unknown key, expected a key of train; "
            "did you mean 'total_iter'?",
        ),
        (
            "train:\n  total",
            "trian:\n  total",
            "o.yml:14: trian: found an unknown key, expected a key of the option file; did you mean 'train'?",
        ),
        (
            "    lr: 2e-4",
            "    Lr: 2e-4",
            "o.yml:18: train.optim_g.Lr: found an unknown key, expected a key of train.optim_g; "
            "did you mean 'lr'?",
        ),
        (
            "split: val",
            "splt: val",
            "o.yml:10: datasets.val.splt: found an unknown key, expected a key of a SampleImages "
            "evaluation set; did you mean 'split'?",
        ),
        (
            "    batch_size_per_gpu: 4\n",
            "    batch_size_per_gpu: 4\n    num_workers_per_gpu: 1\n",
            "o.yml:8: datasets.train.num_workers_per_gpu: found an unknown key, expected a key of a "
            "SampleImages training set; did you mean 'num_worker_per_gpu'?",
        ),
        (
            "  type: EDT",
            "  typ: EDT",
            "o.yml:12: network_g.typ: found an unknown key, expected a key of network_g; "
            "did you mean 'type'?",
        ),
        (
            "psnr: {type",
            "psnr: {tpe",
            "o.yml:23: val.metrics.psnr.tpe: found an unknown key, expected a key of val.metrics.psnr; "
            "did you mean 'type'?",
        ),
        (
            "  pixel_opt: {type: L1Loss}",
            "  save_checkpoint_freq: 5",
            "o.yml:19: train.save_checkpoint_freq: found an unknown key, expected a key of train; "
            "'save_checkpoint_freq' belongs to logger",
        ),
        (
            "  val:\n",
            "  validation:\n",
            "o.yml:8: datasets.validation: found an unknown key, expected a key of datasets; "
            "did you mean 'val'?",
        ),
        (
            "  val:\n",
            "  tets_2:\n",
            "o.yml:8: datasets.tets_2: found an unknown key, expected a key of datasets; "
            "did you mean 'test_2'?",
        ),
    ],
)
def test_a_misspelt_key_gives_one_line_with_the_nearest_key(change, complaints, old, new, line):
    overrides = ("val:val_freq=~",) if "tets" in new else ()
    problems = complaints(change(old, new), *overrides)
    assert [problem for problem in problems if "found no loss" not in problem] == [line]


def test_a_key_unlike_any_other_gives_the_list_of_keys(base, complaints):
    [line] = complaints(base + "zzz: 1\n")
    assert line.startswith("o.yml:24: zzz: found an unknown key, expected a key of the option file; known: ")
    assert "num_gpu, manual_seed, plugins" in line


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "lr: 2e-4",
            "lr: 2e-4x",
            "o.yml:18: train.optim_g.lr: found '2e-4x' (text), expected a positive number; "
            "did you mean 2e-4?",
        ),
        (
            "lr: 2e-4",
            "lr: '2e-4'",
            "o.yml:18: train.optim_g.lr: found '2e-4' (text), expected a positive number; "
            "write 2e-4 without quotes",
        ),
        ("lr: 2e-4", "lr: -1", "o.yml:18: train.optim_g.lr: found -1, expected a positive number"),
        ("lr: 2e-4", "lr: .inf", "o.yml:18: train.optim_g.lr: found inf, expected a positive number"),
        ("scale: 4", "scale: true", "o.yml:2: scale: found true, expected a positive whole number"),
        ("scale: 4", "scale: [4]", "o.yml:2: scale: found the list [4], expected a positive whole number"),
        (
            "scale: 4",
            "scale: 4\nnum_gpu: atuo",
            "o.yml:3: num_gpu: found 'atuo' (text), expected a whole number from 0 up or 'auto'; "
            "did you mean 'auto'?",
        ),
        (
            "val_freq: 50",
            "val_freq: 50k",
            "o.yml:21: val.val_freq: found '50k' (text), expected a positive whole number; "
            "did you mean 50000?",
        ),
        (
            "val_freq: 50",
            "val_freq: 50.5",
            "o.yml:21: val.val_freq: found 50.5, expected a positive whole number",
        ),
        (
            "val_freq: 50",
            "val_freq: 50\n  save_img: yes",
            "o.yml:22: val.save_img: found 'yes' (text), expected true or false; did you mean true?",
        ),
        (
            "pixel_opt: {type: L1Loss}",
            "amp: bf61",
            "o.yml:19: train.amp: found 'bf61' (text), expected 'no', 'bf16' or 'fp16'; did you mean 'bf16'?",
        ),
        (
            "pixel_opt: {type: L1Loss}",
            "compile: 1",
            "o.yml:19: train.compile: found 1, expected true or false or 'default', 'reduce-overhead', "
            "'max-autotune' or 'max-autotune-no-cudagraphs'",
        ),
        (
            "pixel_opt: {type: L1Loss}",
            "pixel_opt: L1Loss",
            "o.yml:19: train.pixel_opt: found 'L1Loss' (text), expected a mapping with type; "
            "write 'type: L1Loss' below it",
        ),
        (
            "scale: 4",
            "scale: 4\nplugins: mine",
            "o.yml:3: plugins: found 'mine' (text), expected a list of texts; write [mine]",
        ),
        (
            "scale: 4",
            "scale: 4\nlogger: {wandb: {project: 7}}",
            "o.yml:3: logger.wandb.project: found 7, expected text; put it in quotes",
        ),
        (
            "gt_size: 128",
            "filename_tmpl: x4\n    gt_size: 128",
            "o.yml:6: datasets.train.filename_tmpl: found 'x4' (text), expected a file name with {} in it",
        ),
        (
            "  val:\n    type: SampleImages\n    split: val\n",
            "  val: 5\n",
            f"o.yml:8: datasets.val: found 5, expected a mapping with type; {KNOWN_SETS}",
        ),
    ],
)
def test_a_wrong_value_gives_one_line_with_what_was_meant(change, complaints, old, new, line):
    problems = complaints(change(old, new))
    beside = ("but no validation set", "found no loss")
    assert [problem for problem in problems if not any(words in problem for words in beside)] == [line]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (
            "  total_iter: 100\n",
            "",
            "o.yml:14: train.total_iter: found nothing, expected a positive whole number "
            "(Optimizer steps of the whole run.)",
        ),
        (
            "    type: SampleImages\n    split: val",
            "    split: val",
            f"o.yml:8: datasets.val.type: found nothing, expected the name of a data set; {KNOWN_SETS}",
        ),
        (
            "network_g:\n  type: EDT\n  scales: [4]\n",
            "",
            "o.yml: network_g: found nothing, expected a mapping with type "
            "(Network and its constructor arguments.)",
        ),
    ],
)
def test_a_missing_key_is_located_at_its_section(change, complaints, old, new, line):
    assert complaints(change(old, new)) == [line]


def test_a_dataset_type_that_cannot_train_gives_one_line(base, complaints, tmp_path):
    (tmp_path / "lq").mkdir()
    (tmp_path / "lq" / "1.png").touch()
    text = base.replace("    type: SampleImages\n    gt", "    type: SingleImageDataset\n    gt")
    assert complaints(text, "datasets:train:dataroot_lq=lq") == [
        "o.yml:5: datasets.train.type: found 'SingleImageDataset' (text), "
        "expected a data set to train with, which this is not"
    ]


def test_a_patch_not_divisible_by_scale_names_its_divisible_neighbours(change, complaints):
    assert complaints(change("gt_size: 128", "gt_size: 130")) == [
        "o.yml:6: datasets.train.gt_size: found 130, which is not divisible by scale 4, "
        "expected a multiple of 4; use 128 or 132"
    ]


def test_stage_lists_of_different_length_give_one_line(change, complaints):
    lists = "gt_size: 128\n    mini_batch_sizes: [4, 2]\n    iters: [50, 50]\n    gt_sizes: [64, 96, 128]"
    assert complaints(change("gt_size: 128", lists)) == [
        "o.yml:7: datasets.train.mini_batch_sizes: found 2 mini_batch_sizes, 2 iters, 3 gt_sizes, "
        "expected as many of each: one a stage"
    ]


def test_stage_iterations_that_sum_to_something_else_give_one_line_with_both_numbers(change, complaints):
    stages = f"stages: [{STAGE.format(20, 32)}, {STAGE.format(70, 64)}]"
    assert complaints(change("gt_size: 128\n    batch_size_per_gpu: 4", stages)) == [
        "o.yml:6: datasets.train.stages: found stages of 90 iterations in all (20 + 70), "
        "expected the 100 of train.total_iter; set train.total_iter to 90 or change the stages"
    ]


def test_a_missing_folder_says_what_was_expected_and_which_script_prepares_it(base, complaints, tmp_path):
    text = base.replace("    type: SampleImages\n    gt", "    type: PairedImageDataset\n    gt")
    text = text.replace(
        "    gt_size", "    dataroot_gt: hr\n    dataroot_lq: lr\n    filename_tmpl: '{}x4'\n    gt_size"
    )
    assert complaints(text) == [
        f"o.yml:6: datasets.train.dataroot_gt: found 'hr' ({tmp_path}/hr does not exist), expected a folder "
        "of images such as 0001.png; 'python scripts/download_data.py' fetches published sets; "
        "datasets/README.md shows the layout of all",
        f"o.yml:7: datasets.train.dataroot_lq: found 'lr' ({tmp_path}/lr does not exist), expected a folder "
        "of images such as 0001x4.png for the ground truth's 0001.png; "
        "'python scripts/make_lr.py' makes it from the ground truth; "
        "left out, LQ is made on the fly",
    ]


def test_a_duplicate_key_names_both_lines(change, complaints):
    assert complaints(change("    lr: 2e-4", "    lr: 2e-4\n    lr: 1e-4")) == [
        "o.yml:19: train.optim_g.lr: found 'lr' a second time (first on line 18), "
        "expected each key once; delete one of them"
    ]


def test_a_section_written_twice_is_one_mistake(base, complaints):
    assert complaints(base + "train:\n  ema_decay: 0.5\n") == [
        "o.yml:24: train: found 'train' a second time (first on line 14), "
        "expected each key once; delete one of them"
    ]


@pytest.mark.parametrize(("old", "line"), [("  total_iter", 15), ("    lr:", 18), ("scale:", 2)])
def test_a_tab_gives_one_line(change, complaints, old, line):
    assert complaints(change(old, f"\t{old}")) == [
        f"o.yml:{line}: found a tab, expected spaces; YAML is indented with spaces only"
    ]


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n", "~\n"])
def test_an_empty_file_gives_one_line(complaints, text):
    assert complaints(text) == [
        "o.yml: found an empty file, expected a mapping with name, datasets, network_g, …; "
        "see the examples in options/"
    ]


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "5\n"])
def test_a_file_that_is_no_mapping_gives_one_line(complaints, text):
    [line] = complaints(text)
    assert line.startswith("o.yml: found ")
    assert line.endswith(
        "at the top level, expected a mapping with name, datasets, network_g, …; see the examples in options/"
    )


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system ['touch ran']", "!!python/name:os.system", "!mine 5", "!!set {a}"],
)
def test_a_tag_that_would_build_an_object_is_refused_and_nothing_runs(base, complaints, tmp_path, tag):
    [line] = complaints(base.replace("lr: 2e-4", f"lr: {tag}"))
    assert line.startswith(
        f"o.yml:18: train.optim_g.lr: found the tag '{tag.split()[0]}', expected plain values"
    )
    assert not (tmp_path / "ran").exists()


def test_an_override_of_an_unknown_key_gives_one_line_with_the_nearest_key(base, complaints):
    assert complaints(base, "train:optim_g:Lr=1e-3", "train:totaliter=5") == [
        "--force_yml train:totaliter: train.totaliter: found an unknown key, expected a key of train; "
        "did you mean 'total_iter'?",
        "--force_yml train:optim_g:Lr: train.optim_g.Lr: found an unknown key, expected an argument of Adam; "
        "did you mean 'lr'?",
    ]
    assert complaints(base, "tran:total_iter=5") == [
        "--force_yml tran:total_iter: tran: found an unknown key, expected a key of the option file; "
        "did you mean 'train'?"
    ]


def test_all_problems_of_a_file_are_reported_together_in_file_order(base, complaints):
    text = base.replace("scale: 4", "scale: 4\nmanual_sed: 1")
    text = text.replace("gt_size: 128", "gt_size: 130").replace("split: val", "split: tain")
    text = text.replace("lr: 2e-4", "lr: 2e-4x\n    lr: 2e-4y")
    text = text.replace("total_iter: 100", "total_itr: 100\n  warmup_iter: 200")
    text += "path:\n  pretrain_network_g: weights.pth\n"
    lines = complaints(text.replace("val_freq: 50", "val_freq: 50\n  tile: 16"), "train:amp=fp8")
    assert [line.split(": found ")[0] for line in lines] == [
        "o.yml:3: manual_sed",
        "o.yml:7: datasets.train.gt_size",
        "o.yml:11: datasets.val.split",
        "o.yml:16: train.total_itr",
        "o.yml:17: train.warmup_iter",
        "o.yml:21: train.optim_g.lr",
        "o.yml:21: train.optim_g.lr",
        "o.yml:23: val.tile_overlap",
        "o.yml:29: path.pretrain_network_g",
        "--force_yml train:amp: train.amp",
    ]


def test_problems_never_break_lines_nor_write_control_sequences(base, complaints):
    [line] = complaints(base + '"a\\nb\\e[31m": 1\n')
    assert line.startswith("o.yml:24: a b\\x1b[31m: found an unknown key")
