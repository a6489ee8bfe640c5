"""MODIFY: an encoder, a generator and a remapping network that together hold a style (Ding et al. 2023).

Codes are what the encoder gives before the mean latent is added, [N, L, D]. The first L - xi rows say what a face is (w_l in
the paper), the last xi rows how it is drawn (w_h); the remapping network makes such rows from random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import Config
from models.face import Face
from models.layers import EqualLinear, PixelNorm
from models.stylegan2 import Generator


@dataclass(frozen=True)
class RemappingConfig(Config):
    """Shape of a remapping network: ``rows`` is xi, ``n_mlp`` the layers before the one that makes the rows."""

    rows: int = 9
    style_dim: int = 512
    n_mlp: int = 8

    def __post_init__(self) -> None:
        if min(self.rows, self.style_dim) < 1 or self.n_mlp < 0:
            raise ValueError(f"rows and style_dim must be at least 1 and n_mlp at least 0, got {self}")


class RemappingNetwork(nn.Module):
    """M: random numbers to style rows, the published layers and key names: pixel norm, then equalised layers, all activated.

    Args:
        config: the network's shape.
    """

    def __init__(self, config: RemappingConfig) -> None:
        super().__init__()
        self.config = config
        width = config.style_dim
        layers = [EqualLinear(width, width, activate=True) for _ in range(config.n_mlp)]
        self.style = nn.Sequential(PixelNorm(), *layers, EqualLinear(width, config.rows * width, activate=True))

    def forward(self, z: Tensor) -> Tensor:
        """Return style rows of codes.

        Args:
            z: [N, style_dim], standard normal.

        Returns:
            [N, rows, style_dim].

        Raises:
            ValueError: for another shape.
        """
        if z.ndim != 2 or z.shape[1] != self.config.style_dim:
            raise ValueError(f"expected z [N, {self.config.style_dim}], got {list(z.shape)}")
        return self.style(z).unflatten(1, (self.config.rows, self.config.style_dim))  # [N, xi D] -> [N, xi, D]


class StyleModel(nn.Module):
    """Encoder E, generator D and remapping network M.

    Args:
        encoder: images [N, 3, s, s] -> codes [N, L, D]; its ``config.input_size`` is s.
        generator: D, drawn with its stored noise.
        remapping: M.
        latent_avg: [L, D], the mean latent that codes are added to.

    Raises:
        ValueError: where the parts do not fit each other.
    """

    latent_avg: Tensor

    def __init__(self, encoder: nn.Module, generator: Generator, remapping: RemappingNetwork, latent_avg: Tensor) -> None:
        super().__init__()
        shape, rows = [generator.config.n_latent, generator.config.style_dim], remapping.config.rows
        if list(latent_avg.shape) != shape or [encoder.config.n_styles, encoder.config.style_dim] != shape:
            raise ValueError(f"expected an encoder and a mean latent of {shape} as the generator, got "
                             f"{[encoder.config.n_styles, encoder.config.style_dim]} and {list(latent_avg.shape)}")
        if remapping.config.style_dim != shape[1] or rows >= shape[0]:
            raise ValueError(f"expected fewer than {shape[0]} rows of width {shape[1]} from the remapping network, got "
                             f"{rows} of {remapping.config.style_dim}")
        self.encoder, self.generator, self.remapping = encoder, generator, remapping
        self.register_buffer("latent_avg", latent_avg.detach().clone(), persistent=False)

    @property
    def first_style_row(self) -> int:
        """L - xi: the first of the rows that M makes."""
        return self.generator.config.n_latent - self.remapping.config.rows

    def encode(self, image: Tensor) -> Tensor:
        """Return codes [N, L, D] = E(image) of images [N, 3, S, S] in [-1, 1], shrunk to the encoder's side by averaging."""
        side = self.encoder.config.input_size
        if image.shape[2] != side or image.shape[3] != side:
            image = F.interpolate(image, size=(side, side), mode="area")
        return self.encoder(image)

    def style_rows(self, codes: Tensor) -> Tensor:
        """Return the last xi rows [N, xi, D] of codes."""
        return codes[:, self.first_style_row:]

    def swapped(self, codes: Tensor, rows: Tensor, *, strength: float | Tensor = 1.0) -> Tensor:
        """Return {w_l, w_h + strength (rows - w_h)}: codes [N, L, D] with other style rows [N or 1, xi, D].

        ``strength`` is one number, or [xi, 1] for each row its own.

        Raises:
            ValueError: for rows of another shape.
        """
        own = self.style_rows(codes)
        if rows.ndim != 3 or rows.shape[1:] != own.shape[1:] or len(rows) not in (1, len(own)):
            raise ValueError(f"expected style rows [1 or {len(own)}, {own.shape[1]}, {own.shape[2]}], got {list(rows.shape)}")
        rows = rows.to(own.dtype).expand_as(own)
        mixed = rows if isinstance(strength, float) and strength == 1.0 else own + strength * (rows - own)
        return torch.cat([codes[:, :self.first_style_row], mixed.to(codes.dtype)], dim=1)

    def decode(self, codes: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return D(mean latent + codes), images [N, 3, S, S] of codes [N, L, D].

        ``residual`` [N, C, R, R] is added to the features of R px.
        """
        w_plus = self.rows(codes)
        transforms = Face(w_plus, residual).transforms()
        return self.generator.synthesis(w_plus, noise=self.generator.fixed_noise(), feature_transforms=transforms)

    def rows(self, codes: Tensor) -> Tensor:
        """Return w_plus [N, L, D] = mean latent + codes."""
        return self.latent_avg + codes.to(self.latent_avg.dtype)

    def forward(self, image: Tensor) -> Tensor:
        """Return D(E(image)) of images [N, 3, S, S], eq. 1 on style images and eq. 7 on photos."""
        return self.decode(self.encode(image))


def version_z(seeds: Sequence[int], width: int) -> Tensor:
    """Return z [N, width] of versions by their seeds, each drawn from a generator of its own."""
    return torch.cat([torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
