"""Training of an e4e encoder for any generator (Tov et al. 2021): a latent discriminator and offsets that come one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.adversarial import logistic_loss, nonsaturating_loss
from models.config import Config
from models.e4e import E4EEncoder
from models.latent_discriminator import LatentDiscriminator, LatentPool
from models.remembered import Remembered
from models.stylegan2 import Generator
from training.checks import check_gradients, check_terms
from training.ema import update_average
from training.modify import Source


@dataclass(frozen=True)
class E4ETrainingConfig(Config):
    """Settings, the published ones by default.

    Attributes:
        steps, batch, lr: of Adam on the encoder.
        l2_lambda, lpips_lambda, id_lambda: weights of the distances between picture and photo.
        delta_norm_lambda: of the sum of the offsets' lengths.
        w_discriminator_lambda, w_discriminator_lr: of the latent discriminator's term, and its own rate.
        r1, d_reg_every: of the discriminator's gradient penalty.
        w_pool_size: latents that it remembers.
        progressive_start, progressive_every: step at which the first offset comes in, and steps between two.
        frozen_norm: batch normalisation keeps its statistics, for an encoder that is trained on.
        average: decay of the running average that is the result.
        seed: of everything random.
    """

    steps: int = 200_000
    batch: int = 8
    lr: float = 1e-4
    l2_lambda: float = 1.0
    lpips_lambda: float = 0.8
    id_lambda: float = 0.1
    delta_norm_lambda: float = 2e-4
    w_discriminator_lambda: float = 0.1
    w_discriminator_lr: float = 2e-5
    r1: float = 10.0
    d_reg_every: int = 16
    w_pool_size: int = 50
    progressive_start: int = 20_000
    progressive_every: int = 2_000
    frozen_norm: bool = False
    average: float = 0.999
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            least = 1 if field.name in ("steps", "batch", "d_reg_every", "progressive_every") else 0
            if not least <= getattr(self, field.name) < math.inf:
                raise ValueError(f"{field.name} must be at least {least}, got {getattr(self, field.name)}")
        if self.average >= 1.0:
            raise ValueError(f"average must be below 1, got {self.average}")

    def rows(self, step: int, n_rows: int) -> int:
        """Return how many rows are free in a step: the common one, and one more every ``progressive_every`` steps."""
        if step < self.progressive_start:
            return 1
        return min(n_rows, 2 + (step - self.progressive_start) // self.progressive_every)


class EncoderTraining:
    """Trains an encoder against a frozen generator.

    Args:
        encoder: trained in place.
        generator: frozen; its w_avg is what codes are added to.
        w_avg: [D].
        config: settings.
        perceptual: distance of image batches, a scalar.
        embed: images [N, 3, S, S] -> who is in them, [N, K].
        source: gives photos [N, 3, s, s] of the encoder's side, see ``training.modify.Source``.
        preview: photos [K, 3, s, s] for the sheets.
    """

    terms = ("l2", "lpips", "id", "delta", "w_adv", "w_critic", "w_r1", "rows", "total")

    def __init__(self, encoder: E4EEncoder, generator: Generator, w_avg: Tensor, *, config: E4ETrainingConfig,
                 perceptual: nn.Module, embed: Callable[[Tensor], Tensor], source: Source, preview: Tensor) -> None:
        self.config, self.perceptual, self.source, self.preview = config, perceptual, source, preview
        self.encoder, self.generator, self.w_avg = encoder.requires_grad_(True), generator.eval().requires_grad_(False), w_avg
        self.encoder.train(not config.frozen_norm)
        self.average = deepcopy(encoder).eval().requires_grad_(False)
        self.embed, self._person = embed, Remembered(embed)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            self.critic = LatentDiscriminator(w_avg.shape[-1]).to(w_avg)
        self.pool, self.rng = LatentPool(config.w_pool_size), torch.Generator().manual_seed(config.seed)
        self.optimizer = torch.optim.Adam(self.encoder.parameters(), lr=config.lr)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=config.w_discriminator_lr)
        self.step_count, self.history = 0, []

    @property
    def total(self) -> int:
        """Number of steps."""
        return self.config.steps

    def codes(self, image: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Return w_plus [N, L, D] of photos of whose offsets the first ``rows`` - 1 are added, and these [N, rows - 1, D]."""
        levels = self.encoder.levels(image)
        base = self.encoder.styles[0](levels[0])
        deltas = [self.encoder.styles[row](levels[row]) for row in range(1, rows)]
        offsets = torch.stack([torch.zeros_like(base), *deltas, *[torch.zeros_like(base)] * (len(levels) - rows)], dim=1)
        return self.w_avg + base[:, None] + offsets, offsets[:, 1:rows]  # L x [N, D] -> [N, L, D]

    def step(self) -> dict[str, float]:
        """Train the discriminator and the encoder once; see ``Trainer.step``."""
        image = self.source(self.step_count, self.rng)
        rows = self.config.rows(self.step_count, self.encoder.config.n_styles)
        w_plus, deltas = self.codes(image, rows)
        terms = self._terms(image, w_plus, deltas, rows)
        check_terms(terms, step=self.step_count)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.stack(list(terms.values())).sum()
        total.backward()
        check_gradients(dict(self.encoder.named_parameters()), step=self.step_count, phase="encoder")
        self.optimizer.step()
        update_average(self.average, self.encoder, self.config.average)
        found = {**terms, **self._train_critic(w_plus[:, :rows].flatten(0, 1)), "total": total}
        self.step_count += 1
        values = {name: float(found[name].detach()) if name in found else math.nan for name in self.terms} | {"rows": float(rows)}
        self.history.append(values)
        return values

    def _terms(self, image: Tensor, w_plus: Tensor, deltas: Tensor, rows: int) -> dict[str, Tensor]:
        """Return the encoder's terms with their weights."""
        config = self.config
        shown = self.generator.synthesis(w_plus, noise=self.generator.fixed_noise())
        if shown.shape[2:] != image.shape[2:]:
            shown = F.interpolate(shown, size=image.shape[2:], mode="area")
        terms = {"l2": config.l2_lambda * F.mse_loss(shown, image)}
        if config.lpips_lambda:
            terms["lpips"] = config.lpips_lambda * self.perceptual(shown, image)
        if config.id_lambda:
            terms["id"] = config.id_lambda * (self.embed(shown) - self._person(image)).norm(dim=1).mean()
        if rows > 1 and config.delta_norm_lambda:
            terms["delta"] = config.delta_norm_lambda * deltas.norm(dim=2).mean(dim=0).sum()
        if config.w_discriminator_lambda:
            self.critic.requires_grad_(False)
            terms["w_adv"] = config.w_discriminator_lambda * nonsaturating_loss(self.critic(w_plus[:, :rows].flatten(0, 1)))
            self.critic.requires_grad_(True)
        return terms

    def _train_critic(self, fake: Tensor) -> dict[str, Tensor]:
        """Train the discriminator to tell rows [M, D] of the encoder from latents of the mapping network."""
        if not self.config.w_discriminator_lambda:
            return {}
        with torch.no_grad():
            real = self.generator.mapping(torch.randn(self.config.batch, fake.shape[1], generator=self.rng).to(fake))
        real.requires_grad_(True)
        logits = self.critic(real)
        terms = {"w_critic": logistic_loss(logits, self.critic(self.pool.mixed(fake, rng=self.rng)))}
        if self.step_count % self.config.d_reg_every == 0 and self.config.r1:
            (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
            terms["w_r1"] = self.config.r1 / 2 * self.config.d_reg_every * gradient.square().sum(dim=1).mean()
        check_terms(terms, step=self.step_count)
        self.critic_optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()
        self.critic_optimizer.step()
        return terms

    @torch.no_grad()
    def sheet(self) -> dict[str, Tensor]:
        """Return photos and their inversions."""
        w_plus = self.average(self.preview) + self.w_avg
        return {"photos": self.preview, "inversions": self.generator.synthesis(w_plus, noise=self.generator.fixed_noise())}

    def state(self) -> dict[str, Any]:
        """Return everything that the next step depends on but the photos."""
        pool = torch.stack(self.pool.kept) if self.pool.kept else torch.zeros(0, self.w_avg.shape[-1])
        return {"step": self.step_count, "config": self.config.to_dict(), "rng": self.rng.get_state(), "pool": pool,
                "networks": {name: module.state_dict() for name, module in self._networks().items()},
                "optimizers": [self.optimizer.state_dict(), self.critic_optimizer.state_dict()],
                "history": torch.tensor([[row[name] for name in self.terms] for row in self.history], dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state()``; raises ValueError for other settings."""
        if state["config"] != self.config.to_dict():
            other = [name for name, value in self.config.to_dict().items() if state["config"].get(name) != value]
            raise ValueError(f"the run was started with other values of {', '.join(other)}; leave them out with --resume")
        for name, module in self._networks().items():
            module.load_state_dict(state["networks"][name])
        for optimizer, kept in zip((self.optimizer, self.critic_optimizer), state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.rng.set_state(state["rng"])
        self.pool.kept = list(state["pool"].to(self.w_avg))
        self.step_count = int(state["step"])
        self.history = [dict(zip(self.terms, row, strict=True)) for row in state["history"].tolist()]

    def _networks(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "average": self.average, "critic": self.critic}
