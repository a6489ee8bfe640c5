"""Tiny networks for the tests of fine-tuning."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from data.landmarks68 import MEAN_FACE
from models.dino import DinoFeatures, ViTConfig, build_vit
from models.discriminator import Discriminator, DiscriminatorConfig
from models.stylegan2 import Generator, GeneratorConfig
from training.finetune import FineTuneConfig, FineTuner, Pair

CHANNELS = {4: 16, 8: 16, 16: 16, 32: 16, 64: 16}


def tiny_networks() -> tuple[Generator, Discriminator, DinoFeatures]:
    """Return a generator and discriminator of 64 px and a transformer of 32 px with fixed random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        generator = Generator(GeneratorConfig(size=64, style_dim=32, n_mlp=2, channels=CHANNELS))
        discriminator = Discriminator(DiscriminatorConfig(size=64, channels=CHANNELS))
        for layer in (generator.conv1, *generator.convs):
            layer.noise.weight.data.fill_(0.1)  # zero at initialisation, which would hide the noise
        dino = DinoFeatures(build_vit(ViTConfig(32, 8, 24, 12, 3)), 32)
    return generator, discriminator, dino


class MovingFace(nn.Module):
    """The mean face's landmarks, moved by an image's mean."""

    def forward(self, image: Tensor) -> SimpleNamespace:
        points = torch.from_numpy(MEAN_FACE).float() + 0.01 * image.mean(dim=(1, 2, 3))[:, None, None]
        return SimpleNamespace(points=points)


def tiny_pair() -> Pair:
    """Return three random images."""
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(6)) * 2 - 1
    return Pair(*images.split(1))


def tiny_tuner(landmark_net: Any = None, **settings: Any) -> FineTuner:
    """Return a tuner of the tiny networks with some settings changed."""
    generator, discriminator, dino = tiny_networks()
    config = FineTuneConfig(**{"batch": 2, "iterations": 6, "r1_every": 3, "path_every": 3, "seed": 4,
                               "warp_resolutions": (16,), **settings})
    latents = torch.randn(2, generator.config.n_latent, 32, generator=torch.Generator().manual_seed(7))
    return FineTuner(generator, discriminator, dino=dino, config=config, pair=tiny_pair(), latents=latents,
                     landmark_net=landmark_net)
