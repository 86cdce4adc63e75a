"""Several ranks resume with the same bits, and keep what they train with: real processes."""

import numpy as np
import pytest
from helpers import same_bits, start_processes, start_ranks, tiny_options

from basicsr_ext import load_options, train
from basicsr_ext.data.images import write_image
from basicsr_ext.engine.checkpoint import Checkpointer


def forget(folder, iteration):
    """Remove a checkpoint, as if the run had ended before it."""
    for name in (
        f"models/net_g_{iteration}.pth",
        f"training_states/{iteration}.json",
        f"training_states/{iteration}.state",
    ):
        (folder / name).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [3, 4])
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
        if not same_bits(found[part][name], value)
    ]
    assert not differing


@pytest.mark.slow
def test_ranks_with_other_options_and_images_end_before_the_first_step(tmp_path, options_file):
    files = []
    for rank, (rate, side) in enumerate(((1e-3, 48), (1e-1, 56))):
        image = np.zeros((side, 48, 3), np.uint8)
        for name in ("a", "b") if rank else ("a",):
            write_image(tmp_path / f"images{rank}/{name}.png", image)
        options = tiny_options(tmp_path / "run", optim_g={"type": "Adam", "lr": rate})
        options["datasets"]["train"].update(
            type="PairedImageDataset", dataroot_gt=str(tmp_path / f"images{rank}")
        )
        files.append(options_file(options, f"{rank}.yml"))
    codes, (told, silent) = start_ranks(files)
    assert codes == [2, 2], told + silent
    assert "train.optim_g.lr: found 0.001 on rank 0; 0.1 on rank 1, expected the same on all ranks" in told
    images = "1 images, among them a 48x48 on rank 0; 2 images, among them a 56x48, b 56x48 on rank 1"
    assert f"datasets.train: found {images}" in told
    assert "dataroot_gt" not in told
    assert "expected" not in silent
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_evaluation_tells_the_problems_of_any_rank_once(tmp_path, options_file):
    commands = []
    for rank in range(2):
        options = tiny_options(tmp_path / "run")
        options["path"]["pretrain_network_g"] = str(tmp_path / f"{rank}.pth")
        (tmp_path / f"{rank}.pth").write_bytes(b"damaged")
        commands.append(["test.py", "-opt", str(options_file(options, f"{rank}.yml"))])
    codes, (told, silent) = start_processes(commands)
    assert codes == [2, 2], told + silent
    assert told.count("0.pth: not a checkpoint") == told.count("1.pth: not a checkpoint") == 1
    assert not silent


@pytest.mark.slow
def test_a_checkpoint_that_one_rank_alone_sees_ends_the_run_in_words(tmp_path, options_file):
    options = tiny_options(tmp_path / "run")
    train(load_options(options))
    elsewhere = tiny_options(tmp_path / "elsewhere")
    codes, (told, silent) = start_ranks(
        [options_file(options, "0.yml"), options_file(elsewhere, "1.yml")], "--auto_resume"
    )
    assert codes == [2, 2], told + silent
    assert "found the checkpoint of iteration 8 on rank 0; the beginning on rank 1" in told


WAITING = """
import sys, time
from basicsr_ext.config.schema import Dist
from basicsr_ext.engine import distributed

distributed._TOLD_EVERY = 0.2
dist = Dist(timeout=0.05, **eval(sys.argv[1]))
with distributed.start(0, "none", dist) as world:
    if world.rank == 1:
        exec(sys.argv[2])
    try:
        world.wait_for_all("reading")
        print(world.gather(world.rank))
    except RuntimeError as error:
        assert isinstance(error, distributed.LaunchError) or distributed.is_peer_failure(error), error
        print(f"{type(error).__name__}: {error}", flush=True)
        import os; os._exit(1)
"""


def waiting(options: str, meanwhile: str) -> list[str]:
    """Return what two ranks print that wait for each other, the second of which has something to do."""
    return start_processes([["-c", WAITING, options, meanwhile]] * 2)[1]


@pytest.mark.slow
def test_ranks_wait_for_a_late_one_longer_than_an_exchange_may_take_and_say_so():
    first, second = waiting("{}", "time.sleep(5)")
    *told, gathered = first.splitlines()
    assert told[0].startswith("Waiting for rank 1, which is still reading (0:00:0")
    assert gathered == second.strip() == "[0, 1]"


@pytest.mark.slow
def test_the_wait_for_a_late_rank_can_be_limited():
    first, _ = waiting("{'preparation_timeout': 0.01}", "time.sleep(3)")
    last = first.splitlines()[-1]
    assert last.startswith("LaunchError: rank 1 was still reading after 0.01 minutes, the dist_params.")


@pytest.mark.slow
def test_nobody_waits_for_a_rank_that_is_gone():
    first, _ = waiting("{}", "import os; os._exit(3)")
    assert "RuntimeError" in first.splitlines()[-1]
