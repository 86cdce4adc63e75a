"""One iteration: forward, backward and update of every phase. The only place where weights change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..archs.weights import DESCRIPTION, WeightsError, load_weights
from ..config import OptionError, Options
from ..inference.description import Description
from ..models import Networks, Phase
from ..schedulers import learning_rate
from .build import build_kind
from .checkpoint import Checkpoint, random_state, restore_random_state
from .compiling import compile_blocks, compile_whole
from .distributed import World
from .ema import WeightAverage
from .parameters import frozen_parameters, parameter_groups
from .precision import RESTORMER_CLIP, Stepper, Verdict, build_optimizer, load_state
from .resume import misfit


@dataclass(frozen=True)
class Outcome:
    """What an iteration has computed; all tensors are scalars on the device.

    Attributes:
        losses: by name, over all phases, averaged over micro-batches.
        norms: of each due phase's gradient before clipping.
        verdict: whether all gradients were finite; if not, nothing has changed.
        batches: the micro-batches, for when they have to be looked at.
    """

    losses: dict[str, Tensor]
    norms: dict[str, Tensor]
    verdict: Verdict
    batches: list[Any]


class TrainingStep:
    """Networks, optimizers and averages of a run, and how an iteration changes them.

    A run, its rehearsal and ``--check`` all build this one.

    Args:
        options: of the run.
        networks: by name, bare.
        world: this process among the ranks.
        shapes: how many shapes of batches there will be, one a stage.

    Attributes:
        kind: the model kind.
        phases: of an iteration, in order.
        optimizers: by option name (``optim_g``).
        averages: averaged networks by name; empty without ``train.ema_decay``.
    """

    def __init__(
        self, options: Options, networks: Mapping[str, nn.Module], world: World, shapes: int
    ) -> None:
        train = options.train
        assert train is not None, "the loader requires a train section"
        self._world, self._device = world, world.device
        self.kind = build_kind(options, networks, world.device)
        if train.channels_last:
            for network in networks.values():
                network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.kind.start_training()
        self.phases = self.kind.phases()
        self._trainable = {
            name: [parameter for parameter in network.parameters() if parameter.requires_grad]
            for name, network in networks.items()
        }
        self.averages = {
            name: WeightAverage(networks[name], train.ema_decay)
            for name in self.kind.averaged
            if train.ema_decay > 0
        }
        clip = train.grad_clip_norm or (RESTORMER_CLIP if train.use_grad_clip else None)
        self._kept = frozen_parameters(networks, train)
        self._steppers: dict[str, Stepper] = {}
        self._rates = {}
        for phase in _checked(self.phases, networks):
            spec = getattr(train, phase.optimizer)
            groups = parameter_groups({name: networks[name] for name in phase.networks}, train)
            optimizer = build_optimizer(spec.type, groups, world.device, lr=spec.lr, **spec.kwargs)
            self._steppers[phase.name] = Stepper(optimizer, train.amp, world.device, clip)
            self._rates[phase.name] = learning_rate(
                train.scheduler, spec.lr, train.warmup_iter, train.warmup_lr
            )
        self._parallel: dict[str, DistributedDataParallel] = {}
        self._updated: dict[str, nn.Module] = {}
        self._frozen: dict[str, nn.Module] = dict(networks)
        updated = {name for phase in self.phases for name in phase.networks}
        for name, network in networks.items():
            in_blocks = train.compile_scope == "blocks" and compile_blocks(network, train.compile, shapes)
            wrapped = network
            if name in updated and world.size > 1:
                wrapped = self._parallel[name] = world.parallel(network, options.find_unused_parameters)
            self._updated[name] = wrapped if in_blocks else compile_whole(wrapped, train.compile, shapes)
            if len(self.phases) > 1:
                self._frozen[name] = network if in_blocks else compile_whole(network, train.compile, shapes)
        # Derived tables are no part of a network's state, and do not change.
        self._buffers = [
            value
            for network in networks.values()
            for name, value in network.state_dict(keep_vars=True).items()
            if not isinstance(value, nn.Parameter) and isinstance(value, Tensor)
        ]

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The bare networks by name."""
        return self.kind.networks

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers by option name."""
        return {phase.optimizer: self._steppers[phase.name].optimizer for phase in self.phases}

    @property
    def loss_scaling(self) -> bool:
        """Whether fp16 finds its loss scale by steps that are not finite."""
        return any(stepper.scaler.is_enabled() for stepper in self._steppers.values())

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rate of every optimizer as logs name it: ``lr``, ``lr_d``, …."""
        return {
            _numbered("lr", number, phase): group["lr"] / group["lr_factor"]
            for number, phase in enumerate(self.phases)
            for group in self._steppers[phase.name].optimizer.param_groups[:1]
        }

    def run(
        self,
        iteration: int,
        batches: Iterable[Any],
        count: int,
        before_update: Callable[[], None] | None = None,
    ) -> Outcome:
        """Make one iteration; a gradient that is not finite changes neither weights nor optimizer state.

        Args:
            iteration: counted from 1; decides learning rates and which phases are due.
            batches: the micro-batches, on the device.
            count: how many they are.
            before_update: called with weights and buffers as they were before this iteration, once the
                device has its gradients to compute.
        """
        # A forward pass may change buffers, such as running statistics, long before the verdict.
        before = self._copied_buffers()
        due = [phase for phase in self.phases if phase.due(iteration)]
        losses, seen = self._backward(due, batches, count)
        if before_update is not None:
            after = self._copied_buffers()
            self._set_buffers(before)
            before_update()
            self._set_buffers(after)
        # Not by requires_grad: DistributedDataParallel decides once and for all what it exchanges.
        for parameter in (p for until, kept in self._kept for p in kept if iteration <= until):
            parameter.grad = None
        steppers = [self._steppers[phase.name] for phase in due]
        for phase, stepper in zip(due, steppers, strict=True):
            for group in stepper.optimizer.param_groups:
                group["lr"] = self._rates[phase.name](iteration) * group["lr_factor"]
        if len(steppers) > 1:
            spoil_together(steppers)
        results = [stepper.step() for stepper in steppers]
        finite = torch.stack([finite for _, finite in results]).all() if results else torch.tensor(True)
        after = self._copied_buffers()
        self._set_buffers([torch.where(finite, a, b) for a, b in zip(after, before, strict=True)])
        norms = {
            _numbered("grad_norm", self.phases.index(phase), phase): norm
            for phase, (norm, _) in zip(due, results, strict=True)
        }
        return Outcome(losses, norms, Verdict(finite), seen)

    def order_buckets(self, batch: Any) -> None:
        """Let the ranks' gradient buckets take their final order, by backward passes without update.

        DistributedDataParallel orders them anew after the first one, and with them the sums over three
        or more ranks: only so does a resumed run sum as an uninterrupted one. Nothing else changes.

        Args:
            batch: of any size, the same on all ranks.
        """
        if not self._parallel:
            return
        state, buffers = random_state(self._device), self._copied_buffers()
        torch.manual_seed(0)
        self._backward(self.phases, [batch], 1)
        for stepper in self._steppers.values():
            stepper.optimizer.zero_grad(set_to_none=True)
        self._set_buffers(buffers)
        restore_random_state(state, self._device)

    def update_averages(self) -> None:
        """Take the present weights into the averages."""
        for average in self.averages.values():
            average.update()

    def evaluated_networks(self) -> dict[str, nn.Module]:
        """Return the networks to evaluate, averaged ones where there are any, equal on all ranks."""
        self._world.broadcast(self._buffers)
        for average in self.averages.values():
            average.copy_buffers()
        averages = {name: average.network for name, average in self.averages.items()}
        return {**self.networks, **averages}

    def network_files(self, notes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the content of every network's file, as BasicSR names it; call it on all ranks.

        It says besides which network it is of, with the ``notes`` of the model kind.
        """
        self.evaluated_networks()
        return {
            name: {
                "params": network.state_dict(),
                **({"params_ema": self.averages[name].network.state_dict()} if name in self.averages else {}),
                DESCRIPTION: Description.of_options(
                    self.kind.options, name.replace("net_", "network_", 1), notes
                ).entry(),
            }
            for name, network in self.networks.items()
        }

    def state(self) -> dict[str, Any]:
        """Return what besides the networks is needed to go on."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "scalers": {name: stepper.scaler.state_dict() for name, stepper in self._steppers.items()},
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over what :meth:`network_files` and :meth:`state` returned.

        Raises:
            OptionError: a network is another one than the checkpoint's.
        """
        for name, network in self.networks.items():
            content = checkpoint.networks[name]
            try:
                load_weights(network, content, param_key="params")
            except WeightsError as error:
                key = f"network_{name.removeprefix('net_')}"
                problem = misfit(key, error, checkpoint.iteration)
                raise OptionError([problem], self.kind.options.source) from error
            if name in self.averages:
                key = "params_ema" if "params_ema" in content else "params"
                load_weights(self.averages[name].network, content, param_key=key)
        formerly = json.loads(checkpoint.state["options"])["train"]
        for name, optimizer in self.optimizers.items():
            # What either option file names is the present one's; all else may be state.
            named = {*formerly[name], *getattr(self.kind.options.train, name).kwargs}
            load_state(optimizer, checkpoint.state["optimizers"][name], named)
        for name, stepper in self._steppers.items():
            stepper.scaler.load_state_dict(checkpoint.state["scalers"][name])

    def _backward(
        self, phases: Sequence[Phase], batches: Iterable[Any], count: int
    ) -> tuple[dict[str, Tensor], list[Any]]:
        """Add up the gradients of all micro-batches; return the losses, and the micro-batches."""
        totals: dict[str, Tensor] = {}
        seen: list[Any] = []
        earlier: list[dict[str, Any]] = []
        # The first phase takes micro-batches as they come, so that it need not wait for all of them.
        coming: Iterator[Any] = iter(batches)
        for phase in phases:
            stepper = self._steppers[phase.name]
            with self._updating(phase) as networks:
                for micro, batch in enumerate(seen or self._keep(coming, seen, earlier)):
                    with self._gradient_sync(phase, last=micro == count - 1):
                        with stepper.autocast():
                            losses = self.kind.losses(phase.name, networks, batch, earlier[micro])
                            loss = torch.stack(list(losses.values())).sum() / count
                        stepper.backward(loss)
                    for name, value in losses.items():
                        totals[name] = totals.get(name, 0) + value.detach() / count
        seen.extend(coming)
        return totals, seen

    def _copied_buffers(self) -> list[Tensor]:
        return [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def _set_buffers(self, values: Sequence[Tensor]) -> None:
        for buffer, value in zip(self._buffers, values, strict=True):
            buffer.copy_(value)

    @staticmethod
    def _keep(coming: Iterator[Any], seen: list[Any], earlier: list[dict[str, Any]]) -> Iterator[Any]:
        for batch in coming:
            seen.append(batch)
            earlier.append({})
            yield batch

    @contextmanager
    def _updating(self, phase: Phase) -> Iterator[Networks]:
        """Freeze what the phase does not update, and give the networks as it calls them."""
        others = [name for name in self._trainable if name not in phase.networks]
        frozen = [parameter for name in others for parameter in self._trainable[name]]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield {**self._frozen, **{name: self._updated[name] for name in phase.networks}}
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    @contextmanager
    def _gradient_sync(self, phase: Phase, last: bool) -> Iterator[None]:
        """Let ranks exchange gradients only in the last micro-batch."""
        with ExitStack() as stack:
            if not last:
                for name in phase.networks:
                    if name in self._parallel:
                        stack.enter_context(self._parallel[name].no_sync())
            yield


def spoil_together(steppers: Sequence[Stepper]) -> None:
    """Make all gradients NaN where one optimizer's are not finite, so that none of them steps."""
    norms = [nn.utils.get_total_norm(stepper.gradients()) for stepper in steppers]
    spoiler = torch.where(torch.isfinite(torch.stack(norms)).all(), 1.0, torch.nan)
    for stepper in steppers:
        torch._foreach_mul_(stepper.gradients(), spoiler)


def _checked(phases: Sequence[Phase], networks: Mapping[str, nn.Module]) -> Sequence[Phase]:
    updated = [name for phase in phases for name in phase.networks]
    optimizers = [phase.optimizer for phase in phases]
    if unknown := set(updated) - networks.keys():
        raise ValueError(f"a phase updates {', '.join(sorted(unknown))}; there are {', '.join(networks)}")
    if len(set(updated)) < len(updated) or len(set(optimizers)) < len(optimizers):
        raise ValueError("a network and an optimizer belong to one phase each")
    return phases


def _numbered(name: str, number: int, phase: Phase) -> str:
    """Return what logs call a value of a phase; the first one's has no suffix."""
    return name if number == 0 else f"{name}_{phase.name}"
