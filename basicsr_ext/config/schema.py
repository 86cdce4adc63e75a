"""The option file as typed data: every key, its type, its default and what it means.

Keys keep BasicSR's and Restormer's names and meaning. All models are frozen and refuse unknown keys,
except where a constructor outside this module decides what is valid (networks, losses, optimizers,
schedulers, metrics, plug-in data sets): those keep their extra keys in :attr:`Spec.kwargs`, and
:mod:`basicsr_ext.config.signature` checks them once that constructor is known.

Values are taken as written: no text for numbers, no true for 1; a whole float (``!!float 5e3``) is an
integer where one is asked for. ``~`` stands for a key's default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, PrivateAttr, Tag

from .degradations import Degradable
from .errors import SourceMap
from .sections import OptionMapping, Section
from .values import Expect, FiniteFloat, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, whole
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


# --- data sets -------------------------------------------------------------------------------------


class IOBackend(Section):
    """Where image bytes come from."""

    type: Literal["disk", "lmdb"] = Field(default="disk", description="Files in folders, or BasicSR's LMDB.")


class Stage(Section):
    """One stage of progressive learning (Restormer, arXiv:2111.09881)."""

    iters: PositiveInt = Field(description="Iterations this stage lasts.")
    gt_size: PositiveInt = Field(description="Side of the square ground-truth crop, in pixels.")
    batch_size_per_gpu: PositiveInt | None = Field(
        default=None, description="Samples per rank and micro-batch."
    )
    batch_size_total: PositiveInt | None = Field(
        default=None,
        description="Samples per iteration over all ranks and micro-batches; instead of batch_size_per_gpu.",
    )


FileNameTemplate = Annotated[
    str, Field(pattern=r"\{\}"), Expect("a file name with {} in it", "file names with {} in them")
]
CacheMode = Annotated[
    Literal["none", "disk"],
    Expect("'none' or 'disk', which stays in memory once read (scripts/make_store.py packs ahead)", "modes"),
]
_GT_SIZE = (
    "Training: side of the square ground-truth crop in pixels; with gt_sizes, the largest. Else unused."
)


class ImageSource(Section):
    """Keys that every built-in image data set takes."""

    name: str = Field(default="", description="Shown in logs and used as folder name for validation images.")
    phase: Literal["train", "val", "test"] | None = Field(
        default=None, description="Set by BasicSR; accepted, unused."
    )
    scale: PositiveInt | None = Field(
        default=None, description="Overrides the file's scale for this data set."
    )
    io_backend: IOBackend = IOBackend()
    cache: CacheMode = Field(
        default="none",
        description="Folders and LMDBs: keep decoded pixels in a store beside the images, made on first use.",
    )
    gt_size: PositiveInt | None = Field(default=None, description=_GT_SIZE)
    filename_tmpl: FileNameTemplate = Field(
        default="{}", description="LQ file name for a GT base name, e.g. '{}x4'."
    )
    meta_info_file: str | None = Field(default=None, description="Text file: one GT name (and shape) a line.")
    meta_info: str | None = Field(default=None, description="Same as meta_info_file.")
    color: Literal["rgb", "y", "gray"] | None = Field(
        default=None, description="'y' or 'gray': one-channel images."
    )
    mean: list[FiniteFloat] | None = Field(
        default=None, description="Subtracted per channel after scaling to 0..1."
    )
    std: list[FiniteFloat] | None = Field(
        default=None, description="Divides per channel after the mean is subtracted."
    )


class TrainKeys(Section):
    """Keys that only the training set takes."""

    gt_size: PositiveInt | None = Field(default=None, description=_GT_SIZE)
    use_hflip: bool = Field(default=True, description="Random horizontal flips.")
    use_rot: bool = Field(default=True, description="Random vertical flips and 90-degree rotations.")
    geometric_augs: bool | None = Field(
        default=None, description="Restormer's switch for flips and rotations together."
    )
    use_shuffle: bool = Field(default=True, description="Visit the images in a new random order each pass.")
    num_worker_per_gpu: NonNegativeInt = Field(default=4, description="Loader processes per rank; 0: none.")
    batch_size_per_gpu: PositiveInt | None = Field(
        default=None, description="Samples per rank and micro-batch."
    )
    batch_size_total: PositiveInt | None = Field(
        default=None,
        description="Samples per iteration over all ranks and micro-batches; instead of batch_size_per_gpu.",
    )
    dataset_enlarge_ratio: PositiveInt = Field(default=1, description="Repeats of the data set in one pass.")
    persistent_workers: bool = Field(
        default=True, description="Accepted; workers live as long as the loader."
    )
    prefetch_mode: Literal["cpu", "cuda"] | None = Field(
        default=None, description="Accepted; the loader always prefetches."
    )
    num_prefetch_queue: PositiveInt = Field(default=2, description="Batches each worker prepares ahead.")
    pin_memory: bool = Field(default=True, description="Page-locked batches for faster copies to a GPU.")
    on_bad_sample: Literal["stop", "skip"] = Field(
        default="stop",
        description="An image that cannot be used ends the run, or another one takes its place.",
    )
    stages: list[Stage] | None = Field(
        default=None, min_length=1, description="Progressive learning, stage by stage."
    )
    mini_batch_sizes: list[PositiveInt] | None = Field(
        default=None, min_length=1, description="Restormer: batch per GPU of each stage."
    )
    iters: list[PositiveInt] | None = Field(
        default=None, min_length=1, description="Restormer: iterations of each stage."
    )
    gt_sizes: list[PositiveInt] | None = Field(
        default=None, min_length=1, description="Restormer: patch size of each stage."
    )


class PairedKeys(ImageSource, Degradable):
    """Ground truth with, or without, its low-quality images."""

    type: Literal["PairedImageDataset", "Dataset_PairedImage"]
    dataroot_gt: str = Field(description="Folder, .lmdb or .store of ground-truth images.")
    dataroot_lq: str | None = Field(
        default=None,
        description="Folder, .lmdb or .store of low-quality images; without it LQ is made of GT.",
    )


class SampleKeys(ImageSource, Degradable):
    """scikit-image's bundled photographs: nothing to download."""

    type: Literal["SampleImages"]
    split: Literal["train", "val"] = "train"


class GaussianDenoisingKeys(ImageSource):
    """Restormer's Gaussian denoising set: noise is drawn on the fly."""

    type: Literal["Dataset_GaussianDenoising"]
    dataroot_gt: str
    dataroot_lq: str | None = Field(
        default=None, description="Accepted as in Restormer's files, where it is 'none'."
    )
    sigma_type: Literal["constant", "random", "choice"] | None = Field(
        default=None, description="Training only."
    )
    sigma_range: NonNegativeFloat | list[NonNegativeFloat] | None = Field(
        default=None, description="Training: sigma, [low, high] or choices."
    )
    sigma_test: NonNegativeFloat | None = Field(
        default=None, description="Validation: sigma in 0..255 units."
    )
    in_ch: Literal[1, 3] = 3


class DualPixelKeys(ImageSource):
    """Restormer's dual-pixel defocus set: left and right 16-bit views, joined to six channels."""

    type: Literal["Dataset_DefocusDeblur_DualPixel_16bit"]
    dataroot_gt: str
    dataroot_lqL: str  # noqa: N815 (Restormer's key)
    dataroot_lqR: str  # noqa: N815


class SingleKeys(ImageSource):
    """Low-quality images without ground truth, for testing."""

    type: Literal["SingleImageDataset"]
    dataroot_lq: str


class PairedTrain(PairedKeys, TrainKeys):
    """Training pairs."""


class SampleTrain(SampleKeys, TrainKeys):
    """Training on the bundled photographs."""


class GaussianDenoisingTrain(GaussianDenoisingKeys, TrainKeys):
    """Training for Gaussian denoising."""


class DualPixelTrain(DualPixelKeys, TrainKeys):
    """Training for dual-pixel defocus deblurring."""


class ForeignDataset(OptionMapping):
    """A data set of basicsr's or of a plug-in's; it receives all its keys as BasicSR would pass them."""

    model_config = ConfigDict(extra="allow")
    type: str
    name: str = ""
    scale: PositiveInt | None = None

    @property
    def kwargs(self) -> dict[str, Any]:
        """The whole mapping that a BasicSR data set takes as ``opt``."""
        return {**self.model_dump(exclude_none=True), **(self.model_extra or {})}


class ForeignTrain(ForeignDataset, TrainKeys):
    """A foreign data set used for training."""

    model_config = ConfigDict(extra="allow")


BUILTIN_DATASETS: dict[str, str] = {
    "PairedImageDataset": "paired",
    "Dataset_PairedImage": "paired",
    "SampleImages": "sample",
    "Dataset_GaussianDenoising": "gaussian",
    "Dataset_DefocusDeblur_DualPixel_16bit": "dualpixel",
    "SingleImageDataset": "single",
}


def _dataset_tag(value: Any) -> str:
    name = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return BUILTIN_DATASETS.get(str(name), "foreign")


TrainDataset = Annotated[
    Annotated[PairedTrain, Tag("paired")]
    | Annotated[SampleTrain, Tag("sample")]
    | Annotated[GaussianDenoisingTrain, Tag("gaussian")]
    | Annotated[DualPixelTrain, Tag("dualpixel")]
    | Annotated[ForeignTrain, Tag("foreign")],
    Discriminator(_dataset_tag),
]
EvalDataset = Annotated[
    Annotated[PairedKeys, Tag("paired")]
    | Annotated[SampleKeys, Tag("sample")]
    | Annotated[GaussianDenoisingKeys, Tag("gaussian")]
    | Annotated[DualPixelKeys, Tag("dualpixel")]
    | Annotated[SingleKeys, Tag("single")]
    | Annotated[ForeignDataset, Tag("foreign")],
    Discriminator(_dataset_tag),
]


class Datasets(OptionMapping):
    """``train`` and any number of ``val``, ``val_N``, ``test``, ``test_N`` sets."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, EvalDataset]  # pyright: ignore[reportIncompatibleVariableOverride]
    train: TrainDataset | None = None

    def evaluation(self, phase: Literal["val", "test"]) -> dict[str, EvalDataset]:
        """Return the sets of one phase by their key, in file order."""
        return {
            key: value for key, value in (self.__pydantic_extra__ or {}).items() if key.split("_")[0] == phase
        }


# --- training --------------------------------------------------------------------------------------


class MixingAugs(Section):
    """Restormer's batch mixing."""

    mixup: bool = False
    mixup_beta: PositiveFloat = Field(
        default=1.2, description="Both parameters of the Beta distribution of lambda."
    )
    use_identity: bool = Field(default=True, description="Leave half of the batches unmixed.")


WarmUp = Annotated[
    int, Field(ge=-1), BeforeValidator(whole), Expect("a whole number from -1 up", "whole numbers from -1 up")
]
Decay = Annotated[
    float,
    Field(ge=0, lt=1),
    Expect("a number from 0 to less than 1", "numbers from 0 to less than 1"),
]


class Train(Section):
    """How the network is optimised."""

    total_iter: PositiveInt = Field(description="Optimizer steps of the whole run.")
    warmup_iter: WarmUp = Field(
        default=-1, description="Iterations of linear learning-rate warm-up; -1: none."
    )
    ema_decay: Decay = Field(default=0.0, description="Decay of the averaged weights; 0: none kept.")
    optim_g: OptimizerSpec
    scheduler: Spec | None = Field(default=None, description="Learning-rate schedule; none: constant.")
    pixel_opt: Spec | None = Field(default=None, description="Pixel loss.")
    perceptual_opt: Spec | None = Field(default=None, description="Perceptual (and style) loss.")
    use_grad_clip: bool = Field(default=False, description="Restormer: clip the gradient's norm at 0.01.")
    grad_clip_norm: PositiveFloat | None = Field(
        default=None, description="Clip the gradient's global norm at this value."
    )
    mixing_augs: MixingAugs = MixingAugs()
    amp: Literal["no", "bf16", "fp16"] = Field(default="no", description="Automatic mixed precision.")
    compile: bool | Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = (
        Field(default=False, description="torch.compile, or its mode.")
    )
    grad_accum: PositiveInt = Field(default=1, description="Micro-batches per optimizer step.")
    channels_last: bool = Field(default=False, description="NHWC memory layout.")
    deterministic: bool = Field(default=False, description="Only deterministic algorithms.")
    nan_policy: Literal["stop", "skip"] = Field(
        default="stop", description="What a non-finite loss or gradient does."
    )


class Val(Section):
    """Validation during training, and testing."""

    val_freq: PositiveInt | None = Field(default=None, description="Iterations between validations.")
    save_img: bool = False
    suffix: str | None = Field(default=None, description="Appended to saved images' names.")
    window_size: NonNegativeInt | None = Field(
        default=None,
        description="Pad images to a multiple of this, for networks that do not pad themselves; 0: never.",
    )
    max_minibatch: PositiveInt | None = Field(
        default=None, description="Restormer's key; accepted, one image at a time is run."
    )
    rgb2bgr: bool = Field(
        default=True, description="Metrics see BGR images (what basicsr's Y conversion expects)."
    )
    use_image: bool = Field(default=True, description="Metrics see 8-bit images; false: unrounded values.")
    metrics: dict[str, Spec] = Field(default_factory=dict)
    pbar: bool = False
    tile: PositiveInt | None = Field(
        default=None, description="Run images in tiles of this side (LQ pixels)."
    )
    tile_overlap: NonNegativeInt = Field(default=32, description="Overlap of neighbouring tiles (LQ pixels).")


# --- the rest --------------------------------------------------------------------------------------


class Paths(Section):
    """Where weights come from and results go."""

    pretrain_network_g: str | None = Field(default=None, description="Weights to start from.")
    strict_load_g: bool = Field(
        default=True, description="Every weight must have its counterpart in the network, and the reverse."
    )
    param_key_g: str | None = Field(
        default=None, description="'params' or 'params_ema'; default: EMA where there is one."
    )
    pretrain_tasks: list[str] | None = Field(
        default=None,
        description="EDT: tasks (sr_x4, dn_g25, dr_L) taken from a multi-task checkpoint; "
        "default: the network's own.",
    )
    resume_state: str | None = Field(
        default=None, description="training_states/<iter>.state to continue from."
    )
    experiments_root: str | None = Field(
        default=None, description="Folder of this run; default experiments/<name>."
    )
    ignore_resume_networks: str | list[str] | None = Field(
        default=None, description="Accepted as in BasicSR's files; there is one network."
    )
    results_root: str | None = Field(
        default=None, description="Folder of test results; default results/<name>."
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
    wandb: Wandb | None = None


class Dist(Section):
    """torch.distributed."""

    backend: Literal["nccl", "gloo"] | None = Field(
        default=None, description="Default: nccl on GPUs, gloo on CPU."
    )
    port: PositiveInt | None = Field(default=None, description="Rendezvous port for --launcher slurm.")


@dataclass(frozen=True)
class Written:
    """What options were read from. All are equal: options that say the same compare equal."""

    source: SourceMap = field(default_factory=SourceMap, compare=False)
    mapping: dict[str, Any] = field(default_factory=dict, compare=False)


Name = Annotated[str, Field(min_length=1), Expect("text that is not empty", "texts that are not empty")]


class Options(Section):
    """A complete description of one run."""

    name: Name = Field(description="Name of the run; its folder is experiments/<name>.")
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
    network_g: Spec
    path: Paths = Paths()
    train: Train | None = None
    val: Val = Val()
    logger: Logger = Logger()
    dist_params: Dist = Dist()
    find_unused_parameters: bool = False

    _written: Written = PrivateAttr(default_factory=Written)

    @property
    def source(self) -> SourceMap:
        """Where each key was written, for messages."""
        return self._written.source

    def to_yaml(self) -> str:
        """Return a YAML text that loads to equal options: the file's keys with all overrides in place."""
        return to_text(self._written.mapping or self.model_dump(exclude_unset=True))
