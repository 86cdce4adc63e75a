"""The option file as typed data: every key that all kinds of training share, its type, default and meaning.

Keys keep BasicSR's and Restormer's names and meaning. Sections are frozen and refuse unknown keys. What an
extension adds stands beside it: a model kind extends :class:`Options`, :class:`Train` and :class:`Val`, data
sets, degradation steps and schedules register sections of their own. Where a constructor decides what is
valid (networks, losses, optimizers, metrics), extra keys are kept in :attr:`Spec.kwargs`, and
:mod:`basicsr_ext.config.signature` compares them with that constructor.

Values are taken as written: no text for numbers, no true for 1; a whole float (``!!float 5e3``) is an
integer where one is asked for. ``~`` stands for a key's default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, PrivateAttr

from ..registry import METRICS, NETWORKS, OPTIMIZERS, SCHEDULERS
from .datasets import Datasets
from .errors import Problem, SourceMap
from .facts import Facts
from .paths import ExistingFile, ResumeState
from .sections import ByType, ConstructedBy, Named, OptionMapping, Section
from .stages import StageOptions, check_stages
from .values import (
    Expect,
    FolderName,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    show,
    whole,
)
from .yaml_text import to_text


class Spec(OptionMapping):
    """A ``type`` and the keyword arguments of its constructor."""

    model_config = ConfigDict(extra="allow")
    type: str = Field(description="Registered name: ours first, then basicsr's and the plug-ins'.")

    @property
    def kwargs(self) -> dict[str, Any]:
        """Every key but ``type``, as keyword arguments."""
        return dict(self.model_extra or {})


class OptimizerSpec(Spec):
    """``train.optim_g``: a ``torch.optim`` class by name, and its arguments."""

    lr: PositiveFloat = Field(description="Base learning rate.")


NetworkSpec = Annotated[Spec, ConstructedBy(NETWORKS)]
OptimizerOptions = Annotated[OptimizerSpec, ConstructedBy(OPTIMIZERS, supplied=("params",))]
MetricSpec = Annotated[Spec, ConstructedBy(METRICS, supplied=("img", "img2"), kept=("better",))]


# --- training --------------------------------------------------------------------------------------


class Scheduler(Section):
    """A learning-rate schedule; registered ones derive from this."""

    type: str = Field(description="Registered name.")

    def rate(self, base: float, warmup_iter: int) -> Callable[[int], float]:
        """Return the function from iteration (1-based) to learning rate.

        Args:
            base: the optimizer's learning rate.
            warmup_iter: iterations of a linear warm-up, which overwrites what is returned for them; -1: none.
        """
        raise NotImplementedError


WarmUp = Annotated[
    int, Field(ge=-1), BeforeValidator(whole), Expect("a whole number from -1 up", "whole numbers from -1 up")
]
Decay = Annotated[
    float,
    Field(ge=0, lt=1),
    Expect("a number from 0 to less than 1", "numbers from 0 to less than 1"),
]


class Freeze(Section):
    """Parameters that keep their values for a while."""

    modules: str = Field(description="Name of a module or parameter, or a pattern such as 'body.*.norm*'.")
    until: PositiveInt = Field(description="The last iteration in which they stay as they are.")


class Train(Section):
    """How networks are optimised, whatever the kind of training."""

    total_iter: PositiveInt = Field(description="Optimizer steps of the whole run.")
    warmup_iter: WarmUp = Field(
        default=-1, description="Iterations of linear learning-rate warm-up; -1: none."
    )
    warmup_lr: NonNegativeFloat = Field(
        default=0.0, description="Learning rate that the warm-up rises from; for every optimizer."
    )
    ema_decay: Decay = Field(default=0.0, description="Decay of the averaged weights; 0: none kept.")
    optim_g: OptimizerOptions = Field(description="Optimizer of network_g.")
    scheduler: Annotated[Scheduler, ByType(SCHEDULERS, "a known learning-rate schedule")] | None = Field(
        default=None, description="Learning-rate schedule; none: constant."
    )
    use_grad_clip: bool = Field(default=False, description="Restormer: clip the gradient's norm at 0.01.")
    grad_clip_norm: PositiveFloat | None = Field(
        default=None, description="Clip the gradient's global norm at this value."
    )
    amp: Literal["no", "bf16", "fp16"] = Field(default="no", description="Automatic mixed precision.")
    compile: bool | Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = (
        Field(default=False, description="torch.compile, or its mode.")
    )
    compile_scope: Literal["blocks", "network"] = Field(
        default="blocks",
        description="Compile the blocks that a network repeats, which is quick, or all of it as one graph.",
    )
    filter_bias_and_norm: bool = Field(
        default=False,
        description="No weight decay of parameters with one dimension, nor of tables that the network names.",
    )
    lr_factors: dict[str, PositiveFloat] = Field(
        default_factory=dict,
        description="Factors on the learning rate by module, '{body: 0.1}'; the last that matches counts.",
    )
    freeze: list[Freeze] = Field(
        default_factory=list, description="What keeps its values at first: '[{modules: body, until: 5000}]'."
    )
    grad_accum: PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        default=1, description="Micro-batches per optimizer step; a list: one number for each stage."
    )
    channels_last: bool = Field(default=False, description="NHWC memory layout.")
    deterministic: bool = Field(default=False, description="Only deterministic algorithms.")
    nan_policy: Literal["stop", "skip"] = Field(
        default="stop", description="What a non-finite loss or gradient does."
    )
    rehearsal_limit: PositiveFloat = Field(
        default=300.0,
        description="Seconds for trying a sample of every stage before the run, and for an iteration that "
        "--check tries; what was not tried by then is said.",
    )

    @classmethod
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        """Compare the warm-up with the run's length."""
        warm_up, total = facts.get("train.warmup_iter", -1), facts.get("train.total_iter")
        if warm_up is not None and total is not None and warm_up >= total:
            yield Problem("train.warmup_iter", show(warm_up), f"less than train.total_iter, which is {total}")
        if facts.written("train.warmup_lr") and warm_up is not None and warm_up < 1:
            yield Problem(
                "train.warmup_lr", "it without a warm-up", "train.warmup_iter beside it", "delete it"
            )


class Val(Section):
    """Validation during training, and testing, whatever the kind of training."""

    val_freq: PositiveInt | None = Field(default=None, description="Iterations between validations.")
    at_start: bool = Field(default=False, description="Evaluate before the first iteration, too.")
    save_img: bool = Field(default=False, description="Save the pictures of every validation.")
    suffix: str | None = Field(default=None, description="Appended to saved images' names.")
    metrics: Annotated[dict[str, MetricSpec], Named()] = Field(
        default_factory=dict, description="Measures by the name they get in logs."
    )
    pbar: bool = Field(default=False, description="Show on a terminal how far an evaluation is.")


# --- the rest --------------------------------------------------------------------------------------


_EXISTING = "give the path of an existing file, or ~ for none"
UserPath = Annotated[str, AfterValidator(os.path.expanduser)]
Weights = Annotated[UserPath, ExistingFile("a file of weights, such as net_g_latest.pth", _EXISTING)]
TrainingState = Annotated[
    UserPath, ResumeState("a training state, such as training_states/5000.state", _EXISTING)
]


class Paths(Section):
    """Where weights come from and results go."""

    pretrain_network_g: Weights | None = Field(default=None, description="Weights to start from.")
    strict_load_g: bool = Field(
        default=True,
        description="Every weight must have its counterpart in the network, and the reverse; in training, "
        "tasks that the weights know nothing of begin anew all the same.",
    )
    param_key_g: str | None = Field(
        default=None,
        description="'params', which also stands in for what is missing, or 'params_ema': averaged weights.",
    )
    pretrain_tasks: list[str] | None = Field(
        default=None,
        description="EDT: tasks (sr_x4, dn_g25, dr_L) taken from a multi-task checkpoint; "
        "default: the network's own.",
    )
    resume_state: TrainingState | None = Field(
        default=None,
        description="training_states/<iter>.state to continue from; --auto_resume prefers the run's newest.",
    )
    experiments_root: UserPath | None = Field(
        default=None,
        description="Folder above the run's, which is <experiments_root>/<name>; default experiments.",
    )
    ignore_resume_networks: str | list[str] | None = Field(
        default=None, description="Accepted as in BasicSR's files; there is one network."
    )
    results_root: UserPath | None = Field(
        default=None, description="Folder above that of test results, <results_root>/<name>; default results."
    )


class Wandb(Section):
    """Weights & Biases; used when a project is named."""

    project: str | None = None
    resume_id: str | None = None


class Logger(Section):
    """What is written, and how often."""

    print_freq: PositiveInt = 100
    save_checkpoint_freq: PositiveInt = 5000
    keep_checkpoints: PositiveInt | None = Field(
        default=None, description="Newest checkpoints kept; default all."
    )
    use_tb_logger: bool = True
    report: bool = Field(default=True, description="Write report.html at the end, and what it shows before.")
    wandb: Wandb | None = None


class Dist(Section):
    """torch.distributed."""

    backend: Literal["nccl", "gloo"] | None = Field(
        default=None, description="Default: nccl on GPUs, gloo on CPU."
    )
    port: PositiveInt | None = Field(default=None, description="Rendezvous port for --launcher slurm.")
    timeout: PositiveFloat | None = Field(
        default=None,
        description="Minutes that a rank waits for another one while training and validating; "
        "default: torch's, 30 with gloo and 10 with nccl.",
    )
    preparation_timeout: PositiveFloat | None = Field(
        default=None,
        description="Minutes that ranks wait for one another before the first iteration, such as for one "
        "that still reads its images; default: no limit.",
    )


@dataclass(frozen=True)
class Written:
    """What options were read from. All are equal: options that say the same compare equal."""

    source: SourceMap = field(default_factory=SourceMap, compare=False)
    mapping: dict[str, Any] = field(default_factory=dict, compare=False)
    absent: Mapping[str, Problem] = field(default_factory=dict, compare=False)


class Options(Section):
    """A complete description of one run; a model kind's own options derive from this."""

    restores_images: ClassVar[bool] = True
    """Whether the networks of this kind of run map images to images."""

    name: FolderName = Field(description="Name of the run and of its folder, experiments/<name>.")
    model_type: str = Field(default="RestorationModel", description="What one training step is.")
    scale: PositiveInt = Field(default=1, description="Output side over input side.")
    num_gpu: NonNegativeInt | Literal["auto"] = Field(
        default="auto", description="GPUs of the run; 0: CPU; auto: what is there."
    )
    manual_seed: NonNegativeInt = Field(default=0, description="Decides weights, data order, crops, noise.")
    plugins: list[str] = Field(
        default_factory=list, description="Modules imported before types are looked up."
    )
    datasets: Datasets
    network_g: NetworkSpec = Field(description="Network and its constructor arguments.")
    path: Paths = Paths()
    train: Train | None = None
    val: Val = Val()
    logger: Logger = Logger()
    dist_params: Dist = Dist()
    find_unused_parameters: bool = False
    suffix: str | None = Field(default=None, description="In BasicSR's older files; val.suffix is read.")
    crop_border: NonNegativeInt | None = Field(
        default=None, description="In BasicSR's older files; that of each metric is read."
    )

    _written: Written = PrivateAttr(default_factory=Written)

    @classmethod
    def relations(cls, facts: Facts, key: str) -> Iterator[Problem]:
        """Compare sections with each other: what stands beside what, and stages with the run's length."""
        yield from check_stages(facts)
        train, data = facts.written("train"), facts.written("datasets.train")
        if train and not data:
            yield Problem("datasets.train", "nothing", "a training set, as there is a train section")
        if data and not train:
            yield Problem("train", "nothing", "a train section (total_iter, optim_g, …) for datasets.train")
        if facts.valid("datasets") and not (data or list(facts.keys("datasets"))):
            yield Problem("datasets", "no data set", "train, val, val_1, test or test_1 below it")
        sets = [data for data in facts.keys("datasets") if data.split(".")[1].split("_")[0] == "val"]
        # What is removed with ~ is meant to be gone: nothing else need be removed besides.
        removed = any(name.split("_")[0] == "val" for name in facts.removed_below("datasets"))
        if facts.written("val.val_freq") and facts.valid("datasets") and not (sets or removed):
            yield Problem(
                "val.val_freq",
                f"{show(facts.get('val.val_freq'))} but no validation set",
                "datasets.val beside it",
                "add datasets.val or delete val_freq",
            )
        if sets and train and not (facts.written("val.val_freq") or facts.removed("val.val_freq")):
            yield Problem(
                "val.val_freq",
                f"nothing, though there is {sets[0]}",
                "a positive whole number (iterations between validations)",
            )

    @property
    def source(self) -> SourceMap:
        """Where each key was written, for messages."""
        return self._written.source

    def absent(self, phase: Literal["val", "test"]) -> dict[str, Problem]:
        """Return the sets of one phase that are not on this machine and were left out: what each lacks."""
        absent = self._written.absent
        return {key: problem for key, problem in absent.items() if key.split("_")[0] == phase}

    def to_mapping(self) -> dict[str, Any]:
        """Return plain data that load to equal options: the file's keys with all overrides in place."""
        return self._written.mapping or self.model_dump(exclude_unset=True)

    @property
    def dead_keys(self) -> list[str]:
        """One line for each key of the file that is accepted, and read by nothing."""
        read_instead = {"suffix": "val.suffix", "crop_border": "crop_border of each metric"}
        return [
            f"{self.source.locate(key)}: {key} has no effect, as in BasicSR; {other} has"
            for key, other in read_instead.items()
            if key in self._written.mapping
        ]

    def to_yaml(self) -> str:
        """Return :meth:`to_mapping` as YAML text."""
        return to_text(self.to_mapping())


def accumulated(options: Options) -> tuple[int, ...]:
    """Return the micro-batches per optimizer step of every stage."""
    count = 1 if options.train is None else options.train.grad_accum
    return tuple(count) if isinstance(count, list) else (count,) * len(resolved_stages(options))


def resolved_stages(options: Options) -> tuple[StageOptions, ...]:
    """Return the stages of training in order; a file without stages has one of ``total_iter``.

    Their iterations sum to ``train.total_iter``, and each has exactly one of its batch sizes, as
    loading has checked. Options without training have no stages.
    """
    data, train = options.datasets.loader, options.train
    if data is None or train is None:
        return ()
    if data.stages:
        return tuple(data.stages)
    if data.mini_batch_sizes and data.iters and data.gt_sizes:
        return tuple(
            StageOptions(iters=iters, gt_size=gt_size, batch_size_per_gpu=batch)
            for iters, gt_size, batch in zip(data.iters, data.gt_sizes, data.mini_batch_sizes, strict=True)
        )
    if data.gt_size is None:
        raise ValueError("datasets.train: gt_size is missing")
    return (
        StageOptions(
            iters=train.total_iter,
            gt_size=data.gt_size,
            batch_size_per_gpu=data.batch_size_per_gpu,
            batch_size_total=data.batch_size_total,
        ),
    )
