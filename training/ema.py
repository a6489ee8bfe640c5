"""Exponential moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move an average towards a network: p' = decay p' + (1 - decay) p; buffers are copied.

    Args:
        average: the same architecture as ``module``, changed in place.
        module: the trained network.
        decay: share of the average that stays, in [0, 1].

    Raises:
        ValueError: for a decay outside [0, 1].
    """
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    for target, source in zip(average.parameters(), module.parameters(), strict=True):
        target.lerp_(source, 1.0 - decay)
    for target, source in zip(average.buffers(), module.buffers(), strict=True):
        target.copy_(source)
