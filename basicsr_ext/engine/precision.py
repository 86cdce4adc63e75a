"""One optimizer step in float32, bf16 or fp16, with clipping, that never applies a non-finite gradient."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..registry import OPTIMIZERS, UnknownTypeError

RESTORMER_CLIP = 0.01
"""The gradient norm that Restormer's ``use_grad_clip: true`` clips at."""

_IMPLEMENTATIONS = ("fused", "foreach", "capturable")


def choose_algorithms(deterministic: bool) -> None:
    """Let torch use deterministic algorithms only, or the fastest; an operator without one raises."""
    if deterministic:
        # cuBLAS reads this when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def build_optimizer(
    name: str, parameters: Iterable[nn.Parameter | dict[str, Any]], device: torch.device, **kwargs: Any
) -> torch.optim.Optimizer:
    """Return an optimizer of parameters, or groups of them, fused where it has such a kernel for the device.

    Raises:
        LookupError, TypeError, ValueError: there is no such optimizer, or it refuses its arguments.
    """
    optimizer_class = find_optimizer(name)
    if device.type == "cuda" and "fused" in inspect.signature(optimizer_class).parameters:
        kwargs = {"fused": True, **kwargs}
    return optimizer_class(list(parameters), **kwargs)


def find_optimizer(name: str) -> Callable[..., torch.optim.Optimizer]:
    """Return what is registered as ``name``, called so in ``torch.optim``, or importable (``package.Class``).

    Raises:
        UnknownTypeError: there is no such optimizer.
    """
    if name in OPTIMIZERS.names():
        return OPTIMIZERS.find(name)
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module) if module else torch.optim, attribute, None)
    except ImportError:
        found = None
    if isinstance(found, type) and issubclass(found, torch.optim.Optimizer):
        return found
    members = inspect.getmembers(torch.optim, inspect.isclass)
    known = [name for name, member in members if issubclass(member, torch.optim.Optimizer)]
    raise UnknownTypeError("optimizer", name, [*OPTIMIZERS.names(), *known])


def load_state(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], own_options: Collection[str]
) -> None:
    """Load what another optimizer's ``state_dict`` gave, perhaps one for another device.

    Args:
        optimizer: takes the state over.
        state: of an optimizer of the same class, on the host.
        own_options: keys of parameter groups whose values ``optimizer`` keeps as it was built.
    """
    # These follow the device; torch places the step counts by what the loaded groups say.
    kept = {*own_options, *_IMPLEMENTATIONS, "lr_factor"} - {"params"}
    groups = [
        {**group, **{key: value for key, value in own.items() if key in kept}}
        for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


class Verdict:
    """Whether a step's gradient was finite; on a GPU known only once the device has come that far.

    Args:
        finite: scalar boolean tensor.
    """

    def __init__(self, finite: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if finite.is_cuda:
            self._finite = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._finite.copy_(finite, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._finite = finite

    def finite(self) -> bool:
        """Wait for the step, not for what was queued behind it, and return the answer."""
        if self._event is not None:
            self._event.synchronize()
        return bool(self._finite)


class Stepper:
    """Backward passes and optimizer steps in the chosen precision.

    Args:
        optimizer: updates the parameters it holds.
        amp: ``no``, ``bf16`` or ``fp16`` (with loss scaling).
        device: where the network lives.
        clip_norm: the gradient's global norm is clipped at this value; ``None``: not clipped.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        amp: Literal["no", "bf16", "fp16"],
        device: torch.device,
        clip_norm: float | None = None,
    ) -> None:
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self._device_type = device.type
        self._dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[amp]
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # Fused kernels read this flag on the device, so that a bad step is dropped without a host sync.
        self._drops_on_device = bool(optimizer.defaults.get("fused")) and not self.scaler.is_enabled()

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the network runs."""
        return torch.autocast(self._device_type, dtype=self._dtype, enabled=self._dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of ``loss``; one that is not finite spoils it, and so every rank's."""
        spoiler = torch.where(loss.detach().isfinite(), 1.0, torch.nan)
        self.scaler.scale(loss * spoiler).backward()

    def gradients(self) -> list[Tensor]:
        """Return the gradients there are, scaled as :meth:`backward` left them."""
        return [p.grad for p in self._parameters if p.grad is not None]

    def step(self) -> tuple[Tensor, Tensor]:
        """Update the parameters and clear their gradients.

        Returns:
            The gradient's norm before clipping and whether it was finite, scalars on the device. A
            non-finite gradient changes neither parameters nor optimizer state.
        """
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.get_total_norm(self.gradients())
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, self.clip_norm, norm)
        finite = torch.isfinite(norm)
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self._drops_on_device:
            self.optimizer.found_inf = (~finite).float()  # pyright: ignore[reportAttributeAccessIssue]
            self.optimizer.step()
        elif finite:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm, finite
