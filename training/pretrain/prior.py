"""The prior of random faces: principal parts of what the encoder gives for faces, and a flow to them from normal numbers.

Rows of ``w_plus`` and sketches (see ``models.decoder``) are each reduced to their principal parts, whitened together, and the
flow's network is trained by flow matching (Lipman et al. 2023) on the trigonometric interpolant. Without training the flow is
the identity and the prior the Gaussian with the faces' mean and covariance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.decoder import sketch_of
from models.face_prior import FacePrior, FacePriorConfig
from models.stylegan2 import Generator
from training.pretrain.common import Clock, require_state, run_stage, save_state, update_average
from training.pretrain.decoder import RandomSketches
from training.pretrain.encoded import Encoded, from_bytes
from training.pretrain.faces import FacePack


@dataclass(frozen=True)
class PriorTrainingConfig:
    """Hyper-parameters of the stage: faces per step, learning rate, the share of the budget in which it falls, the average of
    weights, and how far sketches are mirrored with their rows kept (never; faces are taken as they are)."""

    batch: int = 128
    lr: float = 1e-3
    decay: float = 0.7
    weight_decay: float = 1e-2
    average: float = 0.999


def collect(packs: Sequence[FacePack], encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows [M, L, D], sketches [M, 4, 16, 16] and whether each face is held out, [M] bool."""
    rows, sketches, held = [], [], []
    for pack, faces in zip(packs, encoded, strict=True):
        out = set(pack.split()[1].tolist())
        rows.append(faces.rows.float())
        sketches += [sketch_of(from_bytes(photo), from_bytes(plain))
                     for photo, plain in zip(faces.photo.split(64), faces.plain.split(64), strict=True)]
        held += [index in out for index in faces.index.tolist()]
    return torch.cat(rows), torch.cat(sketches), torch.tensor(held)


def principal_parts(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the mean and ``count`` principal directions, each as long as the deviation along it, of values [M, ...].

    Directions beyond the rank are zero.
    """
    mean = values.mean(dim=0)
    centred = (values - mean).flatten(1)
    if len(centred) < centred.shape[1]:
        variance, vectors = torch.linalg.eigh(centred @ centred.T / len(centred))
        vectors = centred.T @ vectors / (variance.clamp(min=1e-12) * len(centred)).sqrt()
    else:
        variance, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    kept = min(count, int((variance > 1e-8 * variance.max()).sum()))
    basis = values.new_zeros(count, centred.shape[1])
    basis[:kept] = (vectors * variance.clamp(min=0.0).sqrt()).T.flip(0)[:kept]
    return mean, basis


def fit_gaussian(prior: FacePrior, rows: Tensor, sketches: Tensor) -> None:
    """Give a prior the mean and covariance of rows [M, L, D] and sketches [M, 4, 16, 16]."""
    config = prior.config
    for name, values, count in (("row", rows, config.row_parts), ("sketch", sketches, config.style_dim - config.row_parts)):
        mean, basis = principal_parts(values, count)
        getattr(prior, f"{name}_mean").copy_(mean)
        getattr(prior, f"{name}_basis").copy_(basis)
    prior.mix.copy_(torch.eye(config.style_dim))
    parts = prior.parts(rows, sketches)
    variance, vectors = torch.linalg.eigh(parts.T @ parts / len(parts))
    # Parts that no face has stay apart, with the deviation that all others have.
    deviation = torch.where(variance > 1e-6, variance.clamp(min=1e-6).sqrt(), 1.0)
    prior.mix.copy_(vectors @ torch.diag(deviation) @ vectors.T)


class PriorTrainer:
    """The prior and its average; resumable.

    Args:
        config: hyper-parameters.
        shape: of the prior.
    """

    def __init__(self, config: PriorTrainingConfig, shape: FacePriorConfig) -> None:
        torch.manual_seed(21)
        self.config = config
        self.prior = FacePrior(shape)
        self.average = deepcopy(self.prior).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.prior.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.rng = torch.Generator().manual_seed(22)
        self.seen = 0

    def loss(self, prior: FacePrior, y: Tensor, rng: torch.Generator) -> Tensor:
        """Return the flow matching loss of whitened faces y [N, D], 1 for a flow that stands still."""
        z = torch.randn(y.shape, generator=rng)
        angle = torch.rand(len(y), generator=rng) * math.pi / 2.0
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        return (prior.velocity(cos * z + sin * y, angle) - (cos * y - sin * z)).square().mean()

    def step(self, y: Tensor, fraction: float) -> dict[str, float]:
        """Run one iteration on whitened training faces y [M, D] and return its loss."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * min(1.0, (self.seen + config.batch) / (200.0 * config.batch),
                                          max((1.0 - fraction) / config.decay, 0.01))
        chosen = torch.randint(len(y), (config.batch,), generator=self.rng)
        loss = self.loss(self.prior, y[chosen], self.rng)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.seen += config.batch
        update_average(self.average, self.prior, min(config.average, 1.0 - 16.0 / (self.seen / config.batch + 16.0)))
        return {"flow": float(loss.detach())}

    def state(self) -> dict:
        return {"config": self.prior.config.to_dict(), "seen": self.seen, "prior": self.prior.state_dict(),
                "average": self.average.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        for name in ("prior", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.seen = state["seen"]


def train_prior(
    packs: Sequence[FacePack], encoded: Sequence[Encoded], folder: Path, *, minutes: float,
    config: PriorTrainingConfig | None = None, shape: FacePriorConfig | None = None,
) -> dict:
    """Fit the Gaussian to all training faces and train the flow for ``minutes``, saving ``folder/prior.pt``.

    The parts are those of the faces that are there now, so that a second run begins the flow anew.
    """
    rows, sketches, held = collect(packs, encoded)
    shape = shape or FacePriorConfig(n_latent=rows.shape[1], style_dim=rows.shape[2])
    trainer = PriorTrainer(config or PriorTrainingConfig(), shape)
    for prior in (trainer.prior, trainer.average):
        fit_gaussian(prior, rows[~held], sketches[~held])
    y, kept = trainer.prior.parts(rows[~held], sketches[~held]), trainer.prior.parts(rows[held], sketches[held])

    @torch.no_grad()
    def report() -> dict[str, float]:
        rng = torch.Generator().manual_seed(1)
        return {"held_out_flow": float(trainer.loss(trainer.average, kept.repeat(16, 1), rng)) if len(kept) else math.nan}

    path = folder / "prior.pt"
    if minutes <= 0.0:
        save_state(path, trainer.state())
        return {"faces": len(y)}
    terms = run_stage(trainer, lambda spent: trainer.step(y, spent), path, clock=Clock(minutes, save_every=60.0), report=report)
    return {"faces": len(y), "images": trainer.seen, **terms, **report()}


def trained_prior(folder: Path) -> FacePrior:
    """Return the averaged prior of ``folder/prior.pt``; raises MissingStageError where there is none."""
    state = require_state(folder / "prior.pt")
    prior = FacePrior(FacePriorConfig.from_dict(state["config"]))
    prior.load_state_dict(state["average"])
    return prior.requires_grad_(False).eval()


def random_sketches(prior: FacePrior, generator: Generator) -> RandomSketches:
    """Return what draws images and sketches of random faces for the decoder's training."""
    @torch.no_grad()
    def draw(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        rows, sketch = prior(torch.randn(count, prior.config.style_dim, generator=rng))
        return generator.synthesis(rows, noise=generator.fixed_noise()), sketch

    return draw
