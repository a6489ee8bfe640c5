"""Bias + leaky ReLU + gain as one operator."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F


def fused_leaky_relu(
    x: Tensor, bias: Tensor | None = None, *, negative_slope: float = 0.2, scale: float = math.sqrt(2.0)
) -> Tensor:
    """Add a bias per channel, apply a leaky ReLU and multiply by a gain.

    y = scale * lrelu(x + bias), StyleGAN2 (Karras et al. 2020, arXiv 1912.04958), appendix B; the gain sqrt(2)
    keeps the variance of a zero-mean input.

    Args:
        x: [N, C, ...] any float dtype.
        bias: [C] or None.
        negative_slope: slope for negative inputs.
        scale: gain.

    Returns:
        Tensor of the shape and dtype of ``x``.

    Raises:
        ValueError: if the bias does not have one value per channel.
    """
    if bias is not None:
        if bias.ndim != 1 or bias.shape[0] != x.shape[1]:
            raise ValueError(f"bias must have shape [{x.shape[1]}], got {list(bias.shape)}")
        x = x + bias.to(x.dtype).reshape(1, -1, *([1] * (x.ndim - 2)))  # [C] -> [1, C, 1, ...]
    return F.leaky_relu(x, negative_slope) * scale
