"""Fourth stage: a StyleGAN2 discriminator for the finished generator, whose maps the patch heads read when tuning."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from models.discriminator import Discriminator, DiscriminatorConfig
from models.stylegan2 import Generator
from training.pretrain import parallel
from training.pretrain.autoencoder import starter_generator_config
from training.pretrain.common import Clock, RandomFaces, half_precision, load_state, require_state, save_state
from training.pretrain.faces import FacePack

STARTER_DISCRIMINATOR = DiscriminatorConfig(128, {4: 128, 8: 128, 16: 128, 32: 128, 64: 64, 128: 32})


def train_critic(
    pack: FacePack, folder: Path, *, minutes: float, batch: int = 8, lr: float = 2e-3, r1_gamma: float = 1.0,
    r1_every: int = 8, device: torch.device | str = "cpu",
) -> dict:
    """Train for ``minutes`` on real faces against samples of ``folder/gan.pt``, saving ``folder/critic.pt``; resumes.

    Non-saturating logistic loss with lazy R1, as in StyleGAN2; ``batch`` is per process.
    """
    gan = require_state(folder / "gan.pt")
    torch.manual_seed(3)
    generator = Generator(starter_generator_config())
    generator.load_state_dict(gan["g_average"])
    generator.requires_grad_(False).eval().to(device)
    critic = Discriminator(STARTER_DISCRIMINATOR).to(device)
    optimizer = torch.optim.Adam(critic.parameters(), lr=lr, betas=(0.0, 0.99))
    path, seen = folder / "critic.pt", 0
    saved = load_state(path)
    if saved is not None:
        critic.load_state_dict(saved["critic"])
        optimizer.load_state_dict(saved["optimizer"])
        seen = saved["seen"]
    parallel.share(critic)
    faces, clock = RandomFaces(pack, seed=3000 + seen, device=device), Clock(minutes)
    bar, step, average = tqdm(desc="critic", unit="img", disable=not parallel.leads()), 0, 0.0
    while not clock.done():
        loss, logits = critic_loss(critic, generator, faces, batch=batch, r1_weight=0.0 if step % r1_every else
                                   r1_gamma / 2.0 * r1_every)
        optimizer.zero_grad()
        loss.backward()
        parallel.average_step(critic)
        optimizer.step()
        step, seen = step + 1, seen + batch * parallel.count()
        average = 0.95 * average + 0.05 * float(loss.detach())
        bar.update(batch * parallel.count())
        bar.set_postfix(loss=f"{average:.3f}", real=f"{logits[0]:.2f}", fake=f"{logits[1]:.2f}")
        if clock.should_save():
            save_state(path, {"critic": critic.state_dict(), "optimizer": optimizer.state_dict(), "seen": seen})
    if parallel.leads():
        save_state(path, {"critic": critic.state_dict(), "optimizer": optimizer.state_dict(), "seen": seen})
    return {"images": seen, "loss": average}


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
