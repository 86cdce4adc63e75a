"""YAML as option files use it: plain data, numbers as in YAML 1.2, places of all keys."""

# ruff: noqa: E501 (a message is one line here, too)

from __future__ import annotations

import math

import pytest

from basicsr_ext.config import SourceMap
from basicsr_ext.config.yaml_text import MAX_DEPTH, Document, read_yaml, to_text


def read(text: str) -> Document:
    return read_yaml(text, lambda line: f"f:{line}")


def value(text: str) -> object:
    document = read(text)
    assert document.problems == []
    return document.value


def lines(text: str) -> list[str]:
    return [problem.line(SourceMap()) for problem in read(text).problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2e-4", 2e-4),
        ("1e5", 1e5),
        ("4E3", 4000.0),
        ("-.5", -0.5),
        ("255.", 255.0),
        ("!!float 2e-4", 2e-4),
        ("!!float 5", 5.0),
        ("!!int '5'", 5),
        ("!!str 5", "5"),
        ("12", 12),
        ("010", 10),
        ("0x10", 16),
        ("0o10", 8),
        ("1_000_000", 1000000),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("TRUE", True),
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("~", None),
        ("null", None),
        ("'2e-4'", "2e-4"),
        ("2e-4x", "2e-4x"),
        ("<<", "<<"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, expected):
    found = value(f"key: {text}")
    assert found == {"key": expected}
    assert type(found["key"]) is type(expected)


def test_not_a_number_is_a_number():
    assert math.isnan(value(".NaN"))


def test_an_empty_value_is_null():
    assert value("a:\nb:\n") == {"a": None, "b": None}


def test_every_key_and_list_item_has_its_line():
    places = read("a:\n  b: 1\n  c:\n  - x: 1\n    y: 2\n  - {x: 3,\n     y: 4}\n").places
    assert places == {
        "a": "f:1",
        "a.b": "f:2",
        "a.c": "f:3",
        "a.c.0": "f:4",
        "a.c.0.x": "f:4",
        "a.c.0.y": "f:5",
        "a.c.1": "f:6",
        "a.c.1.x": "f:6",
        "a.c.1.y": "f:7",
    }


def test_a_key_without_place_is_located_at_its_nearest_ancestor():
    source = SourceMap("o.yml", {"a": "o.yml:1", "a.b": "o.yml:2"})
    assert source.locate("a.b.c.d") == "o.yml:2"
    assert source.locate("z.b") == "o.yml"


def test_merged_keys_give_way_to_written_ones_and_are_no_duplicates():
    document = read(
        "base: &base {x: 1, y: 2}\nmore: &more\n  y: 3\n  z: 4\nuse:\n  <<: [*base, *more]\n  x: 5\n"
    )
    assert document.problems == []
    assert document.value["use"] == {"x": 5, "y": 2, "z": 4}
    assert document.places["use.x"] == "f:7"
    assert document.places["use.y"] == "f:1"
    assert document.places["use.z"] == "f:4"


def test_aliases_are_separate_copies():
    document = value("a: &a [1]\nb: *a\n")
    document["a"].append(2)
    assert document["b"] == [1]


def test_a_byte_order_mark_is_no_part_of_the_first_key(base, complaints):
    assert complaints(b"\xef\xbb\xbf" + base.encode()) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: b: c", "f:1: found a second ':' or wrong indentation in 'a: b: c', expected one 'key: value' a line, text that holds ': ' in quotes"),
        ("a: 1\n  b: 2", "f:2: found a second ':' or wrong indentation in 'b: 2', expected one 'key: value' a line, text that holds ': ' in quotes"),
        ("a: 1\nb\nc: 2", "f:2: found no ':' in 'b', expected 'key: value'"),
        ("a:\n  b: 1\n c: 2", "f:3: found wrong indentation, or text after a closing quote, in 'c: 2', expected keys of one section in one column"),
        ("a: [1, 2\nb: 3", "f:1: found a '[' that is not closed in 'a: [1, 2', expected values separated by commas, then ']'"),
        ("a: [1\n", "f:1: found a '[' that is not closed in 'a: [1', expected values separated by commas, then ']'"),
        ("a: [1,\n", "f:2: found a '[' or '{' that is not closed in '', expected ']' or '}'"),
        ("a: {b: 1\nc: 3", "f:1: found a '{' that is not closed in 'a: {b: 1', expected keys separated by commas, then '}'"),
        ("a: 'x\n\tb: 2", "f:1: found a quote that is not closed in \"a: 'x\", expected a closing quote"),
        ("a: 'x\nb: 2", "f:1: found a quote that is not closed in \"a: 'x\", expected a closing quote"),
        ("a: @x", "f:1: found text that begins with a special character in 'a: @x', expected quotes around it"),
        (f"a: @{'x' * 60}", f"f:1: found text that begins with a special character in 'a: @{'x' * 56}', expected quotes around it"),
        ("a: \tb: 2", "f:1: found a tab, expected spaces; YAML is indented with spaces only"),
        (r'a: "\q"', r"""f:1: found an unknown '\' sequence in 'a: "\\q"', expected single quotes, or '\\'"""),
        ("a: - 1", "f:1: found a '-' item on its key's line in 'a: - 1', expected '[a, b]', or one '- item' a line"),
        ("a: &x 1\nb: &x 2", "f:2: found an anchor defined twice in 'b: &x 2', expected each anchor once"),
        ("%YAML 2.0\n---\na: 1", "f:1: found incompatible YAML document (version 1.* is required) in '%YAML 2.0', expected valid YAML"),
        (r'a: "\UFFFFFFFF"', r"""f:1: found a number out of range in 'a: "\\UFFFFFFFF"', expected valid YAML"""),
        ("a: 1\u2028b: @x", "f:2: found text that begins with a special character in 'b: @x', expected quotes around it"),
        ("a: 1\n---\nb: 2", "f:2: found a second document in '---', expected one document a file"),
        ("a: *b", "f:1: found an alias without its anchor in 'a: *b', expected an anchor '&name' before '*name'"),
        ("a: 1\nb: \x07", "f:2: found the control character U+0007, expected plain text; remove it"),
        ("? [a]\n: 1", "f:1: found a key that is no plain word, expected a word"),
        ("? !!str [a]\n: 1", "f:1: found a key that is no plain word, expected a word"),
        ("!x a: 1", "f:1: found a key that is no plain word, expected a word"),
        ("a: &a\n  <<: *a\n  b: 1", "f:1: a: found an alias to what contains it, expected a value that ends"),
        ("a: &a\n  - *a", "f:1: a.0: found an alias to what contains it, expected a value that ends"),
        ("a: !!float x", "f:1: a: found 'x', expected a value of type float"),
        ("a: !!bool maybe", "f:1: a: found 'maybe', expected a value of type bool"),
        (f"a: {'9' * 50}", f"f:1: a: found '{'9' * 40}', expected a value of type int"),
        ("a: 99999999999999999999", "f:1: a: found '99999999999999999999', expected a value of type int"),
        ("a: !!map x", "f:1: a: found the tag '!!map', expected plain values (nothing was run or built); remove the tag"),
        ("<<: 5", "f:1: found '<<' with something else, expected '<<: *anchor' of a mapping"),
    ],
)  # fmt: skip
def test_broken_yaml_gives_one_line_in_the_users_words(text, line):
    assert lines(text) == [line]


def test_a_tab_within_text_or_comments_is_fine():
    assert value("a: 'x\ty' #\tcomment\n") == {"a": "x\ty"}


def test_deep_nesting_is_an_error_and_not_a_crash():
    assert lines("[" * 100_000) == [
        f"f:1: found nesting deeper than {MAX_DEPTH} levels, expected a few levels"
    ]
    assert len(lines("".join("  " * depth + "a:\n" for depth in range(500)))) == 1
    assert value("[" * MAX_DEPTH + "x" + "]" * MAX_DEPTH)


def test_aliases_nest_no_deeper_than_what_is_written_out():
    [line] = lines("a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 50)))
    assert line == f"f:1: found nesting deeper than {MAX_DEPTH} levels, expected a few levels"


def test_a_bomb_of_aliases_is_an_error_and_not_a_hang():
    text = "name: x\na0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    [line] = lines(text)
    assert line.startswith("f:1: found more than 20000 values once aliases are written out")


def test_a_mistake_in_an_anchor_is_reported_once_however_often_it_is_used():
    assert len(lines("a: &a {x: 1, x: 2, y: !no 3}\nb: *a\nc: {<<: *a}\n")) == 2


def test_written_text_is_read_back_as_the_same_data():
    data = {
        "text": ["2e-4", "1e5", "true", "~", "", "a: b", "<<", "0x1", " x ", "line\nline", "ü…😀", "1:30"],
        "numbers": [2e-4, 1e-7, 1e22, 5, -3.0, math.inf],
        "2e-4": {"nested": [[1], [], {}, {"a": None}], "flag": False},
    }
    assert value(to_text(data)) == data


def test_written_text_keeps_the_order_of_keys_and_puts_short_lists_on_one_line():
    numbers = [100_000] * 11
    assert to_text({"b": {"y": "ü", "x": [[1], numbers]}, "a": numbers[:]}) == (
        f"b:\n  y: ü\n  x:\n  - [1]\n  - {numbers}\na: {numbers}\n"
    )
