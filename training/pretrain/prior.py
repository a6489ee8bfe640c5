"""The prior of random faces: the Gaussian of the rows that the encoder gives for faces, and a flow of their sketches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.decoder import DETAIL, sketch_of
from models.face_prior import FacePrior, FacePriorConfig, condition, packed
from models.stylegan2 import Generator
from training.pretrain.common import Clock, MissingStageError, PretrainStage, require_state, resume, run_stage, update_average
from training.pretrain.decoder import RandomSketches
from training.pretrain.encoded import Encoded, from_bytes
from training.pretrain.faces import FacePack

RANK = 1e-4  # of the largest deviation: smaller ones are rounding errors


@dataclass(frozen=True)
class PriorTrainingConfig:
    """Hyper-parameters of the flow.

    Attributes:
        batch: sketches in a step.
        lr: learning rate at its highest; it rises over ``warm`` sketches and falls to nothing with the cosine of the budget.
        average: decay of the running average of the weights.
    """

    batch: int = 32
    lr: float = 1e-3
    warm: int = 3200
    average: float = 0.9995


@dataclass(frozen=True)
class Faces:
    """Faces as the prior learns them: rows [M, L, D], sketches [M, 5, 16, 16], and ``condition`` [M, 12, 16, 16]."""

    rows: Tensor
    sketches: Tensor
    seen: Tensor

    def of(self, chosen: Tensor) -> Faces:
        """Return those that are chosen, by numbers or by bool [M]."""
        return Faces(self.rows[chosen], self.sketches[chosen], self.seen[chosen])


def collect(packs: Sequence[FacePack], encoded: Sequence[Encoded]) -> tuple[Faces, Faces]:
    """Return the faces to learn from, and those held out."""
    rows, sketches, seen, held = [], [], [], []
    for pack, faces in zip(packs, encoded, strict=True):
        out = set(pack.split()[1].tolist())
        rows.append(faces.rows.float())
        for photo, plain in zip(faces.photo.split(64), faces.plain.split(64), strict=True):
            image = from_bytes(plain)
            sketches.append(sketch_of(from_bytes(photo), image))
            seen.append(condition(image))
        held += [index in out for index in faces.index.tolist()]
    both = Faces(*(torch.cat(part).contiguous() for part in (rows, sketches, seen)))
    return both.of(~torch.tensor(held)), both.of(torch.tensor(held))


def principal_parts(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the mean and ``count`` principal directions, each as long as the deviation along it, of values [M, ...].

    Directions beyond the rank are zero.
    """
    mean = values.mean(dim=0)
    centred = (values - mean).flatten(1)
    # Halko et al. 2011; its random numbers are its own.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, lengths, vectors = torch.svd_lowrank(centred, q=min(count + 32, *centred.shape), niter=4)
    deviation = lengths[:count] / len(centred) ** 0.5
    kept = int((deviation > RANK * deviation.max()).sum())
    basis = values.new_zeros(count, centred.shape[1])
    basis[:kept] = deviation[:kept, None] * vectors.T[:kept]
    return mean, basis


def fit_gaussian(prior: FacePrior, faces: Faces) -> None:
    """Give a prior the means and principal directions of faces' rows and sketches, the latter over their deviation."""
    deviation = (faces.sketches - faces.sketches.mean(dim=0)).square().mean(dim=(0, 2, 3)).sqrt()
    prior.scale.copy_(deviation.clamp_min(RANK)[:, None, None])
    for mean, basis, values in ((prior.row_mean, prior.row_basis, faces.rows),
                                (prior.sketch_mean, prior.sketch_basis, faces.sketches / prior.scale)):
        for buffer, found in zip((mean, basis), principal_parts(values, len(basis)), strict=True):
            buffer.copy_(found)


class PriorTrainer(PretrainStage):
    """A prior whose flow is trained, its average, and the optimiser.

    Args:
        config: hyper-parameters.
        prior: fitted by ``fit_gaussian``.
        generator: digest of the generator whose rows these are.
    """

    parts = ("flow", "optimizer")

    def __init__(self, config: PriorTrainingConfig, prior: FacePrior, generator: str) -> None:
        self.config, self.average, self.generator = config, prior.requires_grad_(False), generator
        self.flow = deepcopy(prior.flow).requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.flow.parameters(), lr=config.lr)
        self.rng = torch.Generator().manual_seed(5)

    def step(self, faces: Faces, spent: float) -> dict[str, float]:
        """Run one iteration of flow matching and return its loss, |v((1 - t) a + t b, t, image) - (b - a)|^2.

        a is of the Gaussian, b a face's sketch, t even in 0..1; half of the faces are mirrored.
        """
        config = self.config
        chosen = torch.randint(len(faces.rows), (config.batch,), generator=self.rng)
        rise = min(1.0, (self.seen + config.batch) / config.warm)
        self.set_rate(config.lr * rise * max(0.01, 0.5 + 0.5 * math.cos(math.pi * spent)))
        terms = self.loss(faces.of(chosen))
        self.descend(terms, self.flow, images=config.batch, most=1.0)
        update_average(self.average.flow, self.flow, self.warm(config.average))
        return {"flow": float(terms.detach())}

    def loss(self, faces: Faces) -> Tensor:
        """Return the loss of faces, each with a time and a start of its own."""
        count = len(faces.rows)
        z = torch.randn(count, self.average.config.style_dim, generator=self.rng)
        first, last, seen = packed(self.average.rough(z)), packed(faces.sketches / self.average.scale), faces.seen
        flip = (torch.rand(count, generator=self.rng) < 0.5)[:, None, None, None]
        last, seen = torch.where(flip, mirrored(last, single=DETAIL + 1), last), torch.where(flip, mirrored(seen), seen)
        time = torch.rand(count, generator=self.rng)
        found = self.flow(torch.lerp(first, last, time[:, None, None, None]), time, seen)
        return (found - (last - first)).square().mean()

    def state(self) -> dict:
        return super().state() | {"config": self.average.config.to_dict(), "average": self.average.state_dict(),
                                  "generator": self.generator}

    def load(self, state: dict) -> None:
        """Go on from a state; raises MissingStageError where it was trained for another generator."""
        if state["generator"] != self.generator:
            raise MissingStageError("prior.pt: was trained for another generator; take that one, or another --state")
        super().load(state)
        self.average.flow.load_state_dict({name.removeprefix("flow."): value for name, value in state["average"].items()
                                           if name.startswith("flow.")})


def mirrored(maps: Tensor, *, single: int = 0) -> Tensor:
    """Return maps [N, C, H, W] mirrored, of which all but the first ``single`` channels are pixels of ``pixel_unshuffle``, whose
    left and right change places in each two by two."""
    fours = maps[:, single:].unflatten(1, (-1, 2, 2)).flip(3).flatten(1, 3)
    return torch.cat([maps[:, :single], fours], dim=1).flip(3)


def train_prior(packs: Sequence[FacePack], encoded: Sequence[Encoded], folder: Path, *, minutes: float,
                config: PriorTrainingConfig | None = None, shape: FacePriorConfig | None = None) -> dict:
    """Fit the prior to all training faces and train its flow for ``minutes``, saving ``folder/prior.pt``; resumes."""
    learned, held = collect(packs, encoded)
    torch.manual_seed(12)
    prior = FacePrior(shape or FacePriorConfig(n_latent=learned.rows.shape[1], style_dim=learned.rows.shape[2]))
    fit_gaussian(prior, learned)
    trainer = PriorTrainer(config or PriorTrainingConfig(), prior, encoded[0].generator)
    resume(trainer, folder / "prior.pt")
    trainer.rng.manual_seed(5 + trainer.seen)
    terms = run_stage(trainer, lambda spent: trainer.step(learned, spent), folder / "prior.pt", clock=Clock(minutes))
    facts: dict = {"faces": len(learned.rows), "sketches": trainer.seen, **terms}
    if len(held.rows):
        with torch.no_grad():
            trainer.rng.manual_seed(6)
            facts["held_out_flow"] = float(trainer.loss(held))
    return facts


def trained_prior(folder: Path) -> FacePrior:
    """Return the prior of ``folder/prior.pt``; raises MissingStageError where there is none."""
    state = require_state(folder / "prior.pt")
    prior = FacePrior(FacePriorConfig.from_dict(state["config"]))
    prior.load_state_dict(state["average"])
    return prior.requires_grad_(False).eval()


def random_sketches(prior: FacePrior, generator: Generator) -> RandomSketches:
    """Return what draws images and sketches of random faces for the decoder's training."""
    @torch.no_grad()
    def draw(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        z = torch.randn(count, prior.config.style_dim, generator=rng)
        image = generator.synthesis(prior.rows(z), noise=generator.fixed_noise())
        return image, prior.sketch(z, image)

    return draw
