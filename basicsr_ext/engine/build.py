"""Build every part of a run from its options, and report all that does not fit, at once.

Runs after the option file's structure has been checked; this is where torch, basicsr and plug-ins are
first needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from urllib.error import URLError

import torch
from torch import nn

from ..archs.weights import load_weights
from ..config import OptionError, Options, Problem, Spec, accumulated, check_arguments, resolved_stages
from ..config.schema import OptimizerSpec
from ..config.structure import constructed_parts
from ..data.replacing import Replacing
from ..data.samples import SmallImageError
from ..data.sampling import Stage
from ..data.sections import DatasetSection, PatchKeys
from ..data.source_sets import SourceSets
from ..models import MODELS, ModelKind
from ..registry import NETWORKS, OPTIMIZERS, UnknownTypeError
from .logger import LOG
from .parameters import pattern_problems
from .precision import build_optimizer, find_optimizer


@dataclass(frozen=True)
class Parts:
    """What a run consists of before devices and ranks come in: networks by name, sets by display name."""

    networks: dict[str, nn.Module]
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
    for line in options.dead_keys:
        LOG.warning(line)
    builder = _Builder(options, list(other_problems))
    builder.check_constructors(training)
    networks = builder.networks(training)
    stages, train_set = (), None
    if training:
        stages = builder.stages(world_size)
        train_set = builder.train_set()
    in_tests = options.datasets.evaluation("test") or options.absent("test")
    eval_sets = builder.eval_sets("test" if not training and in_tests else "val", required=not training)
    if builder.problems:
        raise OptionError(builder.problems, options.source)
    return Parts(networks, stages, train_set, eval_sets)


def build_networks(options: Options) -> dict[str, nn.Module]:
    """Build every network of the options with the run's seed: ``network_g`` gives ``net_g``."""
    torch.manual_seed(options.manual_seed)
    return {name: NETWORKS.find(spec.type)(**spec.kwargs) for name, _, spec in network_specs(options)}


def network_specs(options: Options) -> Iterator[tuple[str, str, Spec]]:
    """Yield name, option key and specification of every network that the options have."""
    for key in type(options).model_fields:
        spec = getattr(options, key)
        if key.startswith("network_") and spec is not None:
            yield f"net_{key.removeprefix('network_')}", key, spec


def build_kind(options: Options, networks: Mapping[str, nn.Module], device: torch.device) -> ModelKind[Any]:
    """Return the run's model kind with its networks on ``device``."""
    for network in networks.values():
        network.to(device)
    return MODELS.find(options.model_type)(options, networks, device)


class _Builder:
    """Builds parts and collects the problems met."""

    def __init__(self, options: Options, problems: list[Problem]) -> None:
        self.options = options
        self.problems = problems
        self._kind: type[ModelKind[Any]] = MODELS.find(options.model_type)  # pyright: ignore[reportAttributeAccessIssue]

    def check_constructors(self, training: bool) -> None:
        """Check all arguments, and try to build what is cheap, so that no constructor fails later."""
        self._refused: set[str] = set()
        for key, value, constructed in constructed_parts(self.options):
            if (key.startswith("train.") and not training) or constructed.registry is OPTIMIZERS:
                continue
            kwargs = {k: v for k, v in value.items() if k not in ("type", *constructed.kept)}
            with self._report(key, "arguments it accepts"):
                constructor = constructed.registry.find(value["type"])
                # basicsr's **kwargs swallow whatever they do not know: a typo must not pass there.
                foreign = not constructor.__module__.startswith(("basicsr.", "basicsr_ext."))
                problems = check_arguments(
                    constructor, kwargs, key, constructed.supplied, allow_extra=foreign
                )
                if problems:
                    raise OptionError(problems)
                if constructed.tried:
                    constructor(**kwargs)
        if training:
            train = self.options.train
            assert train is not None, "the loader requires a train section"
            for key in type(train).model_fields:
                spec = getattr(train, key)
                if isinstance(spec, OptimizerSpec):
                    self._check_optimizer(f"train.{key}", spec)

    def _check_optimizer(self, key: str, spec: OptimizerSpec) -> None:
        with self._report(key, "arguments it accepts"):
            constructor = find_optimizer(spec.type)
            problems = check_arguments(constructor, spec.kwargs, key, ("params", "lr"))
            if problems:
                raise OptionError(problems)
            parameter = nn.Parameter(torch.zeros(1))
            build_optimizer(spec.type, [parameter], parameter.device, lr=spec.lr, **spec.kwargs)

    def networks(self, training: bool) -> dict[str, nn.Module]:
        """Build the networks whose arguments are right, and load the weights they start from."""
        networks: dict[str, nn.Module] = {}
        torch.manual_seed(self.options.manual_seed)
        for name, key, spec in network_specs(self.options):
            if key in self._refused:
                continue
            with self._report(key, "arguments the network accepts"):
                networks[name] = NETWORKS.find(spec.type)(**spec.kwargs)
        for name, network in networks.items():
            self._load_pretrained(name.removeprefix("net_"), network, training)
        if self.options.train is not None and not self._refused:
            self.problems += pattern_problems(networks, self.options.train)
        return networks

    def _load_pretrained(self, letter: str, network: nn.Module, training: bool) -> None:
        path = self.options.path
        weights = getattr(path, f"pretrain_network_{letter}", None)
        if weights is None:
            return
        with self._report(f"path.pretrain_network_{letter}", f"weights that fit network_{letter}"):
            asked = getattr(path, f"param_key_{letter}", None)
            report = load_weights(
                network,
                weights,
                strict=getattr(path, f"strict_load_{letter}", True),
                param_key=asked or "params",
                tasks=path.pretrain_tasks,
                new_tasks=training,
            )
            complete = not report.missing and not report.left and not report.problems()
            LOG.info("Weights from %s: %s%s", weights, report, "" if complete else f"\n{report.table()}")
            if asked not in (None, report.entry):
                LOG.warning(
                    "path.param_key_%s: there is no entry %r; %r was taken", letter, asked, report.entry
                )
            elif asked is None and "params_ema" in report.other_entries:
                LOG.info("path.param_key_%s: params_ema takes the averaged weights instead", letter)

    def stages(self, world_size: int) -> tuple[Stage, ...]:
        stages = []
        planned = zip(resolved_stages(self.options), accumulated(self.options), strict=True)
        for number, (stage, grad_accum) in enumerate(planned):
            batch, share = stage.batch_size_per_gpu, world_size * grad_accum
            if stage.batch_size_total is not None:
                batch, rest = divmod(stage.batch_size_total, share)
                if rest or not batch:
                    ranks = f"{world_size} processes x train.grad_accum {grad_accum}"
                    key = f"datasets.train.stages.{number}.batch_size_total"
                    self._add(key, str(stage.batch_size_total), f"a multiple of {share} ({ranks})")
                    continue
            assert batch is not None, "the loader requires one of the two batch sizes"
            stages.append(Stage(stage.iters, stage.gt_size, batch, grad_accum))
        return tuple(stages)

    def train_set(self) -> Any:
        loader = self.options.datasets.loader
        assert loader is not None, "the loader requires a training set"
        largest = max(stage.gt_size for stage in resolved_stages(self.options))
        with self._report("datasets.train", "a readable data set"):
            option = self.options.datasets.train
            assert isinstance(option, DatasetSection), "registered sections are"
            sources = self._kind.open_train_set(self.options)
            found = [option.problems(part, "datasets.train", largest) for part in sources.values()]
            problems = list(dict.fromkeys(problem for part in found for problem in part))
            dataset = sources[""] if list(sources) == [""] else SourceSets(sources)
            if loader.on_bad_sample == "skip":
                for problem in problems:
                    LOG.warning("%s; others take their places", problem.line(self.options.source))
                return Replacing(dataset, self.options.manual_seed)
            self.problems += problems
            if isinstance(loader, PatchKeys) and loader.on_small_image == "skip":
                return Replacing(dataset, self.options.manual_seed, SmallImageError)
            return dataset

    def eval_sets(self, phase: Literal["val", "test"], *, required: bool) -> dict[str, Any]:
        sets: dict[str, Any] = {}
        absent = self.options.absent(phase)
        if required and not self.options.datasets.evaluation(phase):
            self.problems += absent.values() or [Problem("datasets", "no test set", "test or val below it")]
            return sets
        for key, problem in absent.items():
            LOG.warning("datasets.%s is left out: found %s; %s", key, problem.found, problem.fix)
        if absent and not self.options.datasets.evaluation(phase):
            LOG.warning(
                "No set is left to validate on: no scores are taken, and no net_g_best.pth is written"
            )
        for key, option in self.options.datasets.evaluation(phase).items():
            with self._report(f"datasets.{key}", "a readable data set"):
                name = option.name or key
                if name in sets:
                    self._add(f"datasets.{key}.name", repr(name), "a name no other set has")
                opened = self._kind.open_eval_sets(self.options, name, option)
                assert isinstance(option, DatasetSection), "registered sections are"
                found = [option.problems(part, f"datasets.{key}") for part in opened.values()]
                self.problems += dict.fromkeys(problem for part in found for problem in part)
                sets |= opened
        return sets

    def _unknown(self, key: str, error: UnknownTypeError) -> None:
        fix = error.suggestion or "known: " + ", ".join(error.known)
        fix += "; or name under plugins: the module that registers it"
        self._add(key, repr(error.name), f"a registered {error.kind}", fix)

    def _add(self, key: str, found: str, expected: str, fix: str = "") -> None:
        self.problems.append(Problem(key, found, expected, fix))

    @contextmanager
    def _report(self, key: str, expected: str) -> Iterator[None]:
        """Turn whatever a foreign constructor raises into a problem at ``key``."""
        found = len(self.problems)
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
        if len(self.problems) > found:
            self._refused.add(key)
