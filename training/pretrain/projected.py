"""Projected discriminator (Sauer et al. 2021): heads on frozen features and on pixels, and what it sees of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from training.pretrain.teacher import TAP_CHANNELS, SqueezeNetTeacher


class ScaleHead(nn.Module):
    """Spectrally normalised convolutions from one mixed feature map to a map of logits."""

    mixer: Tensor

    def __init__(self, in_channels: int, width: int, downs: int, *, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        mixer = torch.randn(width, in_channels, 1, 1, generator=rng) / in_channels**0.5
        self.register_buffer("mixer", mixer)
        layers: list[nn.Module] = []
        for _ in range(downs):
            layers += [spectral_norm(nn.Conv2d(width, width, 4, 2, 1)), nn.LeakyReLU(0.2)]
        layers += [spectral_norm(nn.Conv2d(width, width, 3, 1, 1)), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, spectral_norm(nn.Conv2d(width, 1, 3, 1, 1)))

    def forward(self, features: Tensor) -> Tensor:
        """features [N, C, H, W] -> logits [N, 1, h, w]."""
        # The norm brings ImageNet features of every tap to one scale.
        x = F.conv2d(features, self.mixer)
        return self.net(x / (x.detach().square().mean(dim=(1, 2, 3), keepdim=True).sqrt() + 1e-4))


def pixel_head(widths: tuple[int, ...] = (32, 64, 128)) -> nn.Sequential:
    """Return a patch discriminator of images: one strided, spectrally normalised convolution per width, then a logit."""
    layers: list[nn.Module] = []
    for before, width in zip((3, *widths), widths):
        layers += [spectral_norm(nn.Conv2d(before, width, 4, 2, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, 1, 1)))


class ProjectedDiscriminator(nn.Module):
    """One head per tap of a frozen feature network and one on the pixels; the logits of all are concatenated.

    Args:
        teacher: the feature network, shared and never trained.
    """

    def __init__(self, teacher: SqueezeNetTeacher) -> None:
        super().__init__()
        self.teacher = teacher
        self.heads = nn.ModuleList(
            ScaleHead(c, w, d, seed=i) for i, (c, w, d) in enumerate(zip(TAP_CHANNELS, (64, 96, 128, 192), (2, 1, 1, 0)))
        )
        self.heads.append(pixel_head())

    def forward(self, image: Tensor) -> Tensor:
        """images [N, 3, S, S] in [-1, 1] -> logits [N, M]."""
        inputs = [*self.teacher(image), image]
        return torch.cat([head(x).float().flatten(1) for head, x in zip(self.heads, inputs, strict=True)], dim=1)


def differentiable_augment(image: Tensor, rng: torch.Generator) -> Tensor:
    """Change colour, shift by up to an eighth and cut out a quarter square (DiffAugment, Zhao et al. 2020)."""
    n, _, height, width = image.shape

    def uniform() -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=rng).to(image.device)

    x = image + uniform() * 0.6 - 0.3
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (uniform() * 1.4 + 0.3) + grey
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - middle) * (uniform() * 0.8 + 0.6) + middle
    # Whole pixels, so that the finest detail is judged as it is.
    theta = torch.eye(2, 3).repeat(n, 1, 1)
    theta[:, :, 2] = ((torch.rand(n, 2, generator=rng) - 0.5) * 0.25 * height).round() * 2.0 / height
    grid = F.affine_grid(theta.to(x.device), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    rows = torch.arange(height, device=x.device)[None, None, :, None] / height - uniform()
    columns = torch.arange(width, device=x.device)[None, None, None, :] / width - uniform()
    return x * ~((rows.abs() < 0.17) & (columns.abs() < 0.17))
