"""Run a reference fixture: build, load, forward, backward, and return the arrays it recorded.

:func:`run` takes any object with the attributes of :class:`recorded.Recorded`. One runner a network: add
it to :data:`RUNNERS` under the fixtures' ``arch``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import basicsr_ext as bx
from basicsr_ext.archs.catnet_arch import Attention, Encoder, prior_mask, resize
from basicsr_ext.archs.dat_arch import LocalAttention
from basicsr_ext.archs.layers.deformable_attention import DeformableAttention
from basicsr_ext.archs.layers.multi_window_attention import SplitAttention, WindowBranch
from basicsr_ext.archs.layers.neighborhood_attention import NeighborhoodAttention
from basicsr_ext.archs.padding import SizeRequirement, call_padded

_place: dict[str, Any] = {"device": "cpu", "dtype": torch.float64}
"""Where and in what the present fixture is run."""


def run(fixture: Any, device: str = "cpu", dtype: torch.dtype = torch.float64) -> dict[str, np.ndarray]:
    """Return what our network computes for ``fixture`` under the recorded names.

    Raises:
        NotImplementedError: there is no runner for the fixture's network.
    """
    arch = fixture.meta["arch"].split()[0].rstrip(",")
    if arch not in RUNNERS:
        raise NotImplementedError(f"{fixture.name}: no runner for {arch!r}; there are {sorted(RUNNERS)}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # float64 depthwise convolutions are thousands of tiny ones: threads only wait
    _place.update(device=device, dtype=dtype)
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


def dat(fixture: Any) -> dict[str, np.ndarray]:
    """Run DAT or DAT++, two releases of one class name, or one of their attentions."""
    name, kwargs, plus = fixture.meta["class"], fixture.kwargs, fixture.meta["arch"].startswith("DAT++")
    if name == "DAT":
        net = build(fixture, {"type": "DATPlusPlus" if plus else "DAT", **kwargs})
        return differentiate(lambda images: [net(image) for image in images], fixture)
    if name == "DAttentionBaseline":
        return deformable_attention(fixture, plus)
    if name == "NeighborhoodAttention2D":
        layer = NeighborhoodAttention(kwargs["dim"], kwargs["kernel_size"], kwargs["num_heads"])
    else:
        window, shift = kwargs["window_size"], kwargs.get("shift_size", 0)
        h, w = (window, window) if isinstance(window, int) else window
        layer = LocalAttention(kwargs["dim"], (h, w), kwargs["heads"], (shift, shift))
    filled(layer, fixture)
    return differentiate(
        lambda images: [layer(image.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for image in images], fixture
    )


def deformable_attention(fixture: Any, plus: bool) -> dict[str, np.ndarray]:
    """Run the deformable attention of either release: its result, sampled positions and references."""
    kwargs = fixture.kwargs
    kinds = {"convolution": "dwc_pe", "fixed": "fixed_pe", "network": "log_cpb"}
    position: Any = next((kind for kind, flag in kinds.items() if kwargs.get(flag)), "table")
    layer = DeformableAttention(
        kwargs["n_heads"] * kwargs["n_head_channels"],
        kwargs["n_heads"],
        kwargs["n_groups"],
        tuple(kwargs["q_size"]),
        kwargs["stride"],
        kwargs["ksize"] if plus else (9, 7, 5, 3)[kwargs["stage_idx"]],
        kwargs["offset_range_factor"],
        position if kwargs["use_pe"] else "none",
        offsets=not kwargs["no_off"],
        release="dat++" if plus else "dat",
    )
    filled(layer, fixture)

    def forward(images: list[Tensor]) -> list[Tensor]:
        y, *points = layer.attend(images[0].permute(0, 2, 3, 1))
        return [y.permute(0, 3, 1, 2), *points]

    return differentiate(forward, fixture)


def mswin(fixture: Any) -> dict[str, np.ndarray]:
    """Run MSwin or one of its parts, on maps of several agents (B, L, H, W, C)."""
    name, kwargs = fixture.meta["class"], fixture.kwargs
    if name == "PyramidWindowAttention":
        net = build(fixture, {"type": "MSwinTransformer", **kwargs})
        return differentiate(lambda maps: [net(x) for x in maps], fixture)
    if name == "SplitAttn":
        layer = filled(SplitAttention(kwargs["input_dim"], len(fixture.inputs())), fixture)
    else:
        dims = (kwargs[word] for word in ("dim", "window_size", "heads", "dim_head"))
        layer = filled(WindowBranch(*dims, relative=kwargs["relative_pos_embedding"]), fixture)

    def forward(maps: list[Tensor]) -> list[Tensor]:
        agents = [x.flatten(0, 1) for x in maps]
        y = layer(agents) if name == "SplitAttn" else layer(agents[0])
        return [y.unflatten(0, maps[0].shape[:2])]

    return differentiate(forward, fixture)


def catnet(fixture: Any) -> dict[str, np.ndarray]:
    """Run CAT-Net as released, or one of its parts, which take feature maps."""
    arrays = inputs(fixture)
    # Masks and labels are not differentiated.
    maps = [x.requires_grad_() for x in arrays if x.ndim == 4]
    masks = [x for x in arrays if x.ndim == 3]
    outputs, loss = CATNET[fixture.meta["class"]](fixture, maps, masks)
    gradients = torch.autograd.grad(loss, maps)
    named_tensors = {**named("y", outputs, fixture), **named("dx", gradients, fixture)}
    return {name: tensor.detach().cpu().numpy() for name, tensor in named_tensors.items()}


def catnet_network(fixture: Any, images: list[Tensor], masks: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Return probabilities and, where the fixture trains, the alignment loss; and the loss of both."""
    options = {key.lower(): value for key, value in fixture.kwargs.items()}
    net = build(fixture, {"type": "CATNet", "variant": "released", **options})
    result = net(images[0][:, None], masks[0][:, None], images[1])
    logits = result.query_logits[:, 0]
    probabilities = logits.softmax(1)
    if not fixture.meta["call"]["train"]:
        return [probabilities], (probabilities**2).mean()
    support_loss = F.cross_entropy(result.support_logits[:, 0], masks[0].long()) * result.alignable
    weight = logits.new_tensor([0.1, 1.0])
    query_loss = F.cross_entropy(logits, masks[1].long(), weight, ignore_index=255)
    return [probabilities, support_loss], query_loss + support_loss.sum()


def catnet_encoder(fixture: Any, images: list[Tensor], _: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Return the features of CAT-Net's encoder."""
    assert not fixture.kwargs["use_aspp"]
    features = filled(Encoder(released=True), fixture)(*images)
    return [features], (features**2).mean()


def catnet_attention(fixture: Any, maps: list[Tensor], _: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Return the enhanced map of one map, or of each of two that attend to each other."""
    options = {"normalise": "queries"} if len(maps) == 1 else {}
    net = filled(Attention(**fixture.kwargs, **options), fixture)
    positions = [x.flatten(2).transpose(1, 2) for x in maps]
    pairs = zip(positions, reversed(positions), strict=True)
    first, *second = [net(x, y).transpose(1, 2).view_as(maps[0]) for x, y in pairs]
    ramp = torch.linspace(0, 1, first.shape[-1], dtype=first.dtype, device=first.device)
    return [first, *second], (first**2).mean() + sum((y**2 * ramp).mean() for y in second)


def catnet_prior(fixture: Any, maps: list[Tensor], masks: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Return the prior of query and support features."""
    query, support = (x.flatten(2).transpose(1, 2) for x in maps)
    size = tuple(fixture.kwargs["fts_size"])
    prior = prior_mask(query, support, resize(masks[0], size, align_corners=True).flatten(1))
    return [prior.view(len(prior), 1, 1, *size)], (prior**2).mean()


CATNET = {
    "FewShotSeg": catnet_network,
    "TVDeeplabRes101Encoder": catnet_encoder,
    "SelfAttention": catnet_attention,
    "CrossAttention": catnet_attention,
    "FewShotSeg.generate_prior": catnet_prior,
}
RUNNERS: dict[str, Callable[[Any], dict[str, np.ndarray]]] = {
    "EDT": edt,
    "EDTSF": edt,
    "grl": plain,
    "EMT": plain,
    "restormer": plain,
    "swin": plain,
    "cloformer": plain,
    "DAT": dat,
    "DAT++": dat,
    "MSwin": mswin,
    "CAT-Net": catnet,
}


def build(fixture: Any, opt: dict[str, Any]) -> Any:
    """Return the network that ``opt`` describes, with the fixture's weights and mode."""
    return filled(bx.build_network(opt), fixture)


def filled(module: nn.Module, fixture: Any) -> Any:
    """Give a module the fixture's weights and mode."""
    weights = {key: torch.from_numpy(value) for key, value in fixture.weights().items()}
    report = bx.load_weights(module.to(**_place), weights)
    assert len(report.taken) == len(weights)
    return module.train(fixture.meta.get("mode") == "train")


def inputs(fixture: Any) -> list[Tensor]:
    """Return the fixture's inputs as tensors."""
    return [torch.from_numpy(array).to(**_place) for array in fixture.inputs()]


def differentiate(forward: Callable[[list[Tensor]], list[Tensor]], fixture: Any) -> dict[str, np.ndarray]:
    """Return outputs and input gradients of the sum of ``mean(y ** 2)`` under the names the fixture uses.

    The sum is over the outputs that the fixture's formula names, or over all.
    """
    images = [image.requires_grad_() for image in inputs(fixture)]
    outputs = named("y", forward(images), fixture)
    said = fixture.meta.get("loss", "")
    formula = said if isinstance(said, str) else said.get("formula", "")
    counted = re.findall(r"\by\d*\b", formula) or list(outputs)
    loss = torch.stack([(outputs[name] ** 2).mean() for name in counted]).sum()
    arrays = {**outputs, **named("dx", torch.autograd.grad(loss, images), fixture)}
    return {name: array.detach().cpu().numpy() for name, array in arrays.items()}


def named(stem: str, tensors: Any, fixture: Any) -> dict[str, Tensor]:
    """Name a lone tensor ``stem`` where the fixture does, and number several."""
    if stem in fixture.arrays:
        return {stem: tensors[0]}
    return {f"{stem}{i}": tensor for i, tensor in enumerate(tensors)}
