"""Ranks, processes and devices: the only module that asks which rank this is.

One process or many is the same program: torchrun, SLURM or nobody sets the environment variables, and
:func:`start` reads them. CPU runs use gloo, GPU runs nccl.
"""

from __future__ import annotations

import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..config import Problem
from ..config.schema import Dist

Launcher = Literal["none", "pytorch", "slurm"]
_DEFAULT_PORT = 29500
_CPU = torch.device("cpu")
_TOLD_EVERY = 60.0
_NO_LIMIT = timedelta(days=365)


class LaunchError(RuntimeError):
    """The processes were not started as the command line says."""


@dataclass(frozen=True)
class World:
    """This process among all processes of the run.

    Attributes:
        rank: of this process.
        size: number of processes.
        device: of this process.
        store: what all processes can read and write.
        patient: the processes as a group whose exchanges take as long as they take.
        limit: seconds that :meth:`wait_for_all` waits; ``None``: for ever.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU
    store: distributed.Store | None = None
    patient: distributed.ProcessGroup | None = None
    limit: float | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return every rank's ``value`` (any picklable object) in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return the elementwise mean of a tensor over all ranks."""
        if self.size > 1:
            values = values.clone()
            distributed.all_reduce(values)
            values /= self.size
        return values

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank the first one's tensors, in place."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, src=0)

    def wait_for_all(self, doing: str) -> None:
        """Wait until every rank has got here, however long it takes, and say every minute which have not.

        To be called before an exchange of values for which ranks may be ready at very different times.

        Args:
            doing: what they do until they get here, for messages; another one at each call.

        Raises:
            LaunchError: ``dist_params.preparation_timeout`` has passed.
            RuntimeError: a rank is gone.
        """
        if self.store is None or self.patient is None:
            return
        self.raise_flag(f"{doing}/{self.rank}")
        # Unlike the store, gloo notices when a process is gone.
        meeting: Any = distributed.all_reduce(torch.zeros(1), group=self.patient, async_op=True)
        started = time.monotonic()
        pause, told = 0.001, 0.0
        while not meeting.is_completed():
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
            waited = time.monotonic() - started
            if self.limit is not None and waited > self.limit:
                late = _list(self._missing(doing))
                raise LaunchError(
                    f"rank {late} was still {doing} after {self.limit / 60:g} minutes, the "
                    "dist_params.preparation_timeout"
                )
            if waited - told > _TOLD_EVERY:
                told, late = waited, self._missing(doing)
                # The first of those that wait says so: the log is that of rank 0, which may be the late one.
                if self.rank == next((rank for rank in range(self.size) if rank not in late), 0):
                    words = f"Waiting for rank {_list(late)}, which is still {doing}"
                    print(f"{words} ({timedelta(seconds=round(waited))})", file=sys.stderr, flush=True)
        meeting.wait()

    def _missing(self, doing: str) -> list[int]:
        return [rank for rank in range(self.size) if not self.flag_is_raised(f"{doing}/{rank}")]

    def raise_flag(self, name: str) -> None:
        """Let all ranks know something, for the rest of the run, without waiting for them."""
        if self.store is not None:
            self.store.set(f"flag/{name}", "")

    def flag_is_raised(self, name: str) -> bool:
        """Say whether a rank has raised a flag; it costs a message to the process that keeps the flags."""
        return self.store is not None and self.store.check([f"flag/{name}"])

    def parallel(self, network: nn.Module, find_unused_parameters: bool) -> DistributedDataParallel:
        """Return ``network`` averaging its gradients over all ranks."""
        device_ids = [self.device.index] if self.device.type == "cuda" else None
        # Gradients of depthwise convolutions come channels-last; copying these few values costs nothing.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        return DistributedDataParallel(
            network,
            device_ids=device_ids,
            find_unused_parameters=find_unused_parameters,
            gradient_as_bucket_view=True,
        )


def _list(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))


def device_problems(num_gpu: int | str, launcher: Launcher) -> list[Problem]:
    """Return what is wrong with ``num_gpu`` on this machine, with this number of processes."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if not isinstance(num_gpu, int) or num_gpu == 0:
        return []
    if not torch.cuda.is_available():
        return [
            Problem("num_gpu", str(num_gpu), "CUDA devices (this machine has none)", "use 0 for CPU, or auto")
        ]
    if num_gpu != processes:
        return [
            Problem(
                "num_gpu",
                str(num_gpu),
                f"the number of processes, which is {processes}",
                f"start with torchrun --nproc_per_node={num_gpu}, or set num_gpu: auto",
            )
        ]
    return []


@contextmanager
def start(num_gpu: int | str, launcher: Launcher, dist: Dist) -> Iterator[World]:
    """Join the run's processes and yield this one's :class:`World`.

    Args:
        num_gpu: 0 runs on the CPU, anything else on the GPU of the local rank where there is one.
        launcher: ``pytorch`` insists on torchrun's variables; the others take them if they are set.
        dist: backend, where the option file names it.

    Raises:
        LaunchError: ``launcher`` is ``pytorch`` but its variables are not set.
    """
    if launcher == "pytorch" and "WORLD_SIZE" not in os.environ:
        raise LaunchError("--launcher pytorch: start with 'torchrun --nproc_per_node=N train.py …'")
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if num_gpu != 0 and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if size == 1:
        yield World(device=device)
        return
    # Signals and checkpoints exchange a few values in host memory, gradients go by the GPUs' own links.
    backend = "gloo" if device.type == "cpu" or dist.backend == "gloo" else "cpu:gloo,cuda:nccl"
    store, rank, size = next(distributed.rendezvous("env://"))
    # torchrun may hand a restarted run the store of the failed attempt, with addresses nobody answers at.
    attempt = distributed.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    distributed.init_process_group(
        backend,
        store=attempt,
        rank=rank,
        world_size=size,
        timeout=None if dist.timeout is None else timedelta(minutes=dist.timeout),
    )
    patient: Any = distributed.new_group(backend="gloo", timeout=_NO_LIMIT)
    limit = None if dist.preparation_timeout is None else 60 * dist.preparation_timeout
    try:
        yield World(rank, size, device, attempt, patient, limit)
    finally:
        distributed.destroy_process_group()


def world_size() -> int:
    """Return the number of processes of the run, before they have joined."""
    return int(os.environ.get("WORLD_SIZE", 1))


def restarted() -> bool:
    """Say whether torchrun (``--max-restarts``) or SLURM (requeue) has started this run before."""
    counts = (os.environ.get(name, "0") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return any(count.isdigit() and int(count) > 0 for count in counts)


def is_peer_failure(error: BaseException) -> bool:
    """Say whether ``error`` only reports that another rank is gone; that rank says why."""
    if isinstance(error, distributed.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error) and "onnection" in str(error)


def is_main_process() -> bool:
    """Say whether this is rank 0, before the processes have joined."""
    return int(os.environ.get("RANK", 0)) == 0


def adopt_slurm_variables(launcher: Launcher, port: int | None) -> None:
    """Translate SLURM's variables into torchrun's, which all else reads.

    Args:
        launcher: ``slurm``; without effect for others.
        port: of the first node; ``None``: torch's usual one.

    Raises:
        LaunchError: the variables are not set.
    """
    if launcher != "slurm" or "RANK" in os.environ:
        return
    try:
        slurm = {name: os.environ[name] for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")}
        nodes = os.environ["SLURM_NODELIST"]
    except KeyError as missing:
        raise LaunchError(f"--launcher slurm: {missing.args[0]} is not set; start with srun") from None
    os.environ["RANK"] = slurm["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = slurm["SLURM_NTASKS"]
    os.environ["LOCAL_RANK"] = slurm["SLURM_LOCALID"]
    os.environ.setdefault("MASTER_ADDR", first_slurm_node(nodes))
    os.environ.setdefault("MASTER_PORT", str(port or _DEFAULT_PORT))


def first_slurm_node(nodelist: str) -> str:
    """Return the first host of SLURM's compact list: ``rack[1-2]gpu[03-07],login`` gives ``rack1gpu03``."""
    match = re.match(r"(?:[^\[\],]|\[\w[^\]]*\])+", nodelist)
    if match is None:
        raise LaunchError(f"SLURM_NODELIST names no host: {nodelist!r}")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", match[0])
