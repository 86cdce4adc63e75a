"""Run a reference fixture: build, load, forward, backward, and return the arrays it recorded.

:func:`run` takes any object with the attributes of :class:`recorded.Recorded`. One runner a network: add
it to :data:`RUNNERS` under the fixtures' ``arch``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import basicsr_ext as bx
from basicsr_ext.archs.padding import SizeRequirement, call_padded


def run(fixture: Any) -> dict[str, np.ndarray]:
    """Return what our network computes for ``fixture``, in float64, under the recorded names.

    Raises:
        NotImplementedError: there is no runner for the fixture's network.
    """
    arch = fixture.meta["arch"]
    if arch not in RUNNERS:
        raise NotImplementedError(f"{fixture.name}: no runner for {arch!r}; there are {sorted(RUNNERS)}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # float64 depthwise convolutions are thousands of tiny ones: threads only wait
    try:
        return RUNNERS[arch](fixture)
    finally:
        torch.set_num_threads(threads)


def edt(fixture: Any) -> dict[str, np.ndarray]:
    """Run EDT: a list of images, one a task, in; a list out."""
    options = {key.lower(): value for key, value in fixture.kwargs.items()}
    options["full_resolution"] = fixture.meta.get("file", "").endswith("edtsf.py")
    options["drop_path_rate"] = 0.0  # random, so never part of a recorded result
    net = build(fixture, {"type": "EDT", **options})
    pipeline = fixture.meta.get("pipeline")

    def forward(images: list[Tensor]) -> list[Tensor]:
        if pipeline is None:
            return net(images)
        requirement = SizeRequirement(pipeline["pad_multiple"], "flip", always=True)
        return [
            call_padded(lambda x, task=task: net(x, task), image, pipeline["crop"], requirement)
            for image, task in zip(images, net.tasks, strict=True)
        ]

    return differentiate(forward, fixture)


def plain(fixture: Any) -> dict[str, np.ndarray]:
    """Run a network that takes one image and returns one, built by its class name and recorded arguments."""
    net = build(fixture, {"type": fixture.meta["class"], **fixture.kwargs})
    return differentiate(lambda images: [net(image) for image in images], fixture)


RUNNERS: dict[str, Callable[[Any], dict[str, np.ndarray]]] = {
    "EDT": edt,
    "EDTSF": edt,
    "grl": plain,
    "EMT": plain,
    "restormer": plain,
    "cloformer": plain,
    "swin": plain,
}


def build(fixture: Any, opt: dict[str, Any]) -> Any:
    """Return the network that ``opt`` describes in float64, with the fixture's weights and mode."""
    net: nn.Module = bx.build_network(opt).double()
    weights = {key: torch.from_numpy(value) for key, value in fixture.weights().items()}
    report = bx.load_weights(net, weights)
    assert len(report.taken) == len(weights)
    return net.train(fixture.meta.get("mode") == "train")


def differentiate(forward: Callable[[list[Tensor]], list[Tensor]], fixture: Any) -> dict[str, np.ndarray]:
    """Return outputs and input gradients of ``sum(mean(y_i ** 2))`` under the names the fixture uses."""
    images = [torch.from_numpy(image).requires_grad_() for image in fixture.inputs()]
    outputs = forward(images)
    gradients = torch.autograd.grad(sum((y**2).mean() for y in outputs), images)  # type: ignore[arg-type]
    arrays = {**named("y", outputs, fixture), **named("dx", gradients, fixture)}
    return {name: array.detach().numpy() for name, array in arrays.items()}


def named(stem: str, tensors: Any, fixture: Any) -> dict[str, Tensor]:
    """Name a lone tensor ``stem`` where the fixture does, and number several."""
    if stem in fixture.arrays:
        return {stem: tensors[0]}
    return {f"{stem}{i}": tensor for i, tensor in enumerate(tensors)}
