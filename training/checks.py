"""Losses and gradients that must be finite before any weight moves."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class DivergedError(ArithmeticError):
    """A loss term or a gradient is not finite; the message names it and the step."""


def check_terms(terms: Mapping[str, Tensor], *, step: int) -> None:
    """Raise DivergedError naming the first term that is not finite."""
    for name, value in terms.items():
        if not bool(torch.isfinite(value).all()):
            raise DivergedError(f"step {step}: loss term {name!r} is {float(value.detach())}; training stopped before "
                                "the weights changed. Lower the learning rates or the term's weight")


def check_gradients(named: Mapping[str, Tensor], *, step: int, phase: str) -> None:
    """Raise DivergedError naming the first parameter whose gradient is not finite.

    Args:
        named: parameters by name; those without a gradient are skipped.
        step: number of the step.
        phase: the optimisation that the gradients belong to, for the message.
    """
    gradients = [parameter.grad for parameter in named.values() if parameter.grad is not None]
    if not gradients:
        return
    # One number tells of every gradient: a NaN or an infinity survives both the norm and the sum.
    total = torch.stack(torch._foreach_norm(gradients, float("inf"))).sum()
    if bool(torch.isfinite(total)):
        return
    for name, parameter in named.items():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            raise DivergedError(f"step {step}: the gradient of {name} is not finite in the {phase} phase; training "
                                "stopped before the weights changed. Lower the learning rates")
    raise DivergedError(f"step {step}: the gradients of the {phase} phase overflow")
