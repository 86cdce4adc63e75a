"""YAML as option files use it: plain data only, every key with its place, every mistake on one line.

Scalars follow YAML 1.2's core schema, as editors do: ``2e-4`` is a number, ``no`` is text. Nothing is
ever constructed from a tag: the loader below has no constructor at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.emitter import Emitter
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.representer import SafeRepresenter
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner
from yaml.serializer import Serializer

from .errors import Problem
from .values import LARGEST_INTEGER

MAX_DEPTH = 32
"""Mappings and lists may be nested this deep."""
MAX_VALUES = 20_000
"""Values a file may hold, counted after aliases are replaced by what they stand for."""

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_STANDARD = ("null", "bool", "int", "float", "str", "seq", "map")


class _CoreResolver(BaseResolver):
    """YAML 1.2 core schema, and YAML 1.1's merge keys and ``1_000`` integers, which BasicSR users write."""


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", "<<", ["<"]),
):
    _CoreResolver.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})\\Z"), _first)


class _TooDeepError(Exception):
    def __init__(self, node_event: yaml.Event) -> None:
        self.line = node_event.start_mark.line


class _Composer(Reader, Scanner, Parser, Composer, _CoreResolver):
    """Text to a node graph. Depth is limited here because composing is recursive."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _CoreResolver.__init__(self)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self._depth > MAX_DEPTH:
            raise _TooDeepError(self.peek_event())
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1


class _Dumper(Emitter, Serializer, SafeRepresenter, _CoreResolver):
    """Plain data to text that the reader above reads back as the same data."""

    def __init__(self, stream: Any, **_style: Any) -> None:
        Emitter.__init__(self, stream, allow_unicode=True, width=100)
        Serializer.__init__(self)
        # None: lists of scalars on one line, everything else on lines of its own.
        SafeRepresenter.__init__(self, default_flow_style=None, sort_keys=False)  # pyright: ignore[reportArgumentType]
        _CoreResolver.__init__(self)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_text(mapping: dict[str, Any]) -> str:
    """Return plain data as YAML text, keys in order."""
    return yaml.dump(mapping, Dumper=_Dumper)  # pyright: ignore[reportArgumentType, reportCallIssue]


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
        node = _Composer(text).get_single_node()
    except (yaml.MarkedYAMLError, ReaderError, _TooDeepError) as error:
        line, problem = _syntax_problem(error, text)
        document.problems.append(Problem(key, *problem, place=place(line)))
        return document
    if node is not None:
        builder = _Builder(document, place)
        try:
            document.value = builder.build(node, key)
        except _TooLargeError as error:
            document.problems.append(Problem(key, str(error), "an option file", place=place(_line(node))))
    return document


class _TooLargeError(Exception):
    pass


class _Builder:
    """Turns nodes into plain data; knows which nodes it is inside of, and how many values it has made."""

    def __init__(self, document: Document, place: Callable[[int], str]) -> None:
        self.document = document
        self.place = place
        self.inside: list[Node] = []
        self.count = 0
        self.reported: set[tuple[int, str]] = set()

    def build(self, node: Node, key: str) -> Any:
        """Return the node's value, whose dotted key is ``key``."""
        self.count += 1
        if self.count > MAX_VALUES:
            raise _TooLargeError(f"more than {MAX_VALUES} values once aliases are written out")
        if any(node is outer for outer in self.inside):
            return self.refuse(node, key, "an alias to what contains it", "a value that ends")
        if isinstance(node, ScalarNode):
            return self.scalar(node, key)
        standard = f"{_TAG}seq" if isinstance(node, SequenceNode) else f"{_TAG}map"
        if node.tag not in (standard, "!"):
            return self.refuse_tag(node, key)
        self.inside.append(node)
        try:
            return self.sequence(node, key) if isinstance(node, SequenceNode) else self.mapping(node, key)
        finally:
            self.inside.pop()

    def sequence(self, node: SequenceNode, key: str) -> list[Any]:
        """Return a list, noting where its items stand."""
        items = []
        for index, item in enumerate(node.value):
            path = f"{key}.{index}" if key else str(index)
            self.document.places[path] = self.place(_line(item))
            items.append(self.build(item, path))
        return items

    def mapping(self, node: Node, key: str) -> dict[str, Any]:
        """Return a mapping, noting where its keys stand; merged keys yield to written ones."""
        merged: dict[str, Any] = {}
        merged_places: dict[str, str] = {}
        written: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode) or _unknown_tag(key_node.tag):
                self.report(key_node, key, "a key that is no plain word", "a word")
                continue
            if key_node.tag == _MERGE:
                outer, self.document.places = self.document.places, {}
                merged = {**self.merge(value_node, key), **merged}
                merged_places = {**self.document.places, **merged_places}
                self.document.places = outer
                continue
            word = key_node.value
            path = f"{key}.{word}" if key else word
            line = _line(key_node)
            if word in lines:
                found = f"{word!r} a second time (first on line {lines[word]})"
                self.report(key_node, path, found, "each key once", "delete one of them")
            lines[word] = line
            self.document.places[path] = self.place(line)
            value = self.build(value_node, path)
            if isinstance(value, dict) and isinstance(written.get(word), dict):
                # A section written twice is one mistake: what the first part says is no missing key.
                value = {**written[word], **value}
            written[word] = value
        self.document.places.update(
            {path: place for path, place in merged_places.items() if path not in self.document.places}
        )
        return {**merged, **written}

    def merge(self, node: Node, key: str) -> dict[str, Any]:
        """Return what ``<<: *anchor`` or ``<<: [*a, *b]`` adds; earlier mappings win."""
        sources = node.value if isinstance(node, SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in sources:
            if isinstance(source, MappingNode):
                value = self.build(source, key)
                merged = {**(value if isinstance(value, dict) else {}), **merged}
            else:
                self.report(source, key, "'<<' with something else", "'<<: *anchor' of a mapping")
        return merged

    def scalar(self, node: ScalarNode, key: str) -> Any:
        """Return a null, boolean, number or text."""
        if _unknown_tag(node.tag):
            return self.refuse_tag(node, key)
        kind = node.tag.removeprefix(_TAG)
        if kind in ("seq", "map"):
            return self.refuse(node, key, f"the tag !!{kind} on {node.value!r}", "a value of that kind")
        try:
            return _SCALARS.get(kind, str)(node.value)
        except ValueError:
            return self.refuse(node, key, f"{node.value[:40]!r}", f"a value of type {kind}")

    def refuse_tag(self, node: Node, key: str) -> None:
        tag = node.tag.replace(_TAG, "!!")
        return self.refuse(
            node, key, f"the tag {tag!r}", "plain values (nothing was run or built)", "remove the tag"
        )

    def refuse(self, node: Node, key: str, found: str, expected: str, fix: str = "") -> None:
        """Report a value that cannot be used."""
        self.document.unusable.add(key)
        self.report(node, key, found, expected, fix)

    def report(self, node: Node, key: str, found: str, expected: str, fix: str = "") -> None:
        """Report a problem once, however often an alias repeats its node."""
        if (id(node), found) not in self.reported:
            self.reported.add((id(node), found))
            place = self.place(_line(node))
            self.document.problems.append(Problem(key, found, expected, fix, place=place))


def _line(node: Node) -> int:
    return node.start_mark.line + 1


def _unknown_tag(tag: str) -> bool:
    return tag not in ("!", _MERGE) and tag.removeprefix(_TAG) not in _STANDARD


def _integer(text: str) -> int:
    digits = text.replace("_", "")
    if len(digits) > len(str(LARGEST_INTEGER)) + 1:
        raise ValueError(text)
    bases = {"0x": 16, "0o": 8}
    number = int(digits, bases.get(digits[:2], 10))
    if abs(number) > LARGEST_INTEGER:
        raise ValueError(text)
    return number


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _float(text: str) -> float:
    return float(re.sub(r"^([-+]?)\.(inf|nan)\Z", r"\1\2", text, flags=re.IGNORECASE))


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": _boolean,
    "int": _integer,
    "float": _float,
}


# --- syntax errors in the user's words --------------------------------------------------------------

_ADVICE: tuple[tuple[str, bool, str, str], ...] = (
    # part of PyYAML's message, whether the mistake is where the construct began, found, expected
    (
        "mapping values are not allowed",
        False,
        "a second ':' or wrong indentation in",
        "one 'key: value' a line, text that holds ': ' in quotes",
    ),
    ("could not find expected ':'", True, "no ':' in", "'key: value'"),
    ("end of stream", True, "a quote that is not closed in", "a closing quote"),
    ("expected ',' or ']'", True, "a '[' that is not closed in", "values separated by commas, then ']'"),
    ("expected ',' or '}'", True, "a '{' that is not closed in", "keys separated by commas, then '}'"),
    (
        "expected <block end>",
        False,
        "wrong indentation, or text after a closing quote, in",
        "keys of one section in one column",
    ),
    ("cannot start any token", False, "text that begins with a special character in", "quotes around it"),
    ("unknown escape", False, "an unknown '\\' sequence in", "single quotes, or '\\\\'"),
    (
        "sequence entries are not allowed",
        False,
        "a '-' item on its key's line in",
        "'[a, b]', or one '- item' a line",
    ),
    ("another document", False, "a second document in", "one document a file"),
    ("undefined alias", False, "an alias without its anchor in", "an anchor '&name' before '*name'"),
    ("second occurrence", False, "an anchor defined twice in", "each anchor once"),
)


def _syntax_problem(error: Exception, text: str) -> tuple[int, tuple[str, str, str]]:
    """Return the line (from 1) and found, expected, fix of a text that is not YAML."""
    if isinstance(error, _TooDeepError):
        return error.line + 1, (f"nesting deeper than {MAX_DEPTH} levels", "a few levels", "")
    if isinstance(error, ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return line, (f"the control character U+{ord(text[error.position]):04X}", "plain text", "remove it")
    assert isinstance(error, yaml.MarkedYAMLError)
    return _marked_problem(error, text.split("\n"))


def _marked_problem(error: yaml.MarkedYAMLError, lines: list[str]) -> tuple[int, tuple[str, str, str]]:
    message = error.problem or error.context or "broken YAML"
    mark = error.problem_mark or error.context_mark
    number = mark.line if mark else 0
    if "\t" in _indentation(lines, number) or "'\\t'" in message:
        return number + 1, ("a tab", "spaces", "YAML is indented with spaces only")
    found, expected = f"{message.removeprefix('found ')} in", "valid YAML"
    for part, at_start, words, wanted in _ADVICE:
        if part in message:
            found, expected = words, wanted
            if at_start and error.context_mark:
                number = error.context_mark.line
            break
    number = min(number, len(lines) - 1)
    return number + 1, (f"{found} {lines[number].strip()[:60]!r}", expected, "")


def _indentation(lines: list[str], number: int) -> str:
    line = lines[number] if number < len(lines) else ""
    return line[: len(line) - len(line.lstrip())]
