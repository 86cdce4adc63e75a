"""What the commands call: train, test and check one option file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

import torch

from ..config import OptionError, Options, Problem
from ..config.schema import Train
from ..files import write_atomically
from ..models import MODELS
from .agreement import require_agreement
from .build import Parts, build_kind, build_parts
from .distributed import (
    Launcher,
    World,
    adopt_slurm_variables,
    device_problems,
    is_main_process,
    restarted,
    start,
    world_size,
)
from .experiment import result_folder, run_folder, starting_point
from .history import recorded
from .lock import FolderInUseError, locked
from .logger import LOG, log_to_console
from .precision import choose_algorithms
from .preflight.rehearsal import rehearse
from .preflight.summary import print_check, print_scores
from .resume import resume_problems
from .step import TrainingStep
from .trainer import Summary, Trainer
from .validator import Validator


def train(options: Options, launcher: Launcher = "none", auto_resume: bool = False) -> Summary:
    """Train as ``options`` says, in this process or as one rank of many.

    Args:
        options: see :func:`basicsr_ext.load_options`.
        launcher: ``slurm`` takes rank and address from SLURM's variables.
        auto_resume: continue from the run's newest intact checkpoint, if there is one; else as without it.
            Implied when torchrun or SLURM has restarted the run.

    Returns:
        Last losses, best scores and the run's folder.

    Raises:
        OptionError: something does not fit; nothing has been written then.
        NonFiniteError: a loss or gradient was not finite and ``train.nan_policy`` is ``stop``.
        StoppedError: a signal asked for it; a checkpoint has been written.
        OSError: a checkpoint could not be written; earlier ones are intact.
        StepError: memory ran out, or an operator has no deterministic version and
            ``train.deterministic`` asks for one.
    """
    train_options = _require_training(options)
    adopt_slurm_variables(launcher, options.dist_params.port)
    log_to_console(is_main_process())
    problems = [*device_problems(options.num_gpu, launcher), *_logger_problems(options)]
    if problems:
        raise OptionError(problems, options.source)
    auto_resume = auto_resume or restarted()
    with start(options.num_gpu, launcher, options.dist_params) as world, _folder_to_itself(options, world):
        choose_algorithms(train_options.deterministic)
        checkpoint, warnings, problems = starting_point(options, auto_resume)
        if checkpoint is not None:
            problems += resume_problems(options, checkpoint)
        for warning in warnings:
            LOG.warning("Fell back to an older checkpoint: %s", warning)
        parts = _build_everywhere(options, world, problems, training=True)
        require_agreement(options, parts, checkpoint, world)
        trainer = Trainer(options, parts, world, checkpoint)
        if world.is_main:
            if checkpoint is not None and not auto_resume:
                aside = trainer.checkpointer.set_newer_aside(checkpoint.iteration)
                if aside is not None:
                    LOG.warning(
                        "The run goes back to iteration %d; its newer checkpoints are in %s now",
                        checkpoint.iteration,
                        aside,
                    )
            write_atomically(run_folder(options) / f"{options.name}.yml", options.to_yaml().encode())
        LOG.info(
            "%s: iterations %d to %d on %s, %d process(es)",
            options.name,
            trainer.iteration + 1,
            trainer.train_options.total_iter,
            world.device,
            world.size,
        )
        with recorded(trainer) if world.is_main else nullcontext():
            summary = trainer.train()
        LOG.info("Finished; results are in %s", summary.folder)
        if world.is_main and options.logger.report:
            _report(summary.folder)
        return summary


def _report(folder: Path) -> None:
    """Write the report of a finished run; what goes wrong is said in one line."""
    try:
        from ..report import write_report

        write_report([folder], folder / "report.html")
    except Exception as error:  # nothing may fail a training that has succeeded
        LOG.warning("The report could not be written: %s", " ".join(str(error).split()))


def _logger_problems(options: Options) -> list[Problem]:
    """Return what keeps a run from being logged as asked for."""
    wandb = options.logger.wandb
    if wandb is None or not wandb.project or find_spec("wandb") is not None:
        return []
    found, fix = f"{wandb.project!r} without the package wandb", "pip install wandb, or logger:wandb=~"
    return [Problem("logger.wandb.project", found, "it installed, or no project", fix)]


def test(
    options: Options, launcher: Launcher = "none", task: str | None = None
) -> dict[str, dict[str, float]]:
    """Evaluate ``path.pretrain_network_g`` on the ``test`` sets, or the ``val`` sets where there are none.

    Args:
        options: see :func:`basicsr_ext.load_options`.
        launcher: ``slurm`` takes rank and address from SLURM's variables.
        task: of options with several, evaluate this one alone.

    Returns:
        ``{data set: {metric: value}}``; for super-resolution with ``bicubic_<metric>`` of the enlarged input.

    Raises:
        OptionError: something does not fit.
    """
    if task is not None:
        options = MODELS.find(options.model_type).for_task(options, task)  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
    adopt_slurm_variables(launcher, options.dist_params.port)
    log_to_console(is_main_process())
    problems = device_problems(options.num_gpu, launcher)
    if options.path.pretrain_network_g is None:
        expected = "the weights to evaluate, such as experiments/NAME/models/net_g_latest.pth"
        problems.append(Problem("path.pretrain_network_g", "nothing", expected))
    with start(options.num_gpu, launcher, options.dist_params) as world:
        parts = _build_everywhere(options, world, problems, training=False)
        kind = build_kind(options, parts.networks, world.device)
        validator = Validator(options.val, kind, parts.eval_sets, world, result_folder(options))
        results = validator.run(kind.networks, options.name)
        if world.is_main:
            print_scores(results)
    return {name: result.flat() for name, result in results.items()}


def check(options: Options) -> bool:
    """Build everything ``options`` names, print what the run will be, and train nothing.

    Returns:
        Whether the run can be started here, as far as it could be tried.

    Raises:
        OptionError: something does not fit.
    """
    train_options = _require_training(options)
    log_to_console(True)
    ranks = options.num_gpu if isinstance(options.num_gpu, int) and options.num_gpu > 0 else world_size()
    if options.num_gpu == "auto" and torch.cuda.is_available():
        ranks = torch.cuda.device_count()
    parts = build_parts(options, ranks, training=True)
    device = torch.device("cuda" if options.num_gpu != 0 and torch.cuda.is_available() else "cpu")
    kind = TrainingStep(options, parts.networks, World(device=device), len(parts.stages)).kind
    rehearse(options, kind, parts.train_set, parts.stages, train_options.channels_last)
    # What stayed on the device would count as memory of the iteration that is tried next.
    for network in parts.networks.values():
        network.cpu()
    return print_check(options, kind, parts, ranks, device)


def _require_training(options: Options) -> Train:
    if options.train is None or options.datasets.train is None:
        problem = Problem(
            "", "no train section or no datasets.train", "both", "use test.py to evaluate weights"
        )
        raise OptionError([problem], options.source)
    return options.train


@contextmanager
def _folder_to_itself(options: Options, world: World) -> Iterator[None]:
    """Lock the run's folder on the first rank; where that cannot be, all ranks say so."""
    folder, problem = run_folder(options), None
    with ExitStack() as stack:
        if world.is_main:
            try:
                stack.enter_context(locked(folder))
            except FolderInUseError as error:
                found = f"{folder}, in which {error} is training"
                fix = "wait for its end, stop it, or choose another name"
                problem = Problem("name", found, "a folder that no other run uses", fix)
            except OSError as error:
                problem = Problem("path.experiments_root", str(error), "a folder that can be written to")
        if problems := [told for told in world.gather(problem) if told is not None]:
            raise OptionError(problems, options.source)
        yield


def _build_everywhere(options: Options, world: World, problems: list[Problem], *, training: bool) -> Parts:
    """Build the parts on every rank; a problem on any rank is everyone's."""
    parts, own = None, problems
    try:
        parts = build_parts(options, world.size, training=training, other_problems=problems)
    except OptionError as error:
        own = error.problems
    world.wait_for_all("building networks and data sets")
    everyones = list(dict.fromkeys(problem for rank in world.gather(own) for problem in rank))
    if everyones or parts is None:
        raise OptionError(everyones, options.source)
    return parts
