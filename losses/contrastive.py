"""Terms of a style encoder that learns without labels: views of one style attract, and codes are standard normal."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

# Added to variances, so that the logarithm of collapsed codes stays finite and still pushes them apart.
EPSILON = 1e-6


def nt_xent(first: Tensor, second: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Normalised temperature-scaled cross entropy (SimCLR; Chen et al. 2020, eq. 1).

    l(i, j) = -log(exp(s_ij / T) / sum_{k != i} exp(s_ik / T)) with the cosine s, averaged over both orders of all pairs.

    Args:
        first, second: [N, D], N >= 2; row n of both shows one style, all other rows repel.
        temperature: T > 0.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: for shapes that differ, a single pair, or a temperature that is not positive.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ValueError(f"expected two [N, D] with N >= 2, got {list(first.shape)} and {list(second.shape)}")
    if not temperature > 0.0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    count = len(first)
    rows = F.normalize(torch.cat([first, second]), dim=1)  # [2N, D]
    logits = rows @ rows.t() / temperature  # [2N, 2N]
    logits = logits.masked_fill(torch.eye(2 * count, dtype=torch.bool, device=logits.device), -torch.inf)
    partner = torch.arange(2 * count, device=logits.device).roll(count)  # n -> n + N, n + N -> n
    return F.cross_entropy(logits, partner)


def normality_loss(codes: Tensor) -> Tensor:
    """Distance of a batch of codes from a standard normal, so that random codes are styles.

    mean_d (m_d^2 + v_d - 1 - ln v_d) / 2 + sum_{d != e} c_de^2 / (D (D - 1)): the Kullback-Leibler divergence of normals
    with the batch's means m and variances v, per number, and the mean square of the correlations c between numbers
    from which the share 1 / (N - 1) is taken that independent numbers show by chance.

    Args:
        codes: [N, D] with N >= 3 and D >= 2.

    Returns:
        Scalar, 0 at best up to chance.

    Raises:
        ValueError: for fewer rows or columns.
    """
    if codes.ndim != 2 or codes.shape[0] < 3 or codes.shape[1] < 2:
        raise ValueError(f"expected codes [N, D] with N >= 3 and D >= 2, got {list(codes.shape)}")
    count, width = codes.shape
    centred = codes - codes.mean(dim=0)
    variance = centred.square().mean(dim=0) + EPSILON  # [D]
    divergence = 0.5 * (codes.mean(dim=0).square() + variance - 1.0 - variance.log()).mean()
    standard = centred * variance.rsqrt()
    correlation = standard.t() @ standard / count  # [D, D]
    off = correlation.square().sum() - correlation.diagonal().square().sum()
    return divergence + off / (width * (width - 1)) - 1.0 / (count - 1)


def code_distance(found: Tensor, given: Tensor) -> Tensor:
    """Style regulariser mean((E(G(x, z)) - z)^2): the styled picture's code is the one that it was drawn by.

    Args:
        found: codes [N, D] of styled pictures.
        given: codes [N, D] that they were drawn by.

    Returns:
        Scalar >= 0; 2 for unrelated standard normal codes.

    Raises:
        ValueError: for shapes that differ.
    """
    if found.shape != given.shape:
        raise ValueError(f"expected codes of one shape, got {list(found.shape)} and {list(given.shape)}")
    return (found - given).square().mean()
