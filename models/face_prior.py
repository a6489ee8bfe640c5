"""A prior in front of the generator: z to rows as the encoder gives them for faces, and a sketch of what rows cannot say."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.config import Config
from models.decoder import SKETCH_CHANNELS, SKETCH_SIDE

# How much a channel of sketches counts where principal parts are chosen: amounts of detail vary most and matter least, what the
# inside of a face looks like matters most.
WEIGHTS = (1.0, 1.0, 1.0, 0.5, 3.0)
# How much of a random sketch is drawn: all of it lies on faces in blotches, none of it leaves grounds and light alike.
SHARE = 0.4


@dataclass(frozen=True)
class FacePriorConfig(Config):
    """Shape of the prior.

    Attributes:
        n_latent, style_dim: rows of w_plus, and their width, which is z's too.
        row_parts: how many numbers of z stand for rows; the others stand for the sketch.
    """

    n_latent: int = 12
    style_dim: int = 512
    row_parts: int = 128

    def __post_init__(self) -> None:
        if not 0 < self.row_parts < self.style_dim or self.n_latent < 1:
            raise ValueError(f"expected positive sizes and row_parts within 1 and {self.style_dim - 1}, got {asdict(self)}")


class Sketched(NamedTuple):
    """What the prior draws: w_plus [N, L, D], and sketches [N, 5, 16, 16], see ``models.decoder``."""

    w_plus: Tensor
    sketch: Tensor


class FacePrior(nn.Module):
    """The Gaussian of faces, z [N, D] standard normal: y = z C^(1/2), w_plus = m + y_r R, sketch = (n + y_s S) / v.

    R and S are principal directions, each as long as the deviation along it, so that C, the covariance of the numbers y of
    faces, holds only what rows and sketches say of each other beyond that. v are ``WEIGHTS``.

    Args:
        config: the prior's shape.
    """

    row_mean: Tensor
    row_basis: Tensor
    sketch_mean: Tensor
    sketch_basis: Tensor
    weights: Tensor
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
        self.register_buffer("weights", torch.tensor(WEIGHTS)[:, None, None])
        self.register_buffer("mix", torch.eye(dim))

    def parts(self, w_plus: Tensor, sketch: Tensor) -> Tensor:
        """Return the numbers z [N, D] of rows [N, L, D] and sketches [N, 5, 16, 16], but for what has no part: the shortest."""
        found = []
        for value, mean, basis in ((w_plus, self.row_mean, self.row_basis),
                                   (sketch * self.weights, self.sketch_mean, self.sketch_basis)):
            scale = basis.square().sum(dim=1).clamp(min=1e-12)
            found.append((value - mean).flatten(1) @ basis.T / scale)
        return torch.cat(found, dim=1) @ torch.linalg.pinv(self.mix.double(), hermitian=True, rtol=1e-5).to(self.mix)

    def forward(self, z: Tensor, *, truncation_psi: float = 1.0) -> Sketched:
        """Return faces of z [N, D]; psi brings them towards the mean face: z' = psi z.

        Raises:
            ValueError: for a wrong shape.
        """
        config = self.config
        if z.ndim != 2 or z.shape[1] != config.style_dim:
            raise ValueError(f"expected z [N, {config.style_dim}], got {list(z.shape)}")
        mixed = truncation_psi * z @ self.mix
        rows = self.row_mean + (mixed[:, :config.row_parts] @ self.row_basis).unflatten(1, self.row_mean.shape)
        sketch = self.sketch_mean + (mixed[:, config.row_parts:] @ self.sketch_basis).unflatten(1, self.sketch_mean.shape)
        return Sketched(rows, sketch / self.weights)

    def faces(self, z: Tensor, *, truncation_psi: float = 1.0) -> Sketched:
        """Return faces as they are drawn: ``forward`` with ``SHARE`` of the sketch."""
        rows, sketch = self(z, truncation_psi=truncation_psi)
        return Sketched(rows, SHARE * sketch)
