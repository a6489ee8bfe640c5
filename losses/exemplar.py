"""Terms of DualStyleGAN that look at codes and parameters alone (Yang et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def row_spread(rows: Tensor) -> Tensor:
    """How far the rows of a code lie apart, the mean over samples and dimensions of their standard deviation.

    Codes whose rows agree stay where the generator makes faces, which is what destylisation rests on.

    Args:
        rows: [N, L, D], L at least 2.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: for another shape.
    """
    if rows.ndim != 3 or rows.shape[1] < 2:
        raise ValueError(f"expected codes [N, L, D] of at least 2 rows, got {list(rows.shape)}")
    return rows.std(dim=1).mean()


def path_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Sum of the parameters' L2 norms, sum_p |p|_2: keeps the residual path small.

    Raises:
        ValueError: for no parameters.
    """
    norms = [parameter.norm() for parameter in parameters]
    if not norms:
        raise ValueError("path_norm needs at least one parameter")
    return torch.stack(norms).sum()


@torch.no_grad()
def nearest(codes: Tensor, candidates: Tensor, *, chunk: int = 1024) -> Tensor:
    """Return per code the index of the candidate that is nearest to it in the sense of L2.

    Args:
        codes: [N, K].
        candidates: [M, K].
        chunk: codes that are compared at once, which bounds the memory.

    Returns:
        [N], int64.
    """
    return torch.cat([torch.cdist(part, candidates).argmin(dim=1) for part in codes.split(chunk)])


def nearest_fit(made: Tensor, codes: Tensor) -> Tensor:
    """Implicit maximum likelihood (Li and Malik 2018): mean over codes of |code - its sample|^2 / K.

    The samples are those that ``nearest`` chose for the codes: every code has one near it, so no mode is left out.

    Args:
        made: [N, K], differentiable.
        codes: [N, K].

    Raises:
        ValueError: if the shapes differ.
    """
    if made.shape != codes.shape:
        raise ValueError(f"expected a sample per code, got {list(made.shape)} and {list(codes.shape)}")
    return (made - codes).square().mean()
