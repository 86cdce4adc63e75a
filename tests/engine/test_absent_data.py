"""Runs without the validation and test sets that their option file names."""

import pytest
from helpers import tiny_options

from basicsr_ext import load_options, train
from basicsr_ext import test as evaluate
from basicsr_ext.config import OptionError
from basicsr_ext.engine.agreement import Plan, disagreements, require_agreement
from basicsr_ext.engine.build import build_parts
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.experiment import changed_options

NOWHERE = {"type": "PairedImageDataset", "name": "Set5", "dataroot_gt": "datasets/nowhere"}


def without_validation(folder):
    options = tiny_options(folder)
    options["datasets"]["val"] = NOWHERE
    options["val"]["val_freq"] = 4
    return options


def test_a_run_goes_on_without_a_validation_set(tmp_path, capsys):
    summary = train(load_options(without_validation(tmp_path / "run")))
    assert (summary.iteration, summary.best) == (8, {})
    told = capsys.readouterr().out
    assert told.count("datasets.val is left out") == told.count("no net_g_best.pth") == 1
    models = {path.name for path in (tmp_path / "run/models").iterdir()}
    assert models == {"net_g_4.pth", "net_g_8.pth", "net_g_latest.pth"}


def test_the_first_set_that_is_there_decides_what_is_best(tmp_path, capsys):
    options = without_validation(tmp_path / "run")
    options["datasets"]["val_2"] = {"type": "SampleImages", "split": "val", "name": "photos"}
    assert list(train(load_options(options)).best) == ["photos"]
    assert "no net_g_best.pth" not in capsys.readouterr().out
    assert (tmp_path / "run/models/net_g_best.pth").exists()


@pytest.mark.parametrize(
    ("sets", "missing"),
    [
        ({"val": None, "test_1": NOWHERE, "test_2": NOWHERE}, ["datasets.test_1", "datasets.test_2"]),
        # A validation set does not stand in for tests that were asked for.
        ({"test_1": NOWHERE, "val": {"type": "SampleImages"}}, ["datasets.test_1"]),
        ({"val": NOWHERE}, ["datasets.val"]),
        ({"val": None}, ["datasets: found no test set"]),
    ],
)
def test_tests_need_a_set_that_is_there(tmp_path, sets, missing):
    options = tiny_options(tmp_path)
    options["datasets"] = {"train": options["datasets"]["train"], **sets}
    with pytest.raises(OptionError) as caught:
        evaluate(load_options(options))
    weights, *lines = str(caught.value).splitlines()
    assert "pretrain_network_g" in weights
    assert len(lines) == len(missing)
    assert all(key in line for key, line in zip(missing, lines, strict=True))


def test_a_set_that_one_rank_lacks_is_one_difference():
    with_set = Plan({"name": "run", "datasets.val.type": "x"}, "the beginning", {"datasets.val": ["a 8x8"]})
    without = Plan({"name": "run"}, "the beginning", {"datasets.val": []})
    for plans in ([with_set, without], [without, with_set]):
        (problem,) = disagreements(plans)
        assert problem.key == "datasets.val"
        assert "1 images, among them a 8x8 on rank" in problem.found
        assert "0 images on rank" in problem.found


def test_sizes_that_one_rank_has_out_of_date_on_record_are_no_difference(tmp_path):
    class TwoRanks(World):
        """Their digests differ, what they find in the files does not."""

        def gather(self, value):
            return ["one", "other"] if isinstance(value, str) else [value, value]

        def wait_for_all(self, doing):
            pass

    options = load_options(tiny_options(tmp_path))
    require_agreement(options, build_parts(options, 2, training=True), None, TwoRanks(size=2))


def test_a_set_that_was_fetched_since_the_checkpoint_is_one_change(tmp_path):
    before = load_options(without_validation(tmp_path))
    now = load_options(tiny_options(tmp_path))
    lines = changed_options(before.model_dump_json(), now)
    (line,) = [line for line in lines if line.startswith("datasets")]
    assert line.startswith("datasets.val: None -> {")
    assert "None" not in line.partition("{")[2]
