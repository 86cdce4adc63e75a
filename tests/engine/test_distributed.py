"""Which processes and devices a run has, as far as one process can tell."""

import os

import pytest
import torch
from torch import distributed

from basicsr_ext.config.schema import Dist
from basicsr_ext.engine.distributed import (
    LaunchError,
    World,
    adopt_slurm_variables,
    device_problems,
    is_main_process,
    is_peer_failure,
    restarted,
    start,
    world_size,
)

SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODELIST": "gpu[03-04]"}
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets variables; none of a launcher is set before, or stays afterwards."""
    for name in (*LAUNCHED, *SLURM, "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def change(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return change


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that pretends a number of GPUs, and gives the list of those that were chosen."""

    def pretend(number):
        chosen = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    return pretend


@pytest.mark.parametrize(
    ("num_gpu", "there", "processes", "expected"),
    [
        (0, 0, 2, None),
        ("auto", 0, 2, None),
        (1, 0, 1, "CUDA devices (this machine has none)"),
        (2, 8, 2, None),
        (2, 8, 1, "the number of processes, which is 1"),
        (1, 8, 2, "the number of processes, which is 2"),
    ],
)
def test_num_gpu_has_to_be_the_number_of_processes(environment, gpus, num_gpu, there, processes, expected):
    environment(WORLD_SIZE=str(processes))
    gpus(there)
    problems = device_problems(num_gpu, "none")
    assert [problem.expected for problem in problems] == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("num_gpu", "there", "local", "device"),
    [
        (0, 4, "1", "cpu"),
        ("auto", 0, "1", "cpu"),
        ("auto", 4, "1", "cuda:1"),
        (1, 4, None, "cuda:0"),
        ("auto", 2, "5", "cuda:1"),  # each process sees the GPUs of its node alone
    ],
)
def test_a_process_takes_the_gpu_of_its_place_on_the_machine(
    environment, gpus, num_gpu, there, local, device
):
    environment(**({} if local is None else {"LOCAL_RANK": local}))
    chosen = gpus(there)
    with start(num_gpu, "none", Dist()) as world:
        assert (world.rank, world.size, world.is_main, str(world.device)) == (0, 1, True, device)
    assert list(map(str, chosen)) == [device] * (device != "cpu")


def test_one_process_exchanges_nothing():
    world, values = World(), torch.tensor([1.0, 2.0])
    assert world.gather("mine") == ["mine"]
    assert torch.equal(world.mean(values), values)
    world.broadcast([values])
    world.wait_for_all("reading")
    world.raise_flag("stop")
    assert not world.flag_is_raised("stop")


def test_flags_are_seen_by_all_ranks():
    store = distributed.HashStore()
    one, other = World(0, 2, store=store), World(1, 2, store=store)
    one.raise_flag("stop")
    assert other.flag_is_raised("stop")
    assert not other.flag_is_raised("save")


def test_torchruns_variables_are_insisted_on(environment):
    with pytest.raises(LaunchError, match=r"--launcher pytorch: start with 'torchrun"):
        start(0, "pytorch", Dist()).__enter__()


@pytest.mark.parametrize(("port", "expected"), [(None, "29500"), (12345, "12345")])
def test_slurms_variables_become_torchruns(environment, port, expected):
    environment(**SLURM)
    adopt_slurm_variables("slurm", port)
    assert [os.environ[name] for name in LAUNCHED] == ["3", "8", "1", "gpu03", expected]
    assert world_size() == 8
    assert not is_main_process()


def test_address_and_port_may_be_given_to_slurm(environment):
    environment(**SLURM, MASTER_ADDR="10.0.0.1", MASTER_PORT="777")
    adopt_slurm_variables("slurm", 12345)
    assert [os.environ[name] for name in LAUNCHED] == ["3", "8", "1", "10.0.0.1", "777"]


@pytest.mark.parametrize(("launcher", "others"), [("none", {}), ("pytorch", {}), ("slurm", {"RANK": "0"})])
def test_slurms_variables_stay_out_of_other_launchers_ways(environment, launcher, others):
    environment(**SLURM, **others)
    adopt_slurm_variables(launcher, None)
    assert "WORLD_SIZE" not in os.environ
    assert world_size() == 1
    assert is_main_process()


def test_a_variable_that_slurm_has_not_set_is_named(environment):
    environment(**{name: value for name, value in SLURM.items() if name != "SLURM_NTASKS"})
    with pytest.raises(LaunchError, match="SLURM_NTASKS is not set; start with srun"):
        adopt_slurm_variables("slurm", None)


def test_a_list_of_no_host_is_refused(environment):
    environment(**SLURM | {"SLURM_NODELIST": "]"})
    with pytest.raises(LaunchError, match="names no host: ']'"):
        adopt_slurm_variables("slurm", None)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"TORCHELASTIC_RESTART_COUNT": "0", "SLURM_RESTART_COUNT": "0"}, False),
        ({"TORCHELASTIC_RESTART_COUNT": "1"}, True),
        ({"SLURM_RESTART_COUNT": "2"}, True),
        ({"SLURM_RESTART_COUNT": ""}, False),
    ],
)
def test_a_restarted_run_is_known(environment, variables, expected):
    environment(**variables)
    assert restarted() is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (distributed.DistBackendError("nccl"), True),
        (RuntimeError("[gloo/transport/tcp] Connection closed by peer"), True),
        (RuntimeError("[gloo] something else"), False),
        (RuntimeError("Connection refused"), False),
        (ValueError("gloo: Connection closed"), False),
    ],
)
def test_errors_that_only_tell_of_another_rank_are_known(error, expected):
    assert is_peer_failure(error) is expected
