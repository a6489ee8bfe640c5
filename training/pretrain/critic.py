"""Fourth stage: a StyleGAN2 discriminator for the finished generator, whose maps the patch heads read when tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from models.discriminator import Discriminator, DiscriminatorConfig
from models.stylegan2 import Generator
from training.pretrain import parallel
from training.pretrain.autoencoder import starter_generator_config
from training.pretrain.common import Clock, PretrainStage, RandomFaces, half_precision, require_state, resume, run_stage
from training.pretrain.faces import FacePack

STARTER_DISCRIMINATOR = DiscriminatorConfig(128, {4: 128, 8: 128, 16: 128, 32: 128, 64: 64, 128: 32})


@dataclass(frozen=True)
class CriticConfig:
    """Hyper-parameters; ``batch`` is per process, R1 is taken in every ``r1_every``-th step."""

    batch: int = 8
    lr: float = 2e-3
    r1_gamma: float = 1.0
    r1_every: int = 8


class CriticTrainer(PretrainStage):
    """The discriminator in training.

    Args:
        config: hyper-parameters.
        generator: frozen.
        device: where to train.
    """

    parts = ("critic", "optimizer")

    def __init__(self, config: CriticConfig, generator: Generator, *, device: torch.device | str) -> None:
        self.config, self.generator, self.steps = config, generator, 0
        self.critic = Discriminator(STARTER_DISCRIMINATOR).to(device)
        self.optimizer = torch.optim.Adam(self.critic.parameters(), lr=config.lr, betas=(0.0, 0.99))

    def step(self, faces: RandomFaces) -> dict[str, float]:
        """Run one iteration and return its terms: non-saturating logistic loss with lazy R1, as in StyleGAN2."""
        config = self.config
        weight = 0.0 if self.steps % config.r1_every else config.r1_gamma / 2.0 * config.r1_every
        loss, logits = critic_loss(self.critic, self.generator, faces, batch=config.batch, r1_weight=weight)
        self.descend(loss, self.critic, images=config.batch)
        self.steps += 1
        return {"loss": float(loss.detach()), "real": float(logits[0]), "fake": float(logits[1])}


def train_critic(pack: FacePack, folder: Path, *, minutes: float, device: torch.device | str = "cpu") -> dict:
    """Train for ``minutes`` on real faces against samples of ``folder/gan.pt``, saving ``folder/critic.pt``; resumes."""
    gan, path = require_state(folder / "gan.pt"), folder / "critic.pt"
    torch.manual_seed(3)
    generator = Generator(starter_generator_config())
    generator.load_state_dict(gan["g_average"])
    trainer = CriticTrainer(CriticConfig(), generator.requires_grad_(False).eval().to(device), device=device)
    resume(trainer, path)
    parallel.share(trainer.critic)
    faces = RandomFaces(pack, seed=3000 + trainer.seen, device=device)
    terms = run_stage(trainer, lambda spent: trainer.step(faces), path, clock=Clock(minutes))
    return {"images": trainer.seen, **terms}


def critic_loss(
    critic: Discriminator, generator: Generator, faces: RandomFaces, *, batch: int, r1_weight: float
) -> tuple[Tensor, Tensor]:
    """Return the loss of one batch, with R1 where its weight is not 0, and the mean logits of [real, fake] images."""
    real = faces(batch)
    with torch.no_grad(), half_precision(real.device):
        w = generator.mapping(faces.normal(batch, 512)).float()
        fake = generator.synthesis(generator.broadcast(w), noise=generator.random_noise(batch, generator=faces.rng))
    with half_precision(real.device):
        logits_fake, logits_real = critic(fake), critic(real)
    loss = F.softplus(logits_fake).mean() + F.softplus(-logits_real).mean()
    if r1_weight:
        real.requires_grad_(True)
        gradient, = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
        loss = loss + r1_weight * gradient.square().sum(dim=(1, 2, 3)).mean()
    return loss, torch.stack([logits_real.detach().mean(), logits_fake.detach().mean()])
