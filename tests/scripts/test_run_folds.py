"""``scripts/run_folds.py`` trains each fold once, goes on where it was stopped, and writes one table."""

from __future__ import annotations

import json
import signal
import sys
from statistics import mean, stdev

import pytest
import run_folds
import yaml
from _command import CommandError
from helpers import run_command

from basicsr_ext.config import load_options
from basicsr_ext.data.phantoms import make_phantom
from basicsr_ext.data.volumes import write_nifti

SHAPE = (6, 24, 24)


def options(folder):
    dataset = {
        "type": "FewShotVolumes",
        "dataroot": str(folder / "volumes"),
        "classes": ["liver", "kidneys", "spleen"],
        "supervoxels": "supervoxels_9",
        "folds": 2,
    }
    return {
        "name": "small",
        "model_type": "FewShotModel",
        "num_gpu": 0,
        "manual_seed": 3,
        "datasets": {
            "train": {
                **dataset,
                "gt_size": 16,
                "batch_size_total": 1,
                "num_worker_per_gpu": 0,
                "min_size": 9,
            },
            "val": {**dataset, "name": "patients", "organs": ["liver", "spleen"]},
        },
        "network_g": {"type": "CATNet", "backbone": "resnet18", "stages": 2, "dim": 8, "blocks": 1},
        "path": {"experiments_root": str(folder)},
        "train": {"total_iter": 2, "optim_g": {"type": "SGD", "lr": 1e-2}},
        "val": {
            "val_freq": 2,
            "metrics": {"dice": {"type": "Dice"}, "dice_spleen": {"type": "Dice", "organ": "spleen"}},
        },
        "logger": {"print_freq": 1, "save_checkpoint_freq": 1, "use_tb_logger": False},
    }


@pytest.fixture
def written(tmp_path):
    """An option file for five small patients in two folds."""
    pytest.importorskip("nibabel")
    for number in range(5):
        image, label = make_phantom(1, number, SHAPE)
        for kind, voxels in (("image_", image), ("label_", label), ("supervoxels_9/super_", label + 1)):
            write_nifti(tmp_path / f"volumes/{kind}{number}.nii.gz", voxels.astype("float32"))
    file = tmp_path / "options.yml"
    file.write_text(yaml.safe_dump(options(tmp_path)))
    return file


def scores_of(folder, fold):
    lines = [
        json.loads(line) for line in (folder / f"small_fold{fold}/metrics.jsonl").read_text().splitlines()
    ]
    return [line for line in lines if line["kind"] == "val/patients"]


@pytest.mark.slow
def test_each_fold_is_trained_once_and_all_are_in_the_table(written):
    folder = written.parent
    command = [sys.executable, "scripts/run_folds.py", "-opt", written, "--force_yml", "train:total_iter=1"]
    first = run_command(*command)
    assert first.returncode == 0, first.stderr
    again = run_command(*command)
    assert again.stdout.count("has ended before") == 2
    assert again.stdout.splitlines()[2:] == first.stdout.splitlines()[-len(again.stdout.splitlines()) + 2 :]
    for fold in (0, 1):
        trained = yaml.safe_load((folder / f"small_fold{fold}/small_fold{fold}.yml").read_text())
        assert trained["datasets"]["train"]["fold"] == trained["datasets"]["val"]["fold"] == fold
    found = [scores_of(folder, fold)[-1]["dice_spleen"] for fold in (0, 1)]
    entries = {entry["score"]: entry for entry in json.loads((folder / "small_folds.json").read_text())}
    assert entries["dice_spleen"]["folds"] == {"0": found[0], "1": found[1]}
    assert entries["dice_spleen"]["mean"] == pytest.approx(mean(found))
    assert entries["dice_spleen"]["deviation"] == pytest.approx(stdev(found))
    assert "| dice_spleen |" in (folder / "small_folds.md").read_text()


def test_a_fold_counts_as_ended_at_its_last_iteration_only(written):
    folder = written.parent / "small_fold0"
    read = load_options(written)
    assert run_folds.last_scores(read, "small_fold0") is None
    (folder / "models").mkdir(parents=True)
    lines = [
        {"iteration": iteration, "kind": kind, "dice": iteration / 10}
        for iteration, kind in ((1, "val/patients"), (2, "train"), (2, "val/patients"))
    ]
    for count, expected in ((2, None), (3, {"patients": {"dice": 0.2}})):
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:count]))
        assert run_folds.last_scores(read, "small_fold0") is None
        (folder / "models/net_g_latest.pth").touch()
        assert run_folds.last_scores(read, "small_fold0") == expected
        (folder / "models/net_g_latest.pth").unlink()


def test_the_table_has_a_row_a_score_and_names_sets_where_there_are_several():
    results = {0: {"a": {"dice": 0.5}}, 2: {"a": {"dice": 0.7}, "b": {"dice": 0.1}}}
    lines = run_folds.table(results).splitlines()
    assert lines[0] == "| score | fold 0 | fold 2 | mean | deviation |"
    assert lines[2:] == [
        "| a: dice | 0.5000 | 0.7000 | 0.6000 | 0.1414 |",
        "| b: dice |  | 0.1000 | 0.1000 |  |",
    ]


@pytest.mark.parametrize(
    ("launcher", "first"),
    [
        ("none", [sys.executable]),
        ("slurm", ["srun", sys.executable]),
        ("pytorch", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]),
    ],
)
def test_a_run_is_started_as_its_launcher_does(launcher, first):
    assert run_folds.launched(launcher, 2) == first


def test_a_failing_fold_ends_the_command_and_is_named(written, monkeypatch):
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    monkeypatch.setattr(run_folds, "launched", lambda launcher, processes: failing)
    with pytest.raises(CommandError, match="small_fold1 ended with exit code 3; the same command goes on"):
        run_folds.main(["-opt", str(written), "--folds", "1"])


def test_a_signal_reaches_the_fold_that_trains(written, monkeypatch):
    # It tells this process to stop, as a scheduler would, and waits to be told so itself.
    waiting = "import os, signal; os.kill(os.getppid(), signal.SIGTERM); signal.sigwait([signal.SIGTERM]);"
    block = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]);"
    child = f"import signal; {block} {waiting} raise SystemExit(75)"
    monkeypatch.setattr(run_folds, "launched", lambda launcher, processes: [sys.executable, "-c", child])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(CommandError, match="small_fold0 ended with exit code 75"):
        run_folds.main(["-opt", str(written)])
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folds", "2"], "--folds: found 2, expected 0 to 1"),
        (["--force_yml", "datasets:val:folds=3"], "data sets differ in their folds"),
        (["--force_yml", "datasets:val={type: PhantomVolumes}"], "validation set with folds are needed"),
        (["--force_yml", "train:total_itr=4"], "total_itr"),
    ],
)
def test_options_without_folds_are_refused(written, arguments, message):
    with pytest.raises(CommandError, match=message):
        run_folds.main(["-opt", str(written), *arguments])
