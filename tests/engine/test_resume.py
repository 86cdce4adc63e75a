"""What a resumed run keeps of the run it continues, and what it takes from the option file."""

import pytest
from helpers import tiny_options

from basicsr_ext import load_options, train
from basicsr_ext.engine.build import build_parts
from basicsr_ext.engine.checkpoint import Checkpointer
from basicsr_ext.engine.distributed import World
from basicsr_ext.engine.trainer import Trainer


@pytest.fixture
def options(tmp_path):
    return tiny_options(tmp_path / "run")


@pytest.fixture
def trained(options, tmp_path):
    """Return the checkpoint at iteration 4 of a finished run of one process."""
    train(load_options(options))
    return Checkpointer(tmp_path / "run").load(4)


def resumed(options, checkpoint):
    options = load_options(options)
    return Trainer(options, build_parts(options, 1, training=True), World(), checkpoint)


def batches(trainer):
    return [stage.batch_size for stage in trainer.stages]


def test_every_further_resume_keeps_the_batch_that_two_ranks_began_with(options, trained):
    trained.state["global_batches"] = [8, 4, 4]  # two ranks, as the option file asks for 4, 2, 2 each
    trained.state["random"] *= 2
    first = resumed(options, trained)
    assert batches(first) == [8, 4, 4]
    first.train()
    assert batches(resumed(options, Checkpointer(first.folder).load(8))) == [8, 4, 4]


def test_a_batch_size_changed_in_the_option_file_is_what_a_resumed_run_takes(options, trained):
    options["datasets"]["train"]["stages"][2]["batch_size_per_gpu"] = 3
    assert batches(resumed(options, trained)) == [4, 2, 3]
    trained.state["global_batches"] = [8, 4, 4]
    assert batches(resumed(options, trained)) == [8, 4, 3]
