"""A remapping network that begins with rows like those of the style's images, in place of random ones."""

from __future__ import annotations

import torch
from torch import Tensor

from models.modify import RemappingNetwork

SAMPLES, DIRECTIONS = 2048, 64
SLOPE, GAIN = 0.2, 2.0**0.5
RIDGE = 1e-3


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

    Least squares from the features before the last layer to what its activation makes ``spread_rows`` of.

    Args:
        remapping: the network, changed in place.
        rows: [K, xi, D], K at least 2.
        seed: of the random numbers that are looked at.
    """
    *before, last = remapping.style
    z = torch.randn(SAMPLES, remapping.config.style_dim, generator=torch.Generator().manual_seed(seed)).to(rows)
    for layer in before:
        z = layer(z)
    goal = spread_rows(rows.flatten(1).double(), z.double()) / GAIN  # [K, xi, D] -> [K, xi D]
    goal = torch.where(goal < 0, goal / SLOPE, goal)
    inputs = torch.cat([z.double(), z.new_ones(len(z), 1).double()], dim=1)
    gram = inputs.T @ inputs
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    solution = torch.linalg.solve(gram, inputs.T @ goal)  # [D + 1, xi D]
    last.weight.copy_(solution[:-1].T / last.scale)
    last.bias.copy_(solution[-1] / last.lr_mul)
