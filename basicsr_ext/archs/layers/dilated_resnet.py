"""ResNets with DeepLab's dilation (arXiv:1706.05587): features at an eighth of the resolution.

They are torchvision's, with its state-dict keys, so its published weights fit: those of its classifiers
(ImageNet) and of its DeepLabV3 (COCO). Nothing is downloaded unless asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import torch
from torch import nn
from torchvision.models import get_weight, resnet

from ..weights import load_weights, read_checkpoint

Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101"]


class DilatedBasicBlock(resnet.BasicBlock):
    """The block of ResNet-18 and -34 with the dilation that torchvision offers for larger ones only."""

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
        dilation: int = 1,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__(inplanes, planes, stride, downsample, groups, base_width, 1, norm_layer)
        for conv in (self.conv1, self.conv2):
            conv.dilation = conv.padding = (dilation, dilation)


_BACKBONES: dict[str, tuple[type[DilatedBasicBlock] | type[resnet.Bottleneck], list[int]]] = {
    "resnet18": (DilatedBasicBlock, [2, 2, 2, 2]),
    "resnet34": (DilatedBasicBlock, [3, 4, 6, 3]),
    "resnet50": (resnet.Bottleneck, [3, 4, 6, 3]),
    "resnet101": (resnet.Bottleneck, [3, 4, 23, 3]),
}


def dilated_resnet(backbone: Backbone, stages: int = 4) -> tuple[nn.Sequential, int]:
    """Return a ResNet without its classifier, and the number of its features.

    It maps (B, 3, H, W) to (B, features, H / 8, W / 8), sides rounded up.

    Args:
        backbone: its name in torchvision.
        stages: residual stages kept, from the first; the fewer, the faster.

    Raises:
        ValueError: an unknown name, or a number of stages other than 2, 3 or 4.
    """
    if backbone not in _BACKBONES:
        raise ValueError(f"backbone: found {backbone!r}, expected one of {', '.join(map(repr, _BACKBONES))}")
    if stages not in (2, 3, 4):
        raise ValueError(f"stages: found {stages}, expected 2, 3 or 4")
    block, depths = _BACKBONES[backbone]
    net = resnet.ResNet(block, depths, replace_stride_with_dilation=[False, True, True])
    kept = ["conv1", "bn1", "relu", "maxpool", *(f"layer{i + 1}" for i in range(stages))]
    features = 2 ** (stages + 5) * block.expansion
    return nn.Sequential(OrderedDict((name, getattr(net, name)) for name in kept)), features


def load_backbone(net: nn.Sequential, backbone: Backbone, weights: str, download: bool = False) -> None:
    """Give a :func:`dilated_resnet` published weights; what a checkpoint holds beyond it is left.

    Args:
        net: the network.
        backbone: its name.
        weights: a torchvision checkpoint, or "imagenet" or "coco", which mean torchvision's in torch's cache.
        download: fetch those two where the cache lacks them.

    Raises:
        ValueError: there are no such weights of this backbone, or the file does not hold them.
        FileNotFoundError: there is no such file, and it is not to be, or cannot be, downloaded.
    """
    file = _published(backbone, weights, download) if weights in ("imagenet", "coco") else Path(weights)
    if not file.is_file():
        raise FileNotFoundError(f"backbone_weights: {weights!r} is neither 'imagenet', 'coco' nor a file")
    own = net.state_dict()
    content = {key.removeprefix("backbone."): value for key, value in read_checkpoint(file).items()}
    try:
        load_weights(net, {key: value for key, value in content.items() if key in own})
    except ValueError as error:
        raise ValueError(f"backbone_weights: {file} does not hold a {backbone}: {error}") from error


def _published(backbone: Backbone, weights: str, download: bool) -> Path:
    name = backbone.replace("resnet", "ResNet")
    if weights == "imagenet":
        entry = f"{name}_Weights.IMAGENET1K_V1"
    elif backbone in ("resnet50", "resnet101"):
        entry = f"DeepLabV3_{name}_Weights.COCO_WITH_VOC_LABELS_V1"
    else:
        raise ValueError(f"backbone_weights: there are none of {backbone} from COCO; use 'imagenet'")
    url = get_weight(entry).url
    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if file.is_file():
        return file
    by_hand = f"save {url} as {file}, or give the path of a file"
    if not download:
        raise FileNotFoundError(
            f"backbone_weights: {weights!r} of {backbone} is not in torch's cache;"
            f" {by_hand}, or set 'download: true'"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(file), file.stem.rpartition("-")[2], progress=False)
    except (OSError, RuntimeError) as error:  # no network, no space; another content than published
        raise FileNotFoundError(f"backbone_weights: the download failed ({error}); {by_hand}") from error
    return file
