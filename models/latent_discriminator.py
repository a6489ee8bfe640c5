"""Discriminator of latents: whether rows look like what the mapping network makes (e4e; Tov et al. 2021, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentDiscriminator(nn.Module):
    """Linear layers with leaky ReLU of slope 0.2 between them, the published layers and key names.

    Args:
        style_dim: width of w.
        n_mlp: number of linear layers.
    """

    def __init__(self, style_dim: int = 512, n_mlp: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(n_mlp - 1):
            layers += [nn.Linear(style_dim, style_dim), nn.LeakyReLU(0.2)]
        self.mlp = nn.Sequential(*layers, nn.Linear(style_dim, 1))

    def forward(self, w: Tensor) -> Tensor:
        """w [N, style_dim] -> logits [N, 1]."""
        return self.mlp(w)


class LatentPool:
    """Older latents of an encoder: half of what the discriminator sees comes from here (Shrivastava et al. 2017).

    Args:
        size: how many; 0 gives every batch as it is.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.kept: list[Tensor] = []

    def mixed(self, w: Tensor, *, rng: torch.Generator) -> Tensor:
        """Return latents [N, D], each as likely one of the pool, whose place it takes there, as itself."""
        rows = []
        for one in w.detach():
            if len(self.kept) < self.size:
                self.kept.append(one)
            elif self.size and float(torch.rand((), generator=rng)) < 0.5:
                index = int(torch.randint(self.size, (), generator=rng))
                one, self.kept[index] = self.kept[index], one
            rows.append(one)
        return torch.stack(rows)
