"""The numbers behind the figures: pure functions with known values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.landmarks68 import MIRROR


def gaussian_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """d^2 = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), Frechet's distance of two Gaussians (Dowson 1982).

    Args:
        mean_a, mean_b: [D].
        cov_a, cov_b: [D, D], symmetric and not negative.
    """
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    # C_a C_b has the eigenvalues of the symmetric C_a^(1/2) C_b C_a^(1/2).
    shared = np.linalg.eigvalsh(root @ cov_b @ root)
    cross = np.sqrt(np.clip(shared, 0.0, None)).sum()
    return float(np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2.0 * cross)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return Frechet's distance between the Gaussians fitted to features [N, D] and [M, D]; N and M at least 2."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"expected features [N, D], [M, D] of at least two rows, got {list(a.shape)}, {list(b.shape)}")
    stats = [(x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))) for x in (a.double().numpy(), b.double().numpy())]
    return gaussian_distance(*stats[0], *stats[1])


def colour_distance(image: Tensor, target: Tensor) -> Tensor:
    """Return the mean 1-Wasserstein distance of the channels' value distributions, [N], in units of [-1, 1].

    Args:
        image: [N, 3, H, W].
        target: [1 or N, 3, H, W].
    """
    return (image.flatten(2).sort(dim=2).values - target.flatten(2).sort(dim=2).values).abs().mean(dim=(1, 2))


def nearest_token(query: Tensor, keys: Tensor, points: Tensor) -> Tensor:
    """Look up the token under each point of one image among the tokens of another by cosine.

    Args:
        query: tokens [N, s^2, D] of the first image, row-major.
        keys: tokens [N, s^2, D] of the second one.
        points: [N, K, 2] (x, y) as fractions of the side of the first image.

    Returns:
        Centres [N, K, 2] of the tokens found, as fractions of the side.
    """
    side = round(query.shape[1] ** 0.5)
    cell = (points * side).floor().clamp(0, side - 1).long()
    index = cell[..., 1] * side + cell[..., 0]  # [N, K]
    query, keys = F.normalize(query.float(), dim=2), F.normalize(keys.float(), dim=2)
    wanted = query.gather(1, index[..., None].expand(-1, -1, query.shape[2]))
    found = (wanted @ keys.transpose(1, 2)).argmax(dim=2)
    return token_centres(found, side)


def token_centres(index: Tensor, side: int) -> Tensor:
    """Return the centres [..., 2] (x, y), fractions of the side, of row-major token indices [...]."""
    return torch.stack([(index % side + 0.5) / side, (index // side + 0.5) / side], dim=-1)


def point_error(found: Tensor, truth: Tensor) -> Tensor:
    """Return the mean distance of points [N, 68, 2] to the true ones in % of the true eye distance, [N]."""
    eyes = truth[:, 36:42].mean(dim=1) - truth[:, 42:48].mean(dim=1)
    return (found - truth).norm(dim=2).mean(dim=1) / eyes.norm(dim=1) * 100.0


def steady_landmarks(net: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    """Return landmarks [N, 68, 2] of images [N, 3, S, S] by a network, as means of each image's and its mirror image's."""
    turned = net(images.flip(3)).points[:, torch.from_numpy(MIRROR)]
    return (net(images).points + turned * turned.new_tensor([-1.0, 1.0]) + turned.new_tensor([1.0, 0.0])) / 2.0


def displacement_cosine(found: Tensor, truth: Tensor) -> Tensor:
    """Return the cosine of two displacement fields [N, K, 2] over all K landmarks together, [N]."""
    return F.cosine_similarity(found.flatten(1), truth.flatten(1), dim=1)


def landmark_cosine(found: Tensor, truth: Tensor, *, least: Tensor) -> Tensor:
    """Return the mean cosine over the landmarks that truly move by more than ``least`` [N], or NaN, [N]."""
    moving = truth.norm(dim=2) > least[:, None]
    cosines = F.cosine_similarity(found, truth, dim=2) * moving
    return cosines.sum(dim=1) / moving.sum(dim=1)


def mean_field_figures(found: Tensor, truth: Tensor) -> dict[str, float]:
    """Return cosine and magnitude ratio of the displacement fields [N, K, 2] averaged over the faces.

    What trembles from face to face averages out; what is the same in every face stays.
    """
    found, truth = found.mean(dim=0, keepdim=True), truth.mean(dim=0, keepdim=True)
    return {"cosine_of_mean": float(displacement_cosine(found, truth)),
            "ratio_of_mean": float(magnitude_ratio(found, truth))}


def magnitude_ratio(found: Tensor, truth: Tensor) -> Tensor:
    """Return |found| / |truth| of displacement fields [N, K, 2], [N]."""
    return found.flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)


def progress_along(fields: Tensor, truth: Tensor) -> Tensor:
    """Return <d_a, t> / <t, t>, how far each displacement field goes along the true one.

    Args:
        fields: [A, N, K, 2], one field per strength.
        truth: [N, K, 2].

    Returns:
        [A, N]: 0 at rest, 1 where the truth is reached.
    """
    truth = truth.flatten(1)
    return (fields.flatten(2) * truth).sum(dim=2) / truth.square().sum(dim=1)


def is_monotone(progress: Tensor, *, slack: float = 0.0) -> Tensor:
    """Tell which columns of progress [A, N] never fall by more than ``slack`` and gain more than it, [N]."""
    steps = progress[1:] - progress[:-1]
    return (steps >= -slack).all(dim=0) & (progress[-1] - progress[0] > slack)


def invert_map(backward: Callable[[Tensor], Tensor], points: Tensor, *, rounds: int = 60, pace: float = 0.6) -> Tensor:
    """Solve backward(x) = p by x <- x + pace (p - backward(x)): where does what lies at p go?

    Args:
        backward: maps output positions [N, K, 2] to the positions they are read from.
        points: p [N, K, 2].
        rounds: iterations; the displacement may stretch at most by a factor of about two.
        pace: damping.
    """
    where = points.clone()
    for _ in range(rounds):
        where = where + pace * (points - backward(where))
    return where


def sample_grid(grid: Tensor, points: Tensor) -> Tensor:
    """Read a sampling grid [N, S, S, 2] in [-1, 1] at points [N, K, 2], continued as identity + edge offset."""
    side = grid.shape[1]
    ticks = (torch.arange(side, dtype=grid.dtype, device=grid.device) * 2 + 1) / side - 1
    lattice = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), dim=-1)  # [S, S, 2], (x, y)
    offsets = (grid - lattice).permute(0, 3, 1, 2)
    read = F.grid_sample(offsets, points[:, :, None], padding_mode="border", align_corners=False)  # [N, 2, K, 1]
    return points + read[..., 0].transpose(1, 2)


def mean_of(rows: Sequence[dict[str, float]], name: str) -> float:
    """Return the mean of one entry of several dictionaries, NaN left out."""
    values = np.array([row[name] for row in rows], dtype=float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
