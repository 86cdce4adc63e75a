"""Several ranks resume with the same bits, and keep what they train with: real processes."""

import pytest
import torch
from helpers import tiny_options

from basicsr_ext.engine.checkpoint import Checkpointer


def forget(folder, iteration):
    """Remove a checkpoint, as if the run had ended before it."""
    for name in (
        f"models/net_g_{iteration}.pth",
        f"training_states/{iteration}.json",
        f"training_states/{iteration}.state",
    ):
        (folder / name).unlink()


@pytest.mark.parametrize("ranks", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_of_several_ranks_resumes_with_the_same_bits(tmp_path, train_command, ranks):
    options = tiny_options(tmp_path, grad_accum=2)
    options["network_g"]["drop_path_rate"] = 0.5
    done = train_command(options, ranks=ranks)
    assert done.returncode == 0, done.stderr
    whole = Checkpointer(tmp_path).load(8).networks["net_g"]
    forget(tmp_path, 8)
    resumed = train_command(options, "--auto_resume", ranks=ranks)
    assert "iterations 5 to 8" in resumed.stdout, resumed.stderr
    found = Checkpointer(tmp_path).load(8).networks["net_g"]
    differing = [
        f"{part}.{name}"
        for part, values in whole.items()
        for name, value in values.items()
        if not torch.equal(found[part][name], value)
    ]
    assert not differing
