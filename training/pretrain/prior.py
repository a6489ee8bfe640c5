"""The prior of random faces: the Gaussian of what the encoder gives for faces, rows of ``w_plus`` and sketches together.

A flow trained by flow matching (Lipman et al. 2023) in front of it was tried briefly without gain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.decoder import sketch_of
from models.face_prior import FacePrior, FacePriorConfig
from models.stylegan2 import Generator
from training.pretrain.common import require_state, save_state
from training.pretrain.decoder import RandomSketches
from training.pretrain.encoded import Encoded, from_bytes
from training.pretrain.faces import FacePack

RANK = 1e-4  # of the largest deviation: smaller ones are rounding errors


def collect(packs: Sequence[FacePack], encoded: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows [M, L, D], sketches [M, 5, 16, 16] and whether each face is held out, [M] bool."""
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
    # Halko et al. 2011; its random numbers are its own.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, lengths, vectors = torch.svd_lowrank(centred, q=min(count + 32, *centred.shape), niter=4)
    deviation = lengths[:count] / len(centred) ** 0.5
    kept = int((deviation > RANK * deviation.max()).sum())
    basis = values.new_zeros(count, centred.shape[1])
    basis[:kept] = deviation[:kept, None] * vectors.T[:kept]
    return mean, basis


def fit_gaussian(prior: FacePrior, rows: Tensor, sketches: Tensor) -> None:
    """Give a prior the mean and covariance of rows [M, L, D] and sketches [M, 5, 16, 16]."""
    config = prior.config
    for mean, basis, values in ((prior.row_mean, prior.row_basis, rows),
                                (prior.sketch_mean, prior.sketch_basis, sketches * prior.weights)):
        for buffer, found in zip((mean, basis), principal_parts(values, len(basis)), strict=True):
            buffer.copy_(found)
    prior.mix.copy_(torch.eye(config.style_dim))
    parts = prior.parts(rows, sketches)
    parts = parts.double()  # in single precision the solver may not converge on repeated values
    variance, vectors = torch.linalg.eigh(parts.T @ parts / len(parts))
    deviation = torch.where(variance > RANK**2 * variance.max(), variance, 0.0).sqrt()
    prior.mix.copy_(vectors @ torch.diag(deviation) @ vectors.T)


def train_prior(packs: Sequence[FacePack], encoded: Sequence[Encoded], folder: Path, *,
                shape: FacePriorConfig | None = None) -> dict:
    """Fit the prior to all training faces, saving ``folder/prior.pt``."""
    rows, sketches, held = collect(packs, encoded)
    prior = FacePrior(shape or FacePriorConfig(n_latent=rows.shape[1], style_dim=rows.shape[2])).requires_grad_(False)
    fit_gaussian(prior, rows[~held], sketches[~held])
    save_state(folder / "prior.pt", {"config": prior.config.to_dict(), "average": prior.state_dict(), "seen": int((~held).sum()),
                                     "generator": encoded[0].generator})
    facts: dict = {"faces": int((~held).sum())}
    if held.any():
        facts["held_out_variance"] = float(prior.parts(rows[held], sketches[held]).square().mean())
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
        rows, sketch = prior.faces(torch.randn(count, prior.config.style_dim, generator=rng))
        return generator.synthesis(rows, noise=generator.fixed_noise()), sketch

    return draw
