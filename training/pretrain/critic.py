"""Fourth stage: a StyleGAN2 discriminator for the finished generator, whose maps the patch heads read in fine-tuning."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F
from tqdm import tqdm

from models.discriminator import Discriminator, DiscriminatorConfig
from models.stylegan2 import Generator
from training.pretrain.autoencoder import starter_generator_config
from training.pretrain.common import Clock, RandomFaces, load_state, require_state, save_state
from training.pretrain.faces import FacePack

STARTER_DISCRIMINATOR = DiscriminatorConfig(128, {4: 128, 8: 128, 16: 128, 32: 128, 64: 64, 128: 32})


def train_critic(
    pack: FacePack, folder: Path, *, minutes: float, batch: int = 8, lr: float = 2e-3, r1_gamma: float = 1.0,
    r1_every: int = 8,
) -> dict:
    """Train for ``minutes`` on real faces against samples of ``folder/gan.pt``, saving ``folder/critic.pt``; resumes.

    Non-saturating logistic loss with lazy R1, as in StyleGAN2.
    """
    gan = require_state(folder / "gan.pt")
    torch.manual_seed(3)
    generator = Generator(starter_generator_config())
    generator.load_state_dict(gan["g_average"])
    generator.requires_grad_(False).eval()
    critic = Discriminator(STARTER_DISCRIMINATOR)
    optimizer = torch.optim.Adam(critic.parameters(), lr=lr, betas=(0.0, 0.99))
    path, seen = folder / "critic.pt", 0
    saved = load_state(path)
    if saved is not None:
        critic.load_state_dict(saved["critic"])
        optimizer.load_state_dict(saved["optimizer"])
        seen = saved["seen"]
    faces, clock = RandomFaces(pack, seed=3000 + seen), Clock(minutes)
    bar, step, average = tqdm(desc="critic", unit="img"), 0, 0.0
    while not clock.done():
        real = faces(batch)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            w = generator.mapping(torch.randn(batch, 512, generator=faces.rng)).float()
            fake = generator.synthesis(generator.broadcast(w), noise=generator.random_noise(batch, generator=faces.rng))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits_fake, logits_real = critic(fake), critic(real)
        loss = F.softplus(logits_fake).mean() + F.softplus(-logits_real).mean()
        if step % r1_every == 0:
            real.requires_grad_(True)
            gradient, = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
            loss = loss + r1_gamma / 2.0 * r1_every * gradient.square().sum(dim=(1, 2, 3)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, seen = step + 1, seen + batch
        average = 0.95 * average + 0.05 * float(loss.detach())
        bar.update(batch)
        bar.set_postfix(loss=f"{average:.3f}", real=f"{logits_real.mean():.2f}", fake=f"{logits_fake.mean():.2f}")
        if clock.should_save():
            save_state(path, {"critic": critic.state_dict(), "optimizer": optimizer.state_dict(), "seen": seen})
    save_state(path, {"critic": critic.state_dict(), "optimizer": optimizer.state_dict(), "seen": seen})
    return {"images": seen, "loss": average}
