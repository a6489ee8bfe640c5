"""A remapping network that begins with rows like those of the style's images, in place of random ones.

Images of one look are told by mean and main directions of their rows. Where they fall into several modes, each has its own.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor
from torch.nn import functional as F

from models.modify import RemappingNetwork

SAMPLES, DIRECTIONS = 2048, 64
SLOPE, GAIN = 0.2, 2.0**0.5
RIDGE = 1e-3
# Modes are looked for along so many main directions; most of them, images that each has at least, and the mean silhouette that
# they need: rows of one look have 0.14, of three looks 0.37.
LOOKED_AT, MODES, LEAST, APART, SEEDS = 8, 6, 20, 0.25, 8
# Directions of each mode, random numbers that several are told apart by, and the ridge for them. How much louder the first
# layer hears the number that says which mode, and those of the directions, one of 512 as they are; where its kinks lie.
WAYS, MODE_SAMPLES, MODE_RIDGE = 8, 8192, 1e-4
LOUD, KINKS = (60.0, 10.0), 1.3


def silhouette(points: Tensor, groups: Tensor) -> float:
    """Return how well points [N, D] lie in their groups, 0 to 1: mean of (b - a) / max(a, b), a the mean distance to the
    own group's others, b that to the nearest other group (Rousseeuw 1987)."""
    distances, count = torch.cdist(points, points), F.one_hot(groups).to(points)
    sums = distances @ count  # [N, K]
    sizes, own = count.sum(dim=0), groups[:, None]
    inside = sums.gather(1, own) / (sizes[own] - 1.0).clamp_min(1.0)
    outside = (sums / sizes).scatter(1, own, float("inf")).amin(dim=1, keepdim=True)
    return float(((outside - inside) / torch.maximum(outside, inside)).mean())


def modes_of(rows: Tensor) -> Tensor:
    """Return which mode each of the style rows [N, xi, D] belongs to, [N]: zeros where they are all of one.

    K-means along the main directions, with as many modes as have the best silhouette.
    """
    flat = rows.flatten(1).double().cpu()
    flat = flat - flat.mean(dim=0)
    points = flat @ torch.linalg.svd(flat, full_matrices=False)[2][:LOOKED_AT].T
    best, found = APART, torch.zeros(len(points), dtype=torch.long)
    for count in range(2, min(MODES, len(points) // LEAST) + 1):
        tries = []
        for seed in range(SEEDS):
            with warnings.catch_warnings():  # a cluster without points is too small to count anyway
                warnings.simplefilter("ignore", UserWarning)
                centres, groups = kmeans2(points.numpy(), count, minit="++", seed=seed)
            tries.append((float(np.square(points.numpy() - centres[groups]).sum()), seed, groups))
        groups = torch.from_numpy(min(tries, key=lambda one: one[:2])[2]).long()
        sizes = groups.bincount(minlength=count)
        if int(sizes.min()) >= LEAST and (value := silhouette(points, groups)) > best:
            best, found = value, groups
    return found.to(rows.device)


def spread_rows(rows: Tensor, features: Tensor, *, directions: int = DIRECTIONS) -> Tensor:
    """Return rows [S, R] of the mean and the main directions of ``rows`` [K, R], one direction per main one of features [S, D].

    t = m + sum_k s_k q_k v_k, with m, s_k, v_k mean, deviations and directions of the rows, and q_k the features' own main
    parts, each of mean 0 and deviation 1 and no two of them correlated.
    """
    mean, seen = rows.mean(dim=0), features.mean(dim=0)
    _, sizes, ways = torch.linalg.svd(rows - mean, full_matrices=False)
    parts, scales, _ = torch.linalg.svd(features - seen, full_matrices=False)
    # A direction of the features without any extent has nothing to say.
    count = min(directions, len(rows) - 1, int((scales > 1e-4 * scales[0]).sum()))
    return mean + (parts[:, :count] * len(features) ** 0.5 * sizes[:count] / len(rows) ** 0.5) @ ways[:count]


@torch.no_grad()
def start_remapping(remapping: RemappingNetwork, rows: Tensor, *, seed: int = 0) -> None:
    """Set the last layer so that random rows have the mean and the main directions of given ones, as far as it can.

    Least squares from the features before the last layer to what its activation makes ``spread_rows`` of. Rows of several
    modes, see ``modes_of``, each have their own mean and directions; the first of the random numbers says which mode, and
    the first layer is set so that the network hears it.

    Args:
        remapping: the network, changed in place.
        rows: [K, xi, D], K at least 2.
        seed: of the random numbers that are looked at.
    """
    modes, rng = modes_of(rows), torch.Generator().manual_seed(seed)
    several = bool(modes.any()) and remapping.config.n_mlp > 0
    z = torch.randn(MODE_SAMPLES if several else SAMPLES, remapping.config.style_dim, generator=rng).to(rows)
    goal = _mode_rows(remapping, rows.flatten(1), modes, z, rng) if several else None  # [K, xi, D] -> [K, xi D]
    *before, last = remapping.style
    for layer in before:
        z = layer(z)
    goal = (spread_rows(rows.flatten(1).double(), z.double()) if goal is None else goal.double()) / GAIN
    goal = torch.where(goal < 0, goal / SLOPE, goal)
    inputs = torch.cat([z.double(), z.new_ones(len(z), 1).double()], dim=1)
    gram = inputs.T @ inputs
    gram += (MODE_RIDGE if several else RIDGE) * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    solution = torch.linalg.solve(gram, inputs.T @ goal)  # [D + 1, xi D]
    last.weight.copy_(solution[:-1].T / last.scale)
    last.bias.copy_(solution[-1] / last.lr_mul)


def _mode_rows(remapping: RemappingNetwork, rows: Tensor, modes: Tensor, z: Tensor, rng: torch.Generator) -> Tensor:
    """Let the first layer hear which mode random numbers [S, D] belong to, and return the rows [S, R] they shall give."""
    groups = [rows[modes == mode] for mode in range(int(modes.max()) + 1)]
    count = min(WAYS, min(map(len, groups)) - 1, z.shape[1] - 1)
    shares = torch.tensor([len(group) / len(rows) for group in groups]).cumsum(dim=0)[:-1].to(z)
    which = torch.bucketize(z[:, 0].contiguous(), torch.distributions.Normal(0.0, 1.0).icdf(shares))
    goal = torch.zeros(len(z), rows.shape[1]).to(rows)
    for mode, group in enumerate(groups):
        mean, here = group.mean(dim=0), which == mode
        _, sizes, ways = torch.linalg.svd(group - mean, full_matrices=False)
        goal[here] = mean + (z[here, 1:1 + count] * sizes[:count] / len(group) ** 0.5) @ ways[:count]
    first = remapping.style[1]
    first.weight[:, 0] *= LOUD[0]
    first.weight[:, 1:1 + count] *= LOUD[1]
    places = KINKS * (2.0 * torch.rand(first.bias.shape, generator=rng).to(z) - 1.0)
    first.bias.copy_(-first.weight[:, 0] * first.scale / first.lr_mul * places)
    return goal
