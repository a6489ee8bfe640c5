"""Relative structural consistency: how alike two faces are in structure is the same before and after stylization."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pair_similarities(structure: Tensor) -> Tensor:
    """Cosine between the flattened structures of every pair i < j: [N, ...] -> [N (N - 1) / 2], pairs in row order."""
    flat = structure.flatten(1)  # [N, ...] -> [N, K]
    first, second = torch.triu_indices(len(flat), len(flat), offset=1, device=flat.device)
    return F.cosine_similarity(flat[first], flat[second], dim=1)


def reference_similarities(structure: Tensor, reference: Tensor) -> Tensor:
    """Cosine between each flattened structure [N, ...] and the reference's [1, ...]: [N]."""
    return F.cosine_similarity(structure.flatten(1), reference.flatten(1), dim=1)


def softmax_discrepancy(source: Tensor, target: Tensor) -> Tensor:
    """Weighted squared difference of two softmax distributions over the same K similarities, a scalar.

    e = (softmax(target) - softmax(source))^2, weight = sqrt(e) / max sqrt(e) held constant, L = mean(weight e).
    The published weight is 0/0 when every difference is zero (always so for K = 1, where both softmaxes are 1, hence
    for pairs at batch 2); its limit, weight 0, is used, and the gradient is then zero. For K = 0 (batch 1 has no
    pairs) the loss is 0, still connected to both inputs.

    Raises:
        ValueError: unless both are [K].
    """
    if source.ndim != 1 or source.shape != target.shape:
        raise ValueError(f"expected two vectors [K], got {list(source.shape)} and {list(target.shape)}")
    if source.numel() == 0:
        return source.sum() + target.sum()
    error = (target.softmax(dim=0) - source.softmax(dim=0)).square()
    root = error.detach().sqrt()
    largest = root.max()
    weight = torch.where(largest > 0, root / torch.where(largest > 0, largest, 1.0), 0.0)
    return (error * weight).mean()


def _check(source: Tensor, target: Tensor) -> None:
    if source.ndim < 2 or source.shape != target.shape:
        raise ValueError(f"expected two batches of structures [N, ...], got {list(source.shape)} and "
                         f"{list(target.shape)}")


def pair_consistency(source: Tensor, target: Tensor) -> Tensor:
    """Consistency over the pairs within a batch (DoesFS, section 3.3).

    C_ij = cos(S_i, S_j) for i < j on both sides, compared by `softmax_discrepancy`.

    Args:
        source: self-similarities of the undeformed images [N, T, T].
        target: self-similarities of the deformed images [N, T, T], same order.

    Returns:
        Scalar >= 0; 0 for batches of 1 and 2, see `softmax_discrepancy`.

    Raises:
        ValueError: if the shapes differ.
    """
    _check(source, target)
    return softmax_discrepancy(pair_similarities(source), pair_similarities(target))


def reference_consistency(
    source: Tensor, target: Tensor, *, reference_source: Tensor, reference_target: Tensor
) -> Tensor:
    """Consistency against the reference pair (DoesFS, section 3.3).

    C_i = cos(S_ref, S_i), the source side with the real reference, the target side with the style reference, compared
    by `softmax_discrepancy`.

    Args:
        source: self-similarities of the undeformed images [N, T, T].
        target: self-similarities of the deformed images [N, T, T].
        reference_source: self-similarity of the real reference [1, T, T].
        reference_target: self-similarity of the style reference [1, T, T].

    Returns:
        Scalar >= 0; 0 for a batch of 1.

    Raises:
        ValueError: if the shapes do not fit.
    """
    _check(source, target)
    for name, reference in (("reference_source", reference_source), ("reference_target", reference_target)):
        if reference.shape != (1, *source.shape[1:]):
            raise ValueError(f"expected {name} [1, {', '.join(map(str, source.shape[1:]))}], "
                             f"got {list(reference.shape)}")
    return softmax_discrepancy(reference_similarities(source, reference_source),
                               reference_similarities(target, reference_target))
