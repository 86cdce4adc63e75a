"""What is wrong with an option file, said so that the user can mend it at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SourceMap:
    """Where each key of a loaded option file was written.

    ``places`` maps dotted key paths (``datasets.train.stages.0.gt_size``) to ``file:line``, or to
    ``--force_yml a:b:c`` for keys an override set.
    """

    file: str = "options"
    places: Mapping[str, str] = field(default_factory=dict)

    def locate(self, key: str) -> str:
        """Return the place of ``key``, of its nearest written ancestor, or the file itself."""
        while key:
            if key in self.places:
                return self.places[key]
            key = key.rpartition(".")[0]
        return self.file


@dataclass(frozen=True)
class Problem:
    """One thing wrong: at which key, what was found, what was expected, how to mend it.

    ``place`` is given where the source map cannot know it: syntax errors, and overrides that set nothing.
    """

    key: str
    found: str
    expected: str
    fix: str = ""
    place: str = ""

    def line(self, source: SourceMap) -> str:
        """Return the problem as one line of text."""
        parts = [self.place or source.locate(self.key)]
        if self.key:
            parts.append(self.key)
        fix = f"; {self.fix}" if self.fix else ""
        text = ": ".join([*parts, f"found {self.found}, expected {self.expected}{fix}"])
        # Keys come from the file: no line break and no terminal control sequence may pass through.
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


class OptionError(ValueError):
    """An option file that cannot be run; ``str()`` gives one line a problem."""

    def __init__(self, problems: Iterable[Problem], source: SourceMap | None = None) -> None:
        self.problems = list(problems)
        self.source = source or SourceMap()
        super().__init__("\n".join(problem.line(self.source) for problem in self.problems))
