"""ONNX: what lies between an image of any size and a network that takes multiples only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..archs.padding import SizeRequirement

_PADDING = """
  rows_or_columns{axis} = Constant <value = int64 {{{place}}}> ()
  length{axis} = Gather (size, rows_or_columns{axis})
  {padded_length}
  twice{axis} = Mul (length{axis}, two)
  period{axis} = Sub (twice{axis}, outermost_once)
  at_least_one{axis} = Max (period{axis}, one)
  along{axis} = Range (zero, padded_length{axis}, one)
  position{axis} = Mod (along{axis}, at_least_one{axis})
  last{axis} = Sub (period{axis}, repeated)
  back{axis} = Sub (last{axis}, position{axis})
  nearer{axis} = Min (position{axis}, back{axis})
  index{axis} = Max (nearer{axis}, zero)
  {result} = Gather <axis = {axis}> ({source}, index{axis})
"""
"""Mirrors one axis to its length, as :func:`..archs.padding.mirror_to` does."""

_UP = """divisible{axis} = Add (length{axis}, multiple_less_one)
  count{axis} = Div (divisible{axis}, multiple)
  padded_length{axis} = Mul (count{axis}, multiple)"""
_TO_NEXT = """count{axis} = Div (length{axis}, multiple)
  count_and_one{axis} = Add (count{axis}, one)
  padded_length{axis} = Mul (count_and_one{axis}, multiple)"""

_BEFORE = """<ir_version: {ir}, opset_import: ["" : {opset}]>
before ({image}) => (float[batch, {channels}, padded_height, padded_width] padded, int64[2] size) {{
  {to_planes}
  size = Shape <start = 2, end = 4> (planes)
  zero = Constant <value = int64 {{0}}> ()
  one = Constant <value = int64 {{1}}> ()
  two = Constant <value = int64 {{2}}> ()
  repeated = Constant <value = int64 {{{repeated}}}> ()
  outermost_once = Constant <value = int64 {{{outermost_once}}}> ()
  multiple = Constant <value = int64 {{{multiple}}}> ()
  multiple_less_one = Constant <value = int64 {{{multiple_less_one}}}> ()
  {pad_rows}
  {pad_columns}
}}"""

_AFTER = """<ir_version: {ir}, opset_import: ["" : {opset}]>
after (float[batch, channels_out, rows, columns] padded_result, int64[2] size) => ({restored}) {{
  scale = Constant <value = int64[1] {{{scale}}}> ()
  start = Constant <value = int64[2] {{0, 0}}> ()
  axes = Constant <value = int64[2] {{2, 3}}> ()
  end = Mul (size, scale)
  result = Slice (padded_result, start, end, axes)
  {from_planes}
}}"""

_FLOAT_IMAGE = "float[batch, {channels}, {sides}] {name}"
_BYTE_IMAGE = "uint8[batch, {sides}, {channels}] {name}"
_BYTES_TO_PLANES = """white = Constant <value = float {{255}}> ()
  levels = Cast <to = 1> (image)
  values = Div (levels, white)
  planes = Transpose <perm = [0, 3, 1, 2]> (values)"""
_PLANES_TO_BYTES = """white = Constant <value = float {{255}}> ()
  black = Constant <value = float {{0}}> ()
  values = Mul (result, white)
  inside = Clip (values, black, white)
  rounded = Round (inside)
  levels = Cast <to = 2> (rounded)
  restored = Transpose <perm = [0, 2, 3, 1]> (levels)"""


def with_images(
    network: Any,
    requirement: SizeRequirement,
    scale: int,
    channels: int,
    sides: Sequence[str | int],
    eight_bit: bool,
) -> Any:
    """Return an ONNX model that pads ``image``, runs a network, and cuts its result to ``restored``.

    Args:
        network: an ONNX model that maps ``image`` (N, C, H, W) of sides that fit to ``output``.
        requirement: which sides fit, and how images are extended to them.
        scale: output side over input side.
        channels: of the image.
        sides: height and width of the image, or names for any.
        eight_bit: both are uint8 (N, H, W, C) instead of float (N, C, H, W) in 0..1.
    """
    from onnx import compose, parser

    versions = {
        "ir": network.ir_version,
        "opset": next(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx")),
    }
    repeated = int(requirement.mode == "flip")
    kind = _BYTE_IMAGE if eight_bit else _FLOAT_IMAGE

    def padding(axis: int, source: str, result: str) -> str:
        lengths = (_TO_NEXT if requirement.always else _UP).format(axis=axis)
        return _PADDING.format(
            axis=axis, place=axis - 2, padded_length=lengths, source=source, result=result
        ).strip()

    before = parser.parse_model(
        _BEFORE.format(
            **versions,
            image=kind.format(channels=channels, sides=f"{sides[0]}, {sides[1]}", name="image"),
            channels=channels,
            to_planes=_BYTES_TO_PLANES.format() if eight_bit else "planes = Identity (image)",
            repeated=repeated,
            outermost_once=2 - 2 * repeated,
            multiple=requirement.multiple_of,
            multiple_less_one=requirement.multiple_of - 1,
            pad_rows=padding(2, "planes", "taller"),
            pad_columns=padding(3, "taller", "padded"),
        )
    )
    after = parser.parse_model(
        _AFTER.format(
            **versions,
            restored=kind.format(channels="channels_out", sides="height_out, width_out", name="restored"),
            scale=scale,
            from_planes=_PLANES_TO_BYTES.format() if eight_bit else "restored = Identity (result)",
        )
    )
    # Names of the network's own values may be any; those of what lies around it get a prefix.
    before = compose.add_prefix(before, "before/", rename_inputs=False)
    after = compose.add_prefix(after, "after/", rename_outputs=False)
    network = compose.add_prefix(network, "network/")
    joined = compose.merge_models(before, network, io_map=[("before/padded", "network/image")])
    ends = [("network/output", "after/padded_result"), ("before/size", "after/size")]
    return compose.merge_models(joined, after, io_map=ends)
