"""Build every part of a run from its options, and report all that does not fit, at once.

Runs after the option file's structure has been checked; this is where torch, basicsr and plug-ins are
first needed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeVar
from urllib.error import URLError

import torch
from torch import nn

from ..archs import NETWORKS
from ..archs.weights import load_weights
from ..config import OptionError, Options, Problem, check_arguments, resolved_stages
from ..config.errors import nearest
from ..config.schema import Spec
from ..data import build_eval_dataset, build_train_dataset
from ..data.inspection import check_sizes
from ..data.replacing import Replacing
from ..data.sampling import Stage
from ..losses import LOSSES
from ..metrics import METRICS
from ..models import MODELS
from ..registry import Registry, UnknownTypeError
from .logger import LOG
from .precision import build_optimizer, find_optimizer, optimizer_names

T = TypeVar("T")


@dataclass(frozen=True)
class Parts:
    """What a run consists of before devices and ranks come in. Evaluation sets by display name."""

    network: nn.Module
    stages: tuple[Stage, ...]
    train_set: Any
    eval_sets: dict[str, Any]


def build_parts(
    options: Options, world_size: int, *, training: bool, other_problems: Iterable[Problem] = ()
) -> Parts:
    """Build network and data sets, and check everything that the trainer will build from them.

    Args:
        options: options whose structure is valid.
        world_size: number of ranks that share ``batch_size_total``.
        training: build the training set and the ``val`` sets; otherwise the ``test`` sets, or the ``val``
            sets where there are none.
        other_problems: reported together with those found here.

    Raises:
        OptionError: with every problem found.
    """
    builder = _Builder(options, list(other_problems))
    builder.import_plugins()
    network = builder.network()
    builder.check_types()
    stages, train_set = (), None
    if training:
        stages = builder.stages(world_size)
        train_set = builder.train_set()
    phase = "test" if not training and options.datasets.evaluation("test") else "val"
    eval_sets = builder.eval_sets(phase)
    if builder.problems:
        raise OptionError(builder.problems, options.source)
    assert network is not None, "a missing network is a problem"
    return Parts(network, stages, train_set, eval_sets)


def import_plugin(name: str) -> None:
    """Import a module that fills registries; as with ``python -m``, also from the working directory."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    import_module(name)


class _Builder:
    """Builds parts and collects the problems met."""

    def __init__(self, options: Options, problems: list[Problem]) -> None:
        self.options = options
        self.problems = problems

    def import_plugins(self) -> None:
        for position, name in enumerate(self.options.plugins):
            with self._report(f"plugins.{position}", "an importable module"):
                import_plugin(name)

    def network(self) -> nn.Module | None:
        spec = self.options.network_g
        constructor = self._check(NETWORKS, spec, "network_g")
        if constructor is None:
            return None
        torch.manual_seed(self.options.manual_seed)
        with self._report("network_g", "arguments the network accepts"):
            network = constructor(**spec.kwargs)
            self._load_pretrained(network)
            return network
        return None

    def _load_pretrained(self, network: nn.Module) -> None:
        path = self.options.path
        if path.pretrain_network_g is None:
            return
        with self._report("path.pretrain_network_g", "weights that fit network_g"):
            report = load_weights(
                network,
                path.pretrain_network_g,
                strict=path.strict_load_g,
                param_key=path.param_key_g,
                tasks=path.pretrain_tasks,
            )
            LOG.info("Weights from %s: %s", path.pretrain_network_g, report)

    def check_types(self) -> None:
        options = self.options
        for name, spec in options.val.metrics.items():
            kwargs = {key: value for key, value in spec.kwargs.items() if key != "better"}
            self._check(METRICS, Spec(type=spec.type, **kwargs), f"val.metrics.{name}", ("img", "img2"))
        if options.train is None:
            return
        self._find(MODELS, Spec(type=options.model_type), "model_type", leaf="")
        for key in ("pixel_opt", "perceptual_opt"):
            spec = getattr(options.train, key)
            if spec is not None:
                constructor = self._check(LOSSES, spec, f"train.{key}")
                if constructor is not None:
                    with self._report(f"train.{key}", "arguments it accepts"):
                        constructor(**spec.kwargs)
        optimizer = options.train.optim_g
        try:
            constructor = find_optimizer(optimizer.type)
        except AttributeError:
            known = optimizer_names()
            fix = nearest(optimizer.type, known) or "known: " + ", ".join(known)
            self._add("train.optim_g.type", repr(optimizer.type), "an optimizer of torch.optim", fix)
            return
        if not self._arguments_wrong(constructor, optimizer, "train.optim_g", ("params", "lr")):
            with self._report("train.optim_g", "arguments it accepts"):
                parameter = nn.Parameter(torch.zeros(1))
                build_optimizer(
                    optimizer.type, [parameter], parameter.device, lr=optimizer.lr, **optimizer.kwargs
                )

    def stages(self, world_size: int) -> tuple[Stage, ...]:
        train = self.options.train
        assert train is not None, "the loader requires a train section"
        share = world_size * train.grad_accum
        stages = []
        for number, stage in enumerate(resolved_stages(self.options)):
            batch = stage.batch_size_per_gpu
            if stage.batch_size_total is not None:
                batch, rest = divmod(stage.batch_size_total, share)
                if rest or not batch:
                    ranks = f"{world_size} processes x train.grad_accum {train.grad_accum}"
                    key = f"datasets.train.stages.{number}.batch_size_total"
                    self._add(key, str(stage.batch_size_total), f"a multiple of {share} ({ranks})")
                    continue
            assert batch is not None, "the loader requires one of the two batch sizes"
            stages.append(Stage(stage.iters, stage.gt_size, batch))
        return tuple(stages)

    def train_set(self) -> Any:
        option = self.options.datasets.train
        assert option is not None, "the loader requires a training set"
        largest = max(stage.gt_size for stage in resolved_stages(self.options))
        with self._report("datasets.train", "a readable data set"):
            dataset = build_train_dataset(
                option, option.scale or self.options.scale, self.options.manual_seed
            )
            problems = check_sizes(dataset, largest)
            if option.on_bad_sample == "skip":
                for problem in problems:
                    LOG.warning("%s; others take their places", problem.line(self.options.source))
                return Replacing(dataset, self.options.manual_seed)
            self.problems += problems
            return dataset

    def eval_sets(self, phase: Literal["val", "test"]) -> dict[str, Any]:
        sets: dict[str, Any] = {}
        for key, option in self.options.datasets.evaluation(phase).items():
            with self._report(f"datasets.{key}", "a readable data set"):
                name = option.name or key
                if name in sets:
                    self._add(f"datasets.{key}.name", repr(name), "a name no other set has")
                sets[name] = build_eval_dataset(option, self.options.scale)
                self.problems += check_sizes(sets[name], key=f"datasets.{key}")
        return sets

    def _check(
        self, registry: Registry, spec: Spec, key: str, supplied: tuple[str, ...] = ()
    ) -> Callable[..., Any] | None:
        """Return what ``spec`` names, if it is known and its arguments fit."""
        constructor = self._find(registry, spec, key)
        if constructor is None or self._arguments_wrong(constructor, spec, key, supplied):
            return None
        return constructor

    def _find(
        self, registry: Registry, spec: Spec, key: str, leaf: str = ".type"
    ) -> Callable[..., Any] | None:
        try:
            return registry.find(spec.type)
        except UnknownTypeError as error:
            self._unknown(key + leaf, error)
            return None

    def _arguments_wrong(
        self, constructor: Callable[..., Any], spec: Spec, key: str, supplied: tuple[str, ...] = ()
    ) -> bool:
        # basicsr's **kwargs swallow whatever they do not know: a typo must not pass there.
        foreign = not constructor.__module__.startswith(("basicsr.", "basicsr_ext."))
        problems = check_arguments(constructor, spec.kwargs, key, supplied, allow_extra=foreign)
        self.problems += problems
        return bool(problems)

    def _unknown(self, key: str, error: UnknownTypeError) -> None:
        fix = error.suggestion or "known: " + ", ".join(error.known)
        self._add(key, repr(error.name), f"a registered {error.kind}", fix)

    def _add(self, key: str, found: str, expected: str, fix: str = "") -> None:
        self.problems.append(Problem(key, found, expected, fix))

    @contextmanager
    def _report(self, key: str, expected: str) -> Iterator[None]:
        """Turn whatever a foreign constructor raises into a problem at ``key``."""
        try:
            yield
        except URLError as error:
            fix = "BasicSR looks for VGG19's in experiments/pretrained_models/vgg19-dcbb9e9d.pth"
            self._add(key, f"weights that cannot be downloaded ({error.reason})", "a network, or a file", fix)
        except OptionError as error:
            self.problems += error.problems
        except UnknownTypeError as error:
            self._unknown(f"{key}.type", error)
        except Exception as error:
            LOG.debug("at %s", key, exc_info=True)
            # The data package begins its messages with the key inside the section.
            inner = re.match(r"(dataroot_\w+|meta_info\w*|filename_tmpl|\w+_range|cache): ", str(error))
            if inner is not None:
                self._add(f"{key}.{inner[1]}", str(error)[inner.end() :], expected)
            else:
                self._add(key, f"{type(error).__name__}: {error}", expected)
