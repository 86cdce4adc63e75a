"""YAML as option files use it: plain data only, every key with its place, every mistake on one line.

Scalars follow YAML 1.2's core schema, as editors do: ``2e-4`` is a number, ``no`` is text. PyYAML only
composes nodes, which are turned into values here: no tag constructs anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.reader import ReaderError

from .errors import Problem
from .values import LARGEST_INTEGER

MAX_DEPTH = 32
"""Mappings and lists may be nested this deep."""
MAX_VALUES = 20_000
"""Values a file may hold, counted after aliases are replaced by what they stand for."""

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"

_PATTERNS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": r"<<",
}
"""YAML 1.2's core schema, and YAML 1.1's merge keys and ``1_000``, which BasicSR users write."""
_RESOLVERS: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {
    # None: whatever the first character is.
    None: [(_TAG + kind, re.compile(rf"(?:{pattern})\Z")) for kind, pattern in _PATTERNS.items()]
}


class _RefusedError(Exception):
    """YAML that goes beyond a limit: line (from 1), found, expected."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS
    depth = 0

    def get_single_node(self) -> yaml.Node | None:
        try:
            return super().get_single_node()
        except (ValueError, OverflowError) as error:
            # PyYAML lets through what chr() and int() raise, as for "\\UFFFFFFFF".
            raise yaml.MarkedYAMLError(
                problem="a number out of range", problem_mark=self.get_mark()
            ) from error

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Composing is recursive.
        _limit_depth(self.depth, self.peek_event())
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _RESOLVERS


def to_text(mapping: dict[str, Any]) -> str:
    """Return plain data as YAML text that reads back as the same data, keys in order."""
    # default_flow_style=None: lists of scalars on one line, everything else on lines of its own.
    return yaml.dump(
        mapping, Dumper=_Dumper, default_flow_style=None, sort_keys=False, allow_unicode=True, width=100
    )


@dataclass
class Document:
    """A read text: its value, the places of its keys, its problems, and the keys whose value is unusable."""

    value: Any = None
    places: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unusable: set[str] = field(default_factory=set)


def read_yaml(text: str, place: Callable[[int], str], key: str = "") -> Document:
    """Read a YAML text of plain data.

    Args:
        text: the YAML text.
        place: gives the words for the place of a line (counted from 1).
        key: dotted key under which the value will stand; keys of the document start with it.

    Returns:
        The document. Where its syntax is broken the value is None and there is one problem.
    """
    document = Document()
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None:
            document.value = _Builder(document, place).build(node, key)
    except (yaml.MarkedYAMLError, ReaderError, _RefusedError) as error:
        line, *words = error.args if isinstance(error, _RefusedError) else _syntax_problem(error, text)
        document.problems.append(Problem(key, *words, place=place(line)))
    return document


class _Builder:
    """Turns nodes into plain data; knows which nodes it is inside of, and how many values it has made."""

    def __init__(self, document: Document, place: Callable[[int], str]) -> None:
        self.document = document
        self.place = place
        self.inside: list[yaml.Node] = []
        self.count = 0
        self.reported: set[tuple[int, str]] = set()

    def build(self, node: yaml.Node, key: str) -> Any:
        """Return the value of a node whose dotted key is ``key``."""
        _limit_depth(len(self.inside), node)
        self.count += 1
        if self.count > MAX_VALUES:
            found = f"more than {MAX_VALUES} values once aliases are written out"
            raise _RefusedError(_line(self.inside[0]), found, "an option file")
        if node in self.inside:
            return self.refuse(node, key, "an alias to what contains it", "a value that ends")
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS:
            try:
                return _SCALARS[kind](node.value)
            except (ValueError, KeyError):
                return self.refuse(node, key, f"{node.value[:40]!r}", f"a value of type {kind}")
        if (type(node), kind) not in ((yaml.SequenceNode, "seq"), (yaml.MappingNode, "map")):
            tag = node.tag.replace(_TAG, "!!")
            expected = "plain values (nothing was run or built)"
            return self.refuse(node, key, f"the tag {tag!r}", expected, "remove the tag")
        self.inside.append(node)
        value = self.sequence(node, key) if isinstance(node, yaml.SequenceNode) else self.mapping(node, key)
        self.inside.pop()
        return value

    def sequence(self, node: yaml.Node, key: str) -> list[Any]:
        """Return a list, noting where its items stand."""
        items = []
        for index, item in enumerate(node.value):
            path = f"{key}.{index}" if key else str(index)
            self.document.places[path] = self.place(_line(item))
            items.append(self.build(item, path))
        return items

    def mapping(self, node: yaml.Node, key: str) -> dict[str, Any]:
        """Return a mapping, noting where its keys stand."""
        values = self.merged(node, key)
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            word = key_node.value
            if not isinstance(word, str) or key_node.tag.removeprefix(_TAG) not in _SCALARS:
                self.report(key_node, key, "a key that is no plain word", "a word")
                continue
            path = f"{key}.{word}" if key else word
            self.document.places[path] = self.place(_line(key_node))
            value = self.build(value_node, path)
            if word in lines:
                found = f"{word!r} a second time (first on line {lines[word]})"
                self.report(key_node, path, found, "each key once", "delete one of them")
                if isinstance(value, dict) and isinstance(values[word], dict):
                    # A section written twice is one mistake: what the first part says is no missing key.
                    value = {**values[word], **value}
            lines[word] = _line(key_node)
            values[word] = value
        return values

    def merged(self, node: yaml.Node, key: str) -> dict[str, Any]:
        """Return what ``<<: *anchor`` and ``<<: [*a, *b]`` give a mapping; of two sources the first wins."""
        sources: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                sources += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
        values: dict[str, Any] = {}
        for source in reversed(sources):
            if isinstance(source, yaml.MappingNode):
                values |= self.build(source, key) or {}
            else:
                self.report(source, key, "'<<' with something else", "'<<: *anchor' of a mapping")
        return values

    def refuse(self, node: yaml.Node, key: str, found: str, expected: str, fix: str = "") -> None:
        """Report a value that cannot be used."""
        self.document.unusable.add(key)
        self.report(node, key, found, expected, fix)

    def report(self, node: yaml.Node, key: str, found: str, expected: str, fix: str = "") -> None:
        """Report a problem once, however often an alias repeats its node."""
        if (id(node), found) not in self.reported:
            self.reported.add((id(node), found))
            place = self.place(_line(node))
            self.document.problems.append(Problem(key, found, expected, fix, place=place))


def _line(place: yaml.Node | yaml.Event) -> int:
    return place.start_mark.line + 1


def _limit_depth(depth: int, place: yaml.Node | yaml.Event) -> None:
    if depth > MAX_DEPTH:
        raise _RefusedError(_line(place), f"nesting deeper than {MAX_DEPTH} levels", "a few levels")


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    number = int(digits, {"0x": 16, "0o": 8}.get(digits[:2], 10))
    if abs(number) > LARGEST_INTEGER:
        raise ValueError(text)
    return number


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": _integer,
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "str": str,
    "merge": str,  # As a value; as a key it is handled before.
}


# --- syntax errors in the user's words --------------------------------------------------------------

_UNCLOSED = {
    "could not find expected ':'": ("no ':'", "'key: value'"),
    "end of stream": ("a quote that is not closed", "a closing quote"),
    "expected ',' or ']'": ("a '[' that is not closed", "values separated by commas, then ']'"),
    "expected ',' or '}'": ("a '{' that is not closed", "keys separated by commas, then '}'"),
}
"""Mistakes that lie where the construct began: part of PyYAML's message, what was found and expected."""
_MISPLACED = {
    "mapping values are not allowed": (
        "a second ':' or wrong indentation",
        "one 'key: value' a line, text that holds ': ' in quotes",
    ),
    "expected <block end>": (
        "wrong indentation, or text after a closing quote,",
        "keys of one section in one column",
    ),
    "cannot start any token": ("text that begins with a special character", "quotes around it"),
    "unknown escape": ("an unknown '\\' sequence", "single quotes, or '\\\\'"),
    "sequence entries are not allowed": ("a '-' item on its key's line", "'[a, b]', or one '- item' a line"),
    "another document": ("a second document", "one document a file"),
    "content, but found '<stream end>'": ("a '[' or '{' that is not closed", "']' or '}'"),
    "undefined alias": ("an alias without its anchor", "an anchor '&name' before '*name'"),
    "second occurrence": ("an anchor defined twice", "each anchor once"),
}
"""Mistakes that lie where PyYAML stops."""


def _syntax_problem(error: yaml.MarkedYAMLError | ReaderError, text: str) -> tuple[int, str, str, str]:
    """Return the line (from 1) and found, expected, fix of a text that is not YAML."""
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return line, f"the control character U+{ord(text[error.position]):04X}", "plain text", "remove it"
    message, mark = error.problem or "broken YAML", error.problem_mark
    assert mark is not None
    if "'\\t'" in message:
        return mark.line + 1, "a tab", "spaces", "YAML is indented with spaces only"
    found, expected = message.removeprefix("found "), "valid YAML"
    for advice, place in ((_UNCLOSED, error.context_mark), (_MISPLACED, mark)):
        for part, words in advice.items():
            if part in message:
                (found, expected), mark = words, place or mark
    line = [*text.splitlines(), ""][mark.line].strip()
    return mark.line + 1, f"{found} in {line[:60]!r}", expected, ""


# --- changing a text --------------------------------------------------------------------------------


def edited(text: str, changes: Mapping[str, bool | float | str | list[int]]) -> str:
    """Return a YAML text in which some values are others, with comments and everything else as they were.

    Args:
        text: of a mapping.
        changes: new value by dotted key. A key that is missing is added to its section, which has to be
            there.

    Raises:
        KeyError: there is no such section, or no such item of a list.
    """
    for key, value in changes.items():
        root = yaml.compose(text, Loader=_Loader)
        words = yaml.dump([value], Dumper=_Dumper, default_flow_style=True, allow_unicode=True).strip()[1:-1]
        node, missing = _find(root, key)
        start, end = node.start_mark.index, node.end_mark.index
        if not missing:
            text = text[:start] + words + text[end:]
        elif node.flow_style:
            separator = ", " if node.value else ""
            text = f"{text[: start + 1]}{missing}: {words}{separator}{text[start + 1 :]}"
        else:
            text = f"{text[:start]}{missing}: {words}\n{' ' * node.start_mark.column}{text[start:]}"
    return text


def _find(node: yaml.Node | None, key: str) -> tuple[Any, str]:
    """Return the node of a dotted key and nothing, or that of its section and the key's name in there."""
    *sections, last = key.split(".")
    for number, name in enumerate((*sections, last)):
        if isinstance(node, yaml.SequenceNode):
            items = {str(index): item for index, item in enumerate(node.value)}
        elif isinstance(node, yaml.MappingNode):
            items = {name.value: item for name, item in node.value}
        else:
            raise KeyError(key)
        if name not in items:
            if number == len(sections) and isinstance(node, yaml.MappingNode):
                return node, last
            raise KeyError(key)
        node = items[name]
    return node, ""
