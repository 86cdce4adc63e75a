"""Which parameters an optimizer treats how: learning-rate factors, weight decay, and when they are frozen.

Options name parameters by patterns: ``body`` or ``*.norm*`` names every parameter that lies below a module so
called, or is so called itself; with several networks, ``net_d.body`` those of one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from itertools import accumulate
from operator import itemgetter
from typing import Any

from torch import Tensor, nn

from ..config import Problem, Train


def matches(pattern: str, name: str) -> bool:
    """Say whether a pattern names the parameter ``name`` of a network, or a module that holds it."""
    modules = accumulate(name.split("."), lambda outer, inner: f"{outer}.{inner}")
    return any(fnmatchcase(module, pattern) for module in modules)


def named_parameters(networks: Mapping[str, nn.Module]) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Yield network, name and parameter of all that can be trained, in the networks' order."""
    for network, module in networks.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield network, name, parameter


def parameter_groups(networks: Mapping[str, nn.Module], train: Train) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups; all in one where the options make no difference.

    A group's ``lr_factor`` is to be multiplied to the learning rate of every iteration.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for network, name, parameter in named_parameters(networks):
        undecayed = train.filter_bias_and_norm and _is_undecayed(networks[network], name, parameter)
        factors = [f for pattern, f in train.lr_factors.items() if _matches(pattern, network, name)]
        # The last of several patterns counts, as with lines of an ignore file.
        groups.setdefault((undecayed, factors[-1] if factors else 1.0), []).append(parameter)
    return [
        {"params": parameters, "lr_factor": factor, **({"weight_decay": 0.0} if undecayed else {})}
        for (undecayed, factor), parameters in sorted(groups.items(), key=itemgetter(0))
    ]


def frozen_parameters(
    networks: Mapping[str, nn.Module], train: Train
) -> list[tuple[int, list[nn.Parameter]]]:
    """Return of each entry of ``train.freeze`` its last iteration, and what it keeps until then."""
    return [
        (
            entry.until,
            [
                parameter
                for network, name, parameter in named_parameters(networks)
                if _matches(entry.modules, network, name)
            ],
        )
        for entry in train.freeze
    ]


def pattern_problems(networks: Mapping[str, nn.Module], train: Train) -> list[Problem]:
    """Return every pattern of ``train`` that names no parameter."""
    names = [(network, name) for network, name, _ in named_parameters(networks)]
    patterns = {f"train.lr_factors.{pattern}": pattern for pattern in train.lr_factors}
    patterns |= {f"train.freeze.{i}.modules": entry.modules for i, entry in enumerate(train.freeze)}
    modules = dict.fromkeys(name.partition(".")[0] for _, name in names)
    return [
        Problem(
            key,
            repr(pattern),
            "the name of a module or parameter, or a pattern of such",
            f"the networks' own are {', '.join(modules)}; parts of them follow after a dot",
        )
        for key, pattern in patterns.items()
        if not any(_matches(pattern, network, name) for network, name in names)
    ]


def _matches(pattern: str, network: str, name: str) -> bool:
    return matches(pattern, name) or matches(pattern, f"{network}.{name}")


def _is_undecayed(network: nn.Module, name: str, parameter: Tensor) -> bool:
    """Say whether weight decay is to leave a parameter alone, as in Swin's and timm's training code."""
    declared = getattr(network, "undecayed", None)
    named = isinstance(declared, re.Pattern) and declared.search(name) is not None
    return parameter.ndim <= 1 or named
