"""What modules of a network return while it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn


def layers(network: nn.Module, pattern: str | None = None) -> list[str]:
    """Return the names of modules, in the order of their definition.

    Args:
        network: whose modules.
        pattern: names; ``*`` stands for anything without a dot, ``**`` for anything. Default: the blocks that
            the network repeats, as it names their classes in ``repeated_blocks``.

    Raises:
        ValueError: there are none.
    """
    names = [name for name, _ in network.named_modules() if name]
    if pattern is None:
        kinds = getattr(network, "repeated_blocks", ())
        found = [name for name, module in network.named_modules() if name and isinstance(module, kinds)]
        problem = f"{type(network).__name__} does not say which blocks it repeats"
    else:
        parts = (
            {"**": ".*", "*": "[^.]*"}.get(part, re.escape(part)) for part in re.split(r"(\*+)", pattern)
        )
        expression = re.compile("".join(parts))
        found = [name for name in names if expression.fullmatch(name)]
        problem = f"no module of {type(network).__name__} is called {pattern}"
    if not found:
        shapes = list(dict.fromkeys(re.sub(r"\b\d+\b", "*", name) for name in names))
        raise ValueError(f"layers: {problem}; there are, for example, {', '.join(shapes[:8])}")
    return found


@contextmanager
def recorded(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a mapping in which, once the network has run, stands what each named module returned.

    Of several results it is the first, of several calls the last.
    """
    found: dict[str, Tensor] = {}

    def record(name: str, output: object) -> None:
        first = output[0] if isinstance(output, tuple | list) else output
        if not isinstance(first, Tensor):
            raise ValueError(f"layers: {name} returns {type(output).__name__}, which is no tensor")
        found[name] = first

    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: record(name, output)
        )
        for name in names
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def by_example(features: Tensor, examples: int) -> Tensor:
    """Return (examples * k, ...), such as windows of images, as (examples, features).

    Raises:
        ValueError: the first dimension is no multiple of the examples.
    """
    if len(features) % examples:
        shape = tuple(features.shape)
        raise ValueError(f"layers: found features of shape {shape} for {examples} images")
    return features.reshape(examples, -1)
