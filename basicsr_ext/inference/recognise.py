"""Which published network do weights belong to? Read off their keys and shapes.

One function a network: given the shapes by key, it returns what ``network_g`` of an option file would say, or
None for weights of another network. What shapes cannot tell comes from the published variants, of which they
tell the right one; where they do not, or for a variant of nobody's, :class:`CannotTellError` says what is
missing. Whether the answer is right is decided by loading the weights into the network, strictly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


class CannotTellError(ValueError):
    """The network is known, but not one of its arguments."""


def recognise(shapes: Shapes) -> dict[str, Any] | None:
    """Return type and arguments of the published network that has weights of these shapes, or None.

    Args:
        shapes: of all tensors of a file, without wrappers' prefixes; derived buffers help to tell more.

    Raises:
        CannotTellError: the type is known, but the shapes leave open an argument that no published variant
            settles.
    """
    for network in (_edt, _emt, _grl, _restormer, _swinir):
        if (described := network(shapes)) is not None:
            return described
    return None


# --- EDT --------------------------------------------------------------------------------------------

_EDT_HEADS = {60: 6, 120: 6, 180: 6, 240: 8}
"""Heads of EDT-T, S, B and L by their width; no shape depends on them, nor on the windows' (6, 24)."""


def _edt(shapes: Shapes) -> dict[str, Any] | None:
    tasks = list(dict.fromkeys(re.findall(r"^head_(\w+)\.0\.weight$", "\n".join(shapes), re.MULTILINE)))
    if not tasks or "body.patch_embed.norm.weight" not in shapes:
        return None
    levels = {kind: [task[len(kind) :] for task in tasks if task.startswith(kind)] for kind in _EDT_TASKS}
    first, (num_feat, in_channel, *_) = tasks[0], shapes[f"head_{tasks[0]}.0.weight"]
    width = shapes["body.norm.weight"][0]
    depths = _counts(shapes, "body.layers.{}.residual_group.blocks")
    if width not in _EDT_HEADS:
        raise CannotTellError(f"num_heads of an EDT of width {width}")
    scaled = [task for task in tasks if task.startswith("sr_x")]
    depth = _count(shapes, f"head_{first}") - 2
    direct = bool(scaled) and f"tail_{scaled[0]}.{depth + 1}.weight" not in shapes
    described = {
        "type": "EDT",
        "scales": [int(level) for level in levels["sr_x"]],
        "noise_levels": [int(level) for level in levels["dn_g"]],
        "rain_levels": levels["dr_"],
        "embed_dim": width,
        "num_feat": num_feat,
        "in_channel": in_channel,
        "depth": depth,
        "depths": depths,
        "num_heads": [_EDT_HEADS[width]] * len(depths),
        "mlp_ratio": shapes["body.layers.0.residual_group.blocks.0.mlp.fc1.weight"][0] / width,
        "resi_connection": _residual_conv(shapes, "body.conv_after_body"),
        "upsampler": "pixelshuffledirect" if direct else "pixelshuffle",
    }
    if len(scaled) < len(tasks):
        described["full_resolution"] = not any(".conv_down." in key for key in shapes)
    return described


_EDT_TASKS = ("sr_x", "dn_g", "dr_")


# --- EMT --------------------------------------------------------------------------------------------


_EMT_WIDTH = 60
"""Of all published networks; no shape depends on their heads, windows and shifts."""


def _emt(shapes: Shapes) -> dict[str, Any] | None:
    if "head.weight" not in shapes or "body.0.sa_list.0.attn.0.weight" not in shapes:
        return None
    dim, channels, *_ = shapes["head.weight"]
    steps = [key for key in ("tail.0.weight", "tail.2.weight", "tail.4.weight") if key in shapes]
    if not steps:
        return None
    if dim != _EMT_WIDTH:
        raise CannotTellError(f"num_heads and window_list of an EMT of width {dim}")
    out, last = shapes["tail.0.weight"][0], shapes[steps[-1]][0]
    if len(steps) > 1:
        upscale = math.prod(math.isqrt(shapes[key][0] // dim) for key in steps[:-1])
        task, channels_out = "csr", last
    else:
        channels_out = shapes.get("add_mean.bias", (channels,))[0]
        upscale = math.isqrt(out // channels_out)
        task = "lsr" if upscale > 1 else "denoising"
    layers = _count(shapes, "body.0.sa_list", "body.0.mlp_list")
    return {
        "type": "EMT",
        "num_in_ch": channels,
        "num_out_ch": channels_out,
        "task": task,
        "dim": dim,
        "n_blocks": _count(shapes, "body"),
        "n_layers": layers,
        "n_GTLs": sum(f"body.0.sa_list.{i}.attn.0.weight" in shapes for i in range(layers)),
        "mlp_ratio": shapes["body.0.mlp_list.0.fc1.weight"][0] / dim,
        "upscale": upscale,
    }


# --- GRL --------------------------------------------------------------------------------------------

_GRL_SR = {"window_size": 32, "stripe_size": [64, 64]}
"""Windows of all networks published for super-resolution; released files have tables that tell theirs."""
_GRL_ANCHORS = {64: 4, 128: 4, 180: 2}
"""Their anchors' factor (tiny, small, base), by width."""


def _grl(shapes: Shapes) -> dict[str, Any] | None:
    start = "layers.0.blocks.0.attn."
    if f"{start}window_attn.attn_transform.logit_scale" not in shapes:
        return None
    width, channels, *_ = shapes["conv_first.weight"]
    depths = _counts(shapes, "layers.{}.blocks")
    stages = range(len(depths))
    described: dict[str, Any] = {
        "type": "GRL",
        "in_channels": channels,
        "embed_dim": width,
        "depths": depths,
        "num_heads_window": [
            shapes[f"layers.{i}.blocks.0.attn.window_attn.attn_transform.logit_scale"][0] for i in stages
        ],
        "num_heads_stripe": [
            shapes[f"layers.{i}.blocks.0.attn.stripe_attn.attn_transform1.logit_scale"][0] for i in stages
        ],
        "mlp_ratio": shapes["layers.0.blocks.0.mlp.fc1.weight"][0] / width,
        "local_connection": any(".conv.cab." in key for key in shapes),
        "conv_type": _residual_conv(shapes, "conv_after_body"),
        **_head(shapes, width, channels, shuffle="upsample.up"),
    }
    channels_out = described.pop("channels_out")
    if channels_out != channels:
        described["out_channels"] = channels_out
    if windows := _grl_windows(shapes):
        return described | windows
    enlarges = described["upsampler"] in ("pixelshuffle", "pixelshuffledirect")
    if not enlarges or width not in _GRL_ANCHORS:
        raise CannotTellError("window_size and stripe_size of a GRL, whose tables the file lacks")
    return described | _GRL_SR | {"anchor_window_down_factor": _GRL_ANCHORS[width]}


def _grl_windows(shapes: Shapes) -> dict[str, Any] | None:
    """Return the windows that the tables of a released file were made for."""
    tables = [shapes.get(key) for key in ("table_w", "table_sh", "index_sh_a2w")]
    if any(table is None for table in tables):
        return None
    window, stripe, index = (table for table in tables if table is not None)
    anchors, tokens = index[-2:]
    factor = math.isqrt(tokens // anchors)
    # A table has n + n / factor - 1 relative positions along a side of n tokens.
    sides = [(length + 1) * factor // (factor + 1) for length in stripe[-3:-1]]
    return {
        "window_size": (window[-2] + 1) // 2,
        "stripe_size": sides,
        "anchor_window_down_factor": factor,
    }


# --- Restormer --------------------------------------------------------------------------------------


def _restormer(shapes: Shapes) -> dict[str, Any] | None:
    if "patch_embed.proj.weight" not in shapes or "latent.0.attn.temperature" not in shapes:
        return None
    levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
    dim, channels, *_ = shapes["patch_embed.proj.weight"]
    hidden = [shapes[f"{level}.0.ffn.project_out.weight"][1] for level in levels]
    return {
        "type": "Restormer",
        "inp_channels": channels,
        "out_channels": shapes["output.weight"][0],
        "dim": dim,
        "num_blocks": [_count(shapes, level) for level in levels],
        "num_refinement_blocks": _count(shapes, "refinement"),
        "heads": [shapes[f"{level}.0.attn.temperature"][0] for level in levels],
        "ffn_expansion_factor": _expansion([dim * 2**i for i in range(4)], hidden),
        "bias": "latent.0.attn.qkv.bias" in shapes,
        "LayerNorm_type": "WithBias" if "latent.0.norm1.body.bias" in shapes else "BiasFree",
        "dual_pixel_task": "skip_conv.weight" in shapes,
    }


def _expansion(widths: Sequence[int], hidden: Sequence[int]) -> float:
    """Return a factor whose products with ``widths``, rounded down, are ``hidden``: 2.66 if it is one."""
    if [int(width * 2.66) for width in widths] == list(hidden):
        return 2.66
    least = max(part / width for part, width in zip(hidden, widths, strict=True))
    below = min((part + 1) / width for part, width in zip(hidden, widths, strict=True))
    return least if int(widths[-1] * least) == hidden[-1] else (least + below) / 2


# --- SwinIR -----------------------------------------------------------------------------------------


def _swinir(shapes: Shapes) -> dict[str, Any] | None:
    table = "layers.{}.residual_group.blocks.0.attn.relative_position_bias_table"
    if table.format(0) not in shapes or "conv_first.weight" not in shapes:
        return None
    width, channels, *_ = shapes["conv_first.weight"]
    depths = _counts(shapes, "layers.{}.residual_group.blocks")
    window = (math.isqrt(shapes[table.format(0)][0]) + 1) // 2
    described = {
        "type": "SwinIR",
        "img_size": 8 * window,  # prepares masks for it; any multiple of the window will do
        "in_chans": channels,
        "embed_dim": width,
        "depths": depths,
        "num_heads": [shapes[table.format(i)][1] for i in range(len(depths))],
        "window_size": window,
        "mlp_ratio": shapes["layers.0.residual_group.blocks.0.mlp.fc1.weight"][0] / width,
        "ape": "absolute_pos_embed" in shapes,
        "patch_norm": "patch_embed.norm.weight" in shapes,
        "resi_connection": _residual_conv(shapes, "conv_after_body"),
        # Those for JPEG artefacts are the published ones of window 7, and of 255.
        "img_range": 255.0 if window == 7 else 1.0,
        **_head(shapes, width, channels, shuffle="upsample"),
    }
    del described["channels_out"]
    return described


# --- what several have ------------------------------------------------------------------------------


def _head(shapes: Shapes, width: int, channels: int, shuffle: str) -> dict[str, Any]:
    """Return upsampler, upscale and channels_out of the head that SwinIR and GRL share."""
    if "conv_up1.weight" in shapes:
        return {"upsampler": "nearest+conv", "upscale": 4, "channels_out": shapes["conv_last.weight"][0]}
    if "conv_before_upsample.0.weight" in shapes:
        inner = shapes["conv_before_upsample.0.weight"][0]
        steps = [shapes[key][0] for i in (0, 2, 4) if (key := f"{shuffle}.{i}.weight") in shapes]
        upscale = math.prod(math.isqrt(step // inner) for step in steps)
        return {
            "upsampler": "pixelshuffle",
            "upscale": upscale,
            "channels_out": shapes["conv_last.weight"][0],
        }
    if (direct := shapes.get(f"{shuffle}.0.weight")) is not None:
        upscale = math.isqrt(direct[0] // channels)
        return {"upsampler": "pixelshuffledirect", "upscale": upscale, "channels_out": channels}
    return {"upsampler": "", "upscale": 1, "channels_out": shapes["conv_last.weight"][0]}


def _residual_conv(shapes: Shapes, key: str) -> str:
    return "1conv" if f"{key}.weight" in shapes else "3conv"


def _count(shapes: Iterable[str], *prefixes: str) -> int:
    """Return how many numbers follow any of ``prefixes``, counted from 0."""
    pattern = re.compile(rf"(?:{'|'.join(map(re.escape, prefixes))})\.(\d+)\.")
    return max((int(match[1]) + 1 for key in shapes if (match := pattern.match(key))), default=0)


def _counts(shapes: Iterable[str], pattern: str) -> list[int]:
    """Return :func:`_count` for each number put into ``pattern``, until there is none."""
    return [_count(shapes, pattern.format(i)) for i in range(_count(shapes, pattern.split(".{}")[0]))]
