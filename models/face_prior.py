"""A prior in front of the generator: z to rows as the encoder gives them for faces, and a sketch of what rows cannot say."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.decoder import SKETCH_CHANNELS, SKETCH_SIDE

WAVES = 16  # of the time, a sine and a cosine each


@dataclass(frozen=True)
class FacePriorConfig:
    """Shape of the prior.

    Attributes:
        n_latent, style_dim: rows of w_plus, and their width, which is z's too.
        row_parts: how many numbers of z stand for rows; the others stand for the sketch.
        width, blocks: of the flow's network; without blocks the prior is one Gaussian.
        steps: of the integration.
    """

    n_latent: int = 12
    style_dim: int = 512
    row_parts: int = 128
    width: int = 384
    blocks: int = 3
    steps: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.row_parts < self.style_dim or min(self.n_latent, self.width, self.steps) < 1 or self.blocks < 0:
            raise ValueError(f"expected positive sizes and row_parts within 1 and {self.style_dim - 1}, got {asdict(self)}")

    def to_dict(self) -> dict:
        """Return plain values that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> FacePriorConfig:
        """Rebuild the config from ``to_dict()``; unknown names raise ValueError."""
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown prior settings {sorted(unknown)}")
        return cls(**values)


class FlowBlock(nn.Module):
    """x + W2 silu(W1 norm(x) + T t); [N, W], [N, 2 WAVES] -> [N, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.time = nn.Linear(2 * WAVES, width, bias=False)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.layer_norm(x, x.shape[1:])) + self.time(time)))


class Sketched(NamedTuple):
    """What the prior draws: w_plus [N, L, D], and sketches [N, 4, 16, 16], see ``models.decoder``."""

    w_plus: Tensor
    sketch: Tensor


class FacePrior(nn.Module):
    """z [N, D], standard normal, to faces: a flow to whitened numbers y [N, D], then y C^(1/2) to parts of rows and sketch.

    The flow follows the trigonometric interpolant (Albergo and Vanden-Eijnden 2023) between z and y,
    u(a) = cos(a) z + sin(a) y, a in [0, pi / 2], along du/da = F(u, a), where F is trained towards cos(a) y - sin(a) z. Both
    ends have unit covariance, so that F = 0 is the Gaussian with the faces' mean and covariance, and the network only
    learns what is not Gaussian.

    Args:
        config: the prior's shape.
    """

    row_mean: Tensor
    row_basis: Tensor
    sketch_mean: Tensor
    sketch_basis: Tensor
    mix: Tensor

    def __init__(self, config: FacePriorConfig) -> None:
        super().__init__()
        self.config = config
        dim, rows = config.style_dim, config.row_parts
        cells = SKETCH_CHANNELS * SKETCH_SIDE**2
        self.register_buffer("row_mean", torch.zeros(config.n_latent, dim))
        self.register_buffer("row_basis", torch.zeros(rows, config.n_latent * dim))
        self.register_buffer("sketch_mean", torch.zeros(SKETCH_CHANNELS, SKETCH_SIDE, SKETCH_SIDE))
        self.register_buffer("sketch_basis", torch.zeros(dim - rows, cells))
        self.register_buffer("mix", torch.eye(dim))
        self.enter = nn.Linear(dim + 2 * WAVES, config.width)
        self.blocks = nn.ModuleList(FlowBlock(config.width) for _ in range(config.blocks))
        self.leave = nn.Linear(config.width, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def velocity(self, u: Tensor, angle: Tensor) -> Tensor:
        """Return F(u, a) [N, D] of u [N, D] and angles [N]."""
        phase = angle[:, None] * torch.arange(1, WAVES + 1, device=u.device)
        time = torch.cat([phase.sin(), phase.cos()], dim=1)
        x = self.enter(torch.cat([u, time], dim=1))
        for block in self.blocks:
            x = block(x, time)
        return self.leave(F.silu(x))

    def flow(self, z: Tensor) -> Tensor:
        """Integrate z [N, D] to y [N, D] by Heun's method, in steps of equal angles."""
        if not self.config.blocks:
            return z
        u, step = z, math.pi / 2.0 / self.config.steps
        for number in range(self.config.steps):
            angle = torch.full((len(z),), number * step, device=z.device)
            first = self.velocity(u, angle)
            u = u + 0.5 * step * (first + self.velocity(u + step * first, angle + step))
        return u

    def parts(self, w_plus: Tensor, sketch: Tensor) -> Tensor:
        """Return the whitened numbers y [N, D] of rows [N, L, D] and sketches [N, 4, 16, 16], but for what has no part."""
        found = []
        for value, mean, basis in ((w_plus, self.row_mean, self.row_basis), (sketch, self.sketch_mean, self.sketch_basis)):
            scale = basis.square().sum(dim=1).clamp(min=1e-12)
            found.append((value - mean).flatten(1) @ basis.T / scale)
        return torch.linalg.solve(self.mix, torch.cat(found, dim=1), left=False)

    def forward(self, z: Tensor, *, truncation_psi: float = 1.0) -> Sketched:
        """Return faces of z [N, D]; psi brings them towards the mean face: y' = psi y.

        Raises:
            ValueError: for a wrong shape.
        """
        config = self.config
        if z.ndim != 2 or z.shape[1] != config.style_dim:
            raise ValueError(f"expected z [N, {config.style_dim}], got {list(z.shape)}")
        mixed = truncation_psi * self.flow(z) @ self.mix
        rows = self.row_mean + (mixed[:, :config.row_parts] @ self.row_basis).unflatten(1, self.row_mean.shape)
        sketch = self.sketch_mean + (mixed[:, config.row_parts:] @ self.sketch_basis).unflatten(1, self.sketch_mean.shape)
        return Sketched(rows, sketch)
