"""Distances of feature maps that do not line up: contextual loss, and means of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDING = 1e-5


def contextual_loss(features: Tensor, target: Tensor, *, band_width: float = 0.5) -> Tensor:
    """Contextual loss -log CX of Mechrez et al. 2018, equations 1 to 5, a batch mean.

    d_ij = 1 - cos(x_i - mu, y_j - mu), mu the mean of all y; d'_ij = d_ij / (min_k d_ik + 1e-5);
    CX_ij = softmax_j((1 - d'_ij) / h); CX = mean_j max_i CX_ij: every place of the target looks for the place that
    is most like it and like no other, wherever that lies.

    Args:
        features: maps [N, C, H, W] of the drawn images.
        target: maps [N, C, H', W'].
        band_width: h.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: for shapes that do not fit each other, or a band width that is not positive.
    """
    if features.ndim != 4 or target.ndim != 4 or features.shape[:2] != target.shape[:2]:
        raise ValueError(f"expected two batches of maps [N, C, H, W], got {list(features.shape)} and {list(target.shape)}")
    if not band_width > 0:
        raise ValueError(f"band_width must be above 0, got {band_width}")
    mean = target.mean(dim=(0, 2, 3), keepdim=True)  # [1, C, 1, 1]
    ours, theirs = (F.normalize(x - mean, dim=1).flatten(2) for x in (features, target))  # [N, C, H, W] -> [N, C, HW]
    distance = 1.0 - ours.transpose(1, 2) @ theirs  # [N, HW, H'W']
    relative = distance / (distance.amin(dim=2, keepdim=True) + ROUNDING)
    similarity = ((1.0 - relative) / band_width).softmax(dim=2)
    context = similarity.amax(dim=1).mean(dim=1)  # [N, HW, H'W'] -> [N]
    return -(context + ROUNDING).log().mean()


def feature_mean_matching(features: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Squared distance of the channels' means, sum over maps of mean_(n, c) (mean_(h, w) x - mean_(h, w) y)^2.

    Args:
        features, target: the same number of maps [N, C, H, W]; the sizes of a pair may differ.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: for another number of maps, or channels that differ.
    """
    if len(features) != len(target) or any(x.shape[:2] != y.shape[:2] for x, y in zip(features, target)):
        raise ValueError(f"expected maps of the same batch and channels, got {[list(x.shape) for x in features]} and "
                         f"{[list(y.shape) for y in target]}")
    terms = [F.mse_loss(x.mean(dim=(2, 3)), y.mean(dim=(2, 3))) for x, y in zip(features, target, strict=True)]
    return torch.stack(terms).sum()
