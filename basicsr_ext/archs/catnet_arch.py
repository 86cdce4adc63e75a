"""CAT-Net: Few Shot Medical Image Segmentation with Cross Attention Transformer (arXiv:2303.13867).

An episode asks for the foreground of a query image, given support images with their masks. A ResNet at an
eighth of the resolution sees all of them; the support foreground and its similarity with the query give a
first query mask. Every round then lets support and query attend to themselves and to each other's
foreground, and segments the query by its cosines with the support's prototypes; the mask goes to the next
round. State-dict keys are those of the official release, whose computation differs: see :class:`CATNet`.

Shapes: B episodes, S shots, H x W image, h x w features (H / 8 x W / 8, rounded up), N = h * w positions in
rows, K positions attended to, C = dim, R predictions. Pairs of classes are (background, foreground).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP

from . import NETWORKS
from .layers.convolution import conv3x3, in_nchw, pointwise
from .layers.derived import derived
from .layers.dilated_resnet import Backbone, dilated_resnet, load_backbone

Variant = Literal["paper", "released"]
Direction = Literal["both", "support_to_query", "query_to_support", "none"]
Background = Literal["prototype", "threshold"]

_SIMILARITY_SCALE = 20.0


class CATNetOutput(NamedTuple):
    """What an episode's loss and its result need.

    Softmax over the class axis gives probabilities; ``F.cross_entropy`` takes the logits as they are.

    Attributes:
        query_logits: (B, R, 2, H, W), the query's prediction before the first round and after each; the
            last is the result, all are to be trained. The released variant has R = 1.
        support_logits: (B, S, 2, H, W), the support segmented by prototypes of the *query's* last
            prediction, for PANet's alignment loss against the support masks.
        alignable: (B,) bool, false where the query's last prediction has no foreground, hence no prototype;
            the alignment loss of such an episode is zero.
    """

    query_logits: Tensor
    support_logits: Tensor
    alignable: Tensor

    @property
    def foreground(self) -> Tensor:
        """The result as (B, H, W) bool; ties are background."""
        return self.query_logits[:, -1, 1] > self.query_logits[:, -1, 0]


# --- encoder ---------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """DeepLabV3's dilated ResNet, and a 1 x 1 convolution to C channels.

    Args:
        backbone: the ResNet.
        dim: C.
        stages: residual stages kept, from the first; 2 (the least) make a network for CPUs.
        released: hold DeepLab's pyramid and another convolution, too, which the release has without use.
    """

    def __init__(
        self, backbone: Backbone = "resnet101", dim: int = 256, stages: int = 4, released: bool = False
    ) -> None:
        super().__init__()
        self.backbone, channels = dilated_resnet(backbone, stages)
        self.localconv = nn.Conv2d(channels, dim, 1, bias=False)
        if released:
            pyramid = nn.Sequential(ASPP(channels, [12, 24, 36]), nn.Conv2d(256, 256, 3, bias=False))
            self.asppconv = nn.Conv2d(256, dim, 1, bias=False).requires_grad_(False)
            self.aspp_out = pyramid.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to (B, C, h, w)."""
        return self.localconv(self.backbone(images))


# --- attention -------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Attention of one head from one set of positions to another, a network of two layers, layer norm.

    In the paper the input is added before the norm, which is a position's own. Given a ``feature_size``,
    nothing is added and one norm spans the whole map, as released; that ties the module to the size.

    Args:
        dim: C; queries and keys have C / 8 channels.
        feature_size: (h, w) of the released form; None is the paper's.
        normalise: what weights sum to one over: the "keys", or, in the released self attention, "queries".
    """

    def __init__(
        self,
        dim: int,
        feature_size: Sequence[int] | None = None,
        normalise: Literal["keys", "queries"] = "keys",
    ) -> None:
        super().__init__()
        self.feature_size = None if feature_size is None else tuple(feature_size)
        self.softmax_axis = -1 if normalise == "keys" else -2
        self.query = nn.Conv2d(dim, dim // 8, 1)
        self.key = nn.Conv2d(dim, dim // 8, 1)
        self.value = nn.Conv2d(dim, dim, 1)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim if self.feature_size is None else [dim, *self.feature_size])

    def forward(self, x: Tensor, context: Tensor, foreground: Tensor | None = None) -> Tensor:
        """Map x (B, N, C), which attends to context (B, K, C), to (B, N, C).

        Args:
            x: positions that ask.
            context: positions that answer.
            foreground: (B, K) bool, the only positions that answer; where there are none, attention
                contributes zeros.
        """
        q, k, v = pointwise(self.query, x), pointwise(self.key, context), pointwise(self.value, context)
        logits = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
        if foreground is None:
            y = logits.softmax(self.softmax_axis) @ v
        else:
            any_answer = foreground.any(1, keepdim=True)
            silent = ~foreground & any_answer
            weights = logits.masked_fill(silent[:, None], -torch.inf).softmax(self.softmax_axis)
            y = weights @ v * any_answer[..., None]
        y = self.mlp(y)
        if self.feature_size is None:
            return self.norm(x + y)
        whole = y.transpose(1, 2).unflatten(2, self.feature_size)
        return self.norm(whole).flatten(2).transpose(1, 2)


# --- masks, prototypes, similarity -----------------------------------------------------------------


def prior_mask(query: Tensor, support: Tensor, foreground: Tensor) -> Tensor:
    """Return each query position's largest cosine with a support position, stretched to 0..1.

    Args:
        query: features (B, N, C).
        support: features (B, K, C).
        foreground: (B, K) factors of the support features; positions with 0 have cosine 0.

    Returns:
        (B, N).
    """
    support = support * foreground[..., None]
    norms = (
        torch.linalg.vector_norm(support, dim=2)[:, :, None] * torch.linalg.vector_norm(query, dim=2)[:, None]
    )
    best = (support @ query.transpose(1, 2) / (norms + 1e-7)).amax(1)
    low, high = best.amin(1, keepdim=True), best.amax(1, keepdim=True)
    return (best - low) / (high - low + 1e-7)


def resize(x: Tensor, size: Sequence[int], align_corners: bool = False) -> Tensor:
    """Interpolate (..., H, W) bilinearly to ``size``, as ``F.interpolate`` does.

    Unlike there, gradients on GPUs are the same to the bit each time.
    """
    rows, columns = (
        _interpolation(before, after, align_corners, x.device, x.dtype)
        for before, after in zip(x.shape[-2:], size, strict=True)
    )
    return rows.T @ x @ columns


def position_weights(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Return how much each of h x w positions counts in a sum over the pixels of ``masks`` (..., H, W).

    The sum of features that were enlarged bilinearly to H x W, over the pixels of a mask, equals the sum of
    the features times these weights (..., h, w): the enlarged features need not be made.
    """
    rows, columns = (
        _interpolation(small, large, False, masks.device, masks.dtype)
        for small, large in zip(size, masks.shape[-2:], strict=True)
    )
    return rows @ masks @ columns.T


@derived
def _interpolation(
    before: int, after: int, align_corners: bool, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return the weight of each of ``before`` values in each of ``after`` interpolated ones."""
    identity = torch.eye(before, device=device, dtype=dtype)
    return F.interpolate(identity[None], size=after, mode="linear", align_corners=align_corners)[0]


def prototypes(features: Tensor, weights: Tensor) -> Tensor:
    """Return the mean features of each class, averaged over the shots.

    Args:
        features: (B, S, N, C).
        weights: (B, S, 2, N), what each position counts for each class.

    Returns:
        (B, 2, C); zeros for a class that counts nowhere.
    """
    return (weights @ features / (weights.sum(-1, keepdim=True) + 1e-5)).mean(1)


# --- network ---------------------------------------------------------------------------------------


@NETWORKS.register()
class CATNet(nn.Module):
    """Few-shot segmentation by cross masked attention and iterative refinement.

    The release computes something else than the paper: foreground masks never reach its attention, and its
    cross attention and refinement never reach its output; self attention normalises over the queries, adds
    no residual, and enhances the query only; support prototypes are those of raw features; a learned
    threshold stands for the background. ``variant: released`` computes that, ``paper`` what the paper says.
    As in the release, attention has one head, and all rounds share its weights.

    Args:
        variant: "paper" or "released"; the latter has none of the switches from ``blocks`` on.
        use_coco_init: the release's way to say ``backbone_weights: coco``.
        feature_size: (h, w) of the released variant, an eighth of its images; default (32, 32).
        backbone: "resnet101" or "resnet50"; "resnet34" or "resnet18" for small machines.
        stages: residual stages kept, from the first: 2, 3 or 4.
        dim: C, width of everything after the backbone; a multiple of 8.
        backbone_weights: what the backbone starts from: a torchvision checkpoint, or "imagenet" or "coco"
            in torch's cache; default: random weights.
        download: fetch "imagenet" or "coco" where torch's cache lacks it.
        blocks: refinement rounds; with 0, the first mask is the result.
        cross_attention: whose foreground enhances whom: "support_to_query", "query_to_support", "both" or
            "none".
        masks: restrict cross attention to the foreground.
        prior: make the first mask from the similarity with the support foreground, too.
        background: "prototype" as in the paper, or the release's learned "threshold".
        mask_threshold: foreground probability from which the next round attends to a query position; and
            share of the most covered support position's foreground from which all attend to another.

    Raises:
        ValueError: arguments that contradict each other, or weights that do not fit.
        FileNotFoundError: ``backbone_weights`` are not there; the message says where to get them.
    """

    t: nn.Parameter | None
    """The learned threshold, -10 to begin with: foreground is where the cosine exceeds 0.5."""

    def __init__(
        self,
        variant: Variant = "paper",
        use_coco_init: bool = False,
        feature_size: Sequence[int] | None = None,
        backbone: Backbone = "resnet101",
        stages: int = 4,
        dim: int = 256,
        backbone_weights: str | None = None,
        download: bool = False,
        blocks: int = 4,
        cross_attention: Direction = "both",
        masks: bool = True,
        prior: bool = True,
        background: Background = "prototype",
        mask_threshold: float = 0.4,
    ) -> None:
        super().__init__()
        switches = {
            "blocks": blocks,
            "cross_attention": cross_attention,
            "masks": masks,
            "prior": prior,
            "background": background,
            "mask_threshold": mask_threshold,
        }
        _check(variant, feature_size, dim, switches)
        if use_coco_init and backbone_weights not in (None, "coco"):
            raise ValueError(
                f"backbone_weights: {backbone_weights!r} contradicts use_coco_init; give one of them"
            )
        self.released = variant == "released"
        self.blocks = blocks
        self.support_to_query = cross_attention in ("both", "support_to_query")
        self.query_to_support = cross_attention in ("both", "query_to_support")
        self.masks = masks
        self.prior = prior
        self.mask_threshold = mask_threshold

        self.encoder = Encoder(backbone, dim, stages, self.released)
        start = "coco" if use_coco_init else backbone_weights
        if start is not None:
            load_backbone(self.encoder.backbone, backbone, start, download)

        learned = self.released or background == "threshold"
        self.register_parameter("t", nn.Parameter(torch.tensor([-10.0])) if learned else None)
        if self.released:
            self.feature_size = tuple(feature_size or (32, 32))
            self.self_attention = Attention(dim, self.feature_size, "queries")
            self.cross_attention = Attention(dim, self.feature_size).requires_grad_(False)  # without use
            self.conv_fusion = nn.Conv2d(dim + 1, dim, 1)
            return
        self.conv_fusion = nn.Conv2d(2 * dim + prior, dim, 1)
        self.support_fusion = nn.Conv2d(2 * dim, dim, 1)
        self.classifier = nn.Sequential(conv3x3(dim, dim), nn.ReLU(), nn.Conv2d(dim, 2, 1))
        if blocks:
            self.self_attention = Attention(dim)
            if cross_attention != "none":
                self.cross_attention = Attention(dim)

    def forward(self, support_images: Tensor, support_masks: Tensor, query_images: Tensor) -> CATNetOutput:
        """Segment the query of each episode.

        Everything after the encoder has the weights' precision, whatever autocast says: it costs little, and
        logits are 20 times a cosine.

        Args:
            support_images: (B, S, 3, H, W), normalised like the training images; any H and W in the paper's
                variant, eight times ``feature_size`` in the released one.
            support_masks: (B, S, H, W); 1 is foreground, 0 background, anything else neither.
            query_images: (B, 3, H, W).

        Raises:
            ValueError: shapes that do not fit.
        """
        _check_episode(support_images, support_masks, query_images)
        B, S, _, H, W = support_images.shape
        # Batch normalisation sees support and query as one batch, the support first.
        features = self.encoder(torch.cat([support_images.flatten(0, 1), query_images]))
        h, w = grid = features.shape[2:]
        if self.released and (h, w) != self.feature_size:
            raise ValueError(
                f"images of {H} x {W} have features of {h} x {w}, feature_size is {list(self.feature_size)}:"
                " use images of 8 times that, or variant 'paper'"
            )
        with torch.autocast(features.device.type, enabled=False):
            x = features.to(self.conv_fusion.weight.dtype).flatten(2).transpose(1, 2)
            support, query = x[: B * S].unflatten(0, (B, S)), x[B * S :]
            masks = torch.stack([support_masks == 0, support_masks == 1], 2).to(x.dtype)
            segment = self._as_released if self.released else self._by_rounds
            support, query, scores = segment(support, query, masks, grid)

            predicted = scores[:, -1, 1] > scores[:, -1, 0]  # (B, N); ties are background
            weights = torch.stack([~predicted, predicted], 1)[:, None].to(x.dtype)
            aligned = self._scores(support, prototypes(query[:, None], weights))
            return CATNetOutput(
                query_logits=self._enlarge(scores.unflatten(3, grid), (H, W)),
                support_logits=self._enlarge(aligned.unflatten(3, grid), (H, W)),
                alignable=predicted.any(1),
            )

    def _as_released(
        self, support: Tensor, query: Tensor, masks: Tensor, grid: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return raw support features, fused query features and their only scores (B, 1, 2, N)."""
        foreground = resize(masks[:, :, 1], grid, align_corners=True).flatten(1)
        query = self.self_attention(query, query)
        prior = prior_mask(query, support.flatten(1, 2), foreground)
        query = pointwise(self.conv_fusion, torch.cat([query, prior[..., None]], 2))
        weights = position_weights(masks, grid).flatten(3)
        return support, query, self._scores(query[:, None], prototypes(support, weights))

    def _by_rounds(
        self, support: Tensor, query: Tensor, masks: Tensor, grid: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (B, S, N, C) and (B, N, C) after the last round, and all scores (B, R, 2, N)."""
        weights = position_weights(masks, grid).flatten(3)  # (B, S, 2, N)
        covered = weights[:, :, 1] / position_weights(torch.ones_like(masks[0, 0, 0]), grid).flatten()
        # A position as foreground as the most foreground one stays visible, however small the organ.
        visible = (covered > 0) & (covered >= self.mask_threshold * covered.amax(2, keepdim=True))

        pooled = prototypes(support, weights)[:, 1:]  # (B, 1, C)
        shown = [query, pooled.expand_as(query)]
        if self.prior:
            foreground = visible.flatten(1).to(query.dtype)
            shown.append(prior_mask(query, support.flatten(1, 2), foreground)[..., None])
        query = F.relu(pointwise(self.conv_fusion, torch.cat(shown, 2)))
        shown = [support, pooled[:, None].expand_as(support)]
        support = F.relu(pointwise(self.support_fusion, torch.cat(shown, 3)))

        first = in_nchw(self.classifier, query.unflatten(1, grid))  # (B, h, w, 2)
        scores = [first.flatten(1, 2).transpose(1, 2)[:, None]]
        for _ in range(self.blocks):
            support, query = self._enhance(support, query, visible, scores[-1][:, 0])
            scores.append(self._scores(query[:, None], prototypes(support, weights)))
        return support, query, torch.cat(scores, 1)

    def _enhance(
        self, support: Tensor, query: Tensor, visible: Tensor, scores: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return support (B, S, N, C) and query (B, N, C) after a round of self and cross attention.

        ``visible`` (B, S, N) is the support's foreground, ``scores`` (B, 2, N) are the query's so far.
        """
        images = torch.cat([support, query[:, None]], 1)
        positions = images.flatten(0, 1)
        images = self.self_attention(positions, positions).view_as(images)
        shots, query = images[:, :-1].flatten(1, 2), images[:, -1]
        seen = visible.flatten(1) if self.masks else None
        predicted = scores.softmax(1)[:, 1] >= self.mask_threshold if self.masks else None
        enhanced_query = self.cross_attention(query, shots, seen) if self.support_to_query else query
        enhanced_shots = self.cross_attention(shots, query, predicted) if self.query_to_support else shots
        return enhanced_shots.view_as(support), enhanced_query

    def _scores(self, features: Tensor, classes: Tensor) -> Tensor:
        """Return the logits (B, S, 2, N) of features (B, S, N, C) for prototypes (B, 2, C)."""
        cosines = F.cosine_similarity(features[:, :, None], classes[:, None, :, None], dim=4)
        if self.t is None:
            return _SIMILARITY_SCALE * cosines
        foreground = 0.5 * (_SIMILARITY_SCALE * cosines[:, :, 1] + self.t)
        return torch.stack([torch.zeros_like(foreground), foreground], 2)

    def _enlarge(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits (..., 2, H, W) of scores (..., 2, h, w); the release enlarges probabilities."""
        if not self.released:
            return resize(scores, size)
        smallest = torch.finfo(torch.float32).eps
        return resize(scores.softmax(-3), size, align_corners=True).clamp(smallest, 1 - smallest).log()


def _check(variant: str, feature_size: Sequence[int] | None, dim: int, switches: Mapping[str, Any]) -> None:
    for name, found, choices in (
        ("variant", variant, get_args(Variant)),
        ("cross_attention", switches["cross_attention"], get_args(Direction)),
        ("background", switches["background"], get_args(Background)),
    ):
        if found not in choices:
            raise ValueError(f"{name}: found {found!r}, expected one of {', '.join(map(repr, choices))}")
    defaults = inspect.signature(CATNet).parameters
    for name, found in switches.items():
        if variant == "released" and found != defaults[name].default:
            raise ValueError(f"{name}: variant 'released' computes what it does; leave {name} out")
    if feature_size is not None and (variant == "paper" or len(feature_size) != 2):
        raise ValueError(f"feature_size: found {feature_size}, expected (h, w) and variant 'released'")
    if dim < 8 or dim % 8:
        raise ValueError(f"dim: found {dim}, expected a multiple of 8")
    if switches["blocks"] < 0:
        raise ValueError(f"blocks: found {switches['blocks']}, expected 0 or more")
    if not 0 < switches["mask_threshold"] < 1:
        raise ValueError(f"mask_threshold: found {switches['mask_threshold']}, expected it between 0 and 1")


def _check_episode(support_images: Tensor, support_masks: Tensor, query_images: Tensor) -> None:
    if support_images.ndim != 5 or support_images.shape[2] != 3 or support_images.shape[1] == 0:
        raise ValueError(f"support_images: found {list(support_images.shape)}, expected (B, S, 3, H, W)")
    B, S, _, H, W = support_images.shape
    for name, found, expected in (
        ("support_masks", support_masks, (B, S, H, W)),
        ("query_images", query_images, (B, 3, H, W)),
    ):
        if found.shape != expected:
            raise ValueError(
                f"{name}: found {list(found.shape)}, expected {list(expected)}"
                f" for support_images of {list(support_images.shape)}"
            )
