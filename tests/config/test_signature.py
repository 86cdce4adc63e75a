"""Keyword arguments of an option file against the constructor they are for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest

from basicsr_ext.config import SourceMap, check_arguments


class Tensor:
    """Something YAML cannot write."""


class Network:
    def __init__(
        self,
        window_size: Sequence[int],
        depth: int = 2,
        ratio: float = 2.0,
        pair: tuple[int, int] = (1, 1),
        mode: Literal["a", "b"] = "a",
        bias: bool = True,
        norm: Callable[..., Any] | None = None,
        rate: float | Tensor = 0.1,
        size: int = None,  # type: ignore[assignment]  # noqa: RUF013 (as older code has it)
        table: dict[str, int] | None = None,
        free=None,
    ) -> None: ...


class Open:
    def __init__(self, scale: int, **kwargs: Any) -> None: ...


def metric(img, img2, crop_border, test_y_channel=False, **kwargs): ...


def lines(constructor: Callable[..., Any], supplied: Sequence[str] = (), /, **kwargs: Any) -> list[str]:
    problems = check_arguments(constructor, kwargs, "network_g", supplied)
    return [problem.line(SourceMap("o.yml")) for problem in problems]


@pytest.mark.parametrize(
    "kwargs",
    [
        {"window_size": [6, 24]},
        {"window_size": [], "depth": 3, "ratio": 2, "pair": [3, 4], "mode": "b", "bias": False},
        {"window_size": [8], "norm": "LayerNorm", "rate": 0.5, "size": None, "free": {"any": ["thing"]}},
        {"window_size": [8], "table": {"a": 1}, "norm": None},
    ],
)
def test_arguments_that_fit_are_accepted(kwargs):
    assert lines(Network, **kwargs) == []


@pytest.mark.parametrize(
    ("kwargs", "line"),
    [
        ({"depth": "2"}, "depth: found '2' (text), expected int"),
        ({"depth": True}, "depth: found true, expected int"),
        ({"depth": 2.0}, "depth: found 2.0, expected int"),
        ({"ratio": "2"}, "ratio: found '2' (text), expected float"),
        ({"pair": [1, 2, 3]}, "pair: found the list [1, 2, 3], expected tuple[int, int]"),
        ({"pair": [1, "2"]}, "pair: found the list [1, '2'], expected tuple[int, int]"),
        ({"mode": "c"}, "mode: found 'c' (text), expected Literal['a', 'b']"),
        ({"bias": 1}, "bias: found 1, expected bool"),
        ({"rate": "fast"}, "rate: found 'fast' (text), expected float"),
        ({"table": {"a": "b"}}, "table: found a mapping with the keys a, expected dict[str, int] | None"),
    ],
)
def test_a_value_that_does_not_fit_its_annotation_gives_one_line(kwargs, line):
    [found] = lines(Network, window_size=[8], **kwargs)
    # Python versions write a union in two ways.
    found = found.replace("Optional[dict[str, int]]", "dict[str, int] | None")
    assert found == f"o.yml: network_g.{line}"


def test_a_misspelt_argument_gives_one_line_though_it_is_missing_too():
    assert lines(Network, windw_size=[8]) == [
        "o.yml: network_g.windw_size: found an unknown key, expected an argument of Network; "
        "did you mean 'window_size'?"
    ]


def test_an_argument_unlike_any_gives_the_list():
    [line] = lines(Network, window_size=[8], zzz=1)
    assert "; known: window_size, depth, ratio" in line


def test_a_missing_argument_gives_one_line():
    assert lines(Network) == [
        "o.yml: network_g.window_size: found nothing, expected a value, which Network needs"
    ]


def test_constructors_that_take_anything_are_checked_where_they_name_arguments():
    assert lines(Open, scale=2, anything=1) == []
    assert lines(Open, scale="2") == ["o.yml: network_g.scale: found '2' (text), expected int"]


def test_supplied_arguments_are_neither_missing_nor_the_users():
    assert lines(metric, ("img", "img2"), crop_border=4) == []
    assert len(lines(metric, ("img", "img2"), crop_border=4, img=1)) == 1


def test_text_for_a_number_or_a_boolean_is_refused_without_annotation_too():
    assert lines(metric, ("img", "img2"), crop_border=4, test_y_channel="no") == [
        "o.yml: network_g.test_y_channel: found 'no' (text), expected true or false, like the default false"
    ]
    assert lines(metric, ("img", "img2"), crop_border=4, test_y_channel=True) == []


def test_constructors_without_signature_are_not_judged():
    assert lines(type, anything=1) == []


def test_optimizers_of_torch_are_checked():
    torch = pytest.importorskip("torch")
    given = {"lr": 2e-4, "weight_decay": 0, "betas": [0.9, 0.99]}
    assert lines(torch.optim.AdamW, ("params",), **given) == []
    [line] = lines(torch.optim.AdamW, ("params",), **given, weight_deca=1)
    assert line.endswith("did you mean 'weight_decay'?")
    assert "network_g.lr: found '1' (text)" in lines(torch.optim.Adam, ("params",), lr="1")[0]
