"""Which parameters of a network are trained, by patterns of their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

from torch import nn


def matching(module: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Parameter]:
    """Return the parameters whose names match one of the patterns, all where there is none.

    Raises:
        ValueError: if none matches.
    """
    named = {name: parameter for name, parameter in module.named_parameters()
             if not patterns or any(fnmatch(name, pattern) for pattern in patterns)}
    if not named:
        raise ValueError(f"no parameter has a name like {', '.join(patterns)}")
    return named


def choose(module: nn.Module, named: Mapping[str, nn.Parameter]) -> None:
    """Let gradients reach the named parameters of a module alone."""
    module.requires_grad_(False)
    for parameter in named.values():
        parameter.requires_grad_(True)
