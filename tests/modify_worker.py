"""Tiny networks for the tests of MODIFY."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.discriminator import Discriminator, DiscriminatorConfig
from models.e4e import E4EConfig, E4EEncoder
from models.modify import RemappingConfig, RemappingNetwork, StyleModel
from models.stylegan2 import Generator, GeneratorConfig
from training.modify import Adapter, Encapsulator, Judges
from training.modify_config import AdaptationConfig, EncapsulationConfig

CHANNELS = {4: 8, 8: 8, 16: 8, 32: 8}
ENCODER = E4EConfig(input_size=32, n_styles=8, style_dim=16, stem=8, widths=(8, 8, 8, 8), units=(1, 1, 1, 1), base_width=8,
                    delta_width=8, coarse=3, middle=5)


class Blurred(nn.Module):
    """A perceptual distance: squares of differences at an eighth of the side."""

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        pool = nn.functional.avg_pool2d
        return (pool(image, 8) - pool(target, 8)).square().mean()


JUDGES = Judges(Blurred(), lambda image: nn.functional.avg_pool2d(image, 8).flatten(1))


def tiny_parts() -> tuple[StyleModel, Discriminator]:
    """Return a model of 32 px with three style rows of eight, and a critic, with fixed random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        generator = Generator(GeneratorConfig(size=32, style_dim=16, n_mlp=1, channels=CHANNELS))
        critic = Discriminator(DiscriminatorConfig(32, CHANNELS))
        remapping = RemappingNetwork(RemappingConfig(rows=3, style_dim=16, n_mlp=2))
        model = StyleModel(E4EEncoder(ENCODER), generator, remapping, 0.1 * torch.randn(8, 16))
    return model.eval(), critic


def tiny_images(count: int = 4, *, seed: int = 12) -> Tensor:
    """Return smooth random images [count, 3, 32, 32]."""
    rough = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return nn.functional.interpolate(rough, size=(32, 32), mode="bilinear")


def source(images: Tensor, batch: int):  # noqa: ANN201
    """Return a source of random batches."""
    return lambda step, rng: images[torch.randint(len(images), (batch,), generator=rng)]


def tiny_encapsulator(**settings: Any) -> Encapsulator:
    """Return a stage 1 of two steps a phase with some settings changed."""
    model, critic = tiny_parts()
    images = tiny_images()
    config = EncapsulationConfig(**{"steps": 2, "swap_steps": 2, "batch": 2, "rows": 3, "n_mlp": 2, "lr": 1e-3, **settings})
    return Encapsulator(model, critic, config=config, judges=JUDGES, source=source(images, config.batch), preview=images[:2])


def tiny_adapter(**settings: Any) -> Adapter:
    """Return a stage 2 with some settings changed."""
    model, critic = tiny_parts()
    images = tiny_images(seed=13)
    config = AdaptationConfig(**{"steps": 4, "batch": 2, "lr": 1e-3, **settings})
    return Adapter(model, critic, config=config, judges=JUDGES, source=source(images, config.batch), preview=images[:2])
