"""What a portrait's deformation is, from the portrait alone: how caricatures move faces, learned from the generator's own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from data.random_drawings import random_caricature
from drawing.warp import sampled
from models.exemplar_moves import moves_of
from models.look import landmark_grid
from models.stylegan2 import Generator

FACES, DRAWN = 400, 8
STRENGTH = 1.2
# Deviation of found landmarks from true ones, as a fraction of the side, and how much more faces differ than samples do.
ERROR, SPREAD = 0.006, 1.3
RIDGE = 1e-4


@torch.no_grad()
def sampled_points(generator: Generator, points: Callable[[Tensor], Tensor], *, batch: int = 8) -> Tensor:
    """Return landmarks [``FACES``, 68, 2] of random faces of a generator, found by ``points``."""
    rng, found = torch.Generator().manual_seed(0), []
    for _ in range(0, FACES, batch):
        z = torch.randn(batch, generator.config.style_dim, generator=rng).to(generator.input.input)
        image = generator.synthesis(generator.broadcast(generator.mapping(z)), noise=generator.fixed_noise())
        found.append(points(image.clamp(-1.0, 1.0)).cpu())
    return torch.cat(found)[:FACES]


def fit_moves(faces: Tensor, *, seed: int = 0) -> Tensor:
    """Return the linear map from a portrait's landmarks to how far its deformation moved them, see ``moves_of``.

    Random caricatures of the faces are pairs of deformed landmarks and displacements; ridge regression learns one from the
    other. With Gaussian faces and displacements that is their posterior mean: eyes twice the usual size are a deformation
    rather than a face, a chin a little broad rather a face.

    Args:
        faces: landmarks [M, 68, 2] of natural faces as fractions of the side.
        seed: of the caricatures.

    Returns:
        [137, 136], the last row the constant.
    """
    numbers, chance = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    mean = faces.mean(dim=0)
    wider = (mean + SPREAD * (faces - mean)).double().numpy()
    inputs, targets = [], []
    for face in wider:
        for _ in range(DRAWN):
            moved = random_caricature(chance).scaled(numbers.uniform(0.0, STRENGTH)).displace(face)
            inputs.append((moved + ERROR * numbers.standard_normal(moved.shape)).reshape(-1))
            targets.append((moved - face).reshape(-1))
    x, y = (torch.from_numpy(np.stack(values)) for values in (inputs, targets))
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    gram = x.T @ x / len(x) + RIDGE * torch.diag(torch.cat([torch.ones(x.shape[1] - 1), torch.zeros(1)]).to(x))
    return torch.linalg.solve(gram, x.T @ y / len(x)).float()


class Shapes:
    """Where portraits have their landmarks, and where the faces behind them had them.

    Args:
        generator: whose faces count as natural.
        points: images [N, 3, S, S] -> landmarks [N, 68, 2] as fractions of the side.
    """

    def __init__(self, generator: Generator, points: Callable[[Tensor], Tensor]) -> None:
        self.generator, self.points, self._map = generator, points, None

    @property
    def map(self) -> Tensor:
        """The linear map of ``fit_moves`` [137, 136]; it takes about a minute where none was set before it is asked for."""
        if self._map is None:
            self._map = fit_moves(sampled_points(self.generator, self.points))
        return self._map

    @map.setter
    def map(self, value: Tensor) -> None:
        self._map = value

    @torch.no_grad()
    def moves(self, portrait: Tensor) -> Tensor:
        """Return how far the deformation of portraits [N, 3, S, S] moved their landmarks, [N, 68, 2]."""
        return moves_of(self.points(portrait), self.map)

    @torch.no_grad()
    def plain(self, portrait: Tensor) -> Tensor:
        """Return portraits [N, 3, S, S] with their deformation taken back."""
        points = self.points(portrait)
        return sampled(portrait, landmark_grid(points - moves_of(points, self.map), points, portrait.shape[3]))
