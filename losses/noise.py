"""Noise maps that are optimised and must stay noise, and the learning rate of such an optimisation (StyleGAN2, appendix D)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST = 8


def noise_regularization(noise: Sequence[Tensor]) -> Tensor:
    """How far noise maps are from white, sum over maps and levels of mean(n shift_x n)^2 + mean(n shift_y n)^2.

    Every map is halved by averaging until its side is at most 8 px, and each of these levels counts (Karras et al. 2020,
    equation 6; their maps are shifted round the edge).

    Args:
        noise: maps [N, 1, S, S], S a power of two.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: for no maps or another shape.
    """
    if not noise or any(level.ndim != 4 or level.shape[1] != 1 or level.shape[2] != level.shape[3] for level in noise):
        raise ValueError(f"expected noise maps [N, 1, S, S], got {[list(level.shape) for level in noise]}")
    total = noise[0].new_zeros(())
    for level in noise:
        while True:
            for axis in (2, 3):
                total = total + (level * level.roll(1, dims=axis)).mean().square()
            if level.shape[2] <= SMALLEST:
                break
            level = F.avg_pool2d(level, 2)
    return total


@torch.no_grad()
def renew_noise(noise: Sequence[Tensor]) -> None:
    """Give each map mean 0 and mean square 1 again, in place, as after every step of the optimisation."""
    for level in noise:
        level.sub_(level.mean()).mul_(level.square().mean().rsqrt())


def ramped_rate(step: int, steps: int, *, rate: float, rampup: float = 0.05, rampdown: float = 0.25) -> float:
    """Learning rate of one step, rate (1 - cos(pi min(1, (1 - t) / rampdown))) / 2 min(1, t / rampup), t = step / steps.

    Args:
        step: from 0.
        steps: of the whole optimisation.
        rate: the highest.
        rampup, rampdown: shares of the steps over which it rises linearly and falls as a cosine.
    """
    t = step / steps
    return rate * (0.5 - 0.5 * math.cos(math.pi * min(1.0, (1.0 - t) / rampdown))) * min(1.0, t / rampup)
