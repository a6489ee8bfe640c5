"""The networks that a training of exemplars uses and leaves alone, from their files."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from checkpoints.builders import Base, checkpoints_dir, load_base, load_encoder, load_vit
from checkpoints.features import load_face_id, load_landmark_net, load_painter, load_person, load_residual_encoder
from checkpoints.io import fingerprint
from losses.identity import IdentityLoss
from models.dino import SharedTokens
from models.painter import painted
from models.residual_encoder import residual_of
from models.stylegan2 import Generator
from training.exemplar_run import Tools
from training.exemplar_shape import Shapes
from training.exemplars import Person, TokenMaps
from training.likeness import inversion_loss, token_layers

STARTER_SIDE = 256


class Behind(NamedTuple):
    """What looks behind portraits, and the digest of its weights: who is shown, where landmarks are, and drawings as photos."""

    identity: IdentityLoss
    shapes: Shapes
    as_photo: Callable[[Tensor], Tensor]
    digest: str

    @torch.no_grad()
    def seen(self, photo: Tensor) -> Tensor:
        """Return what the identity network sees in destylised portraits [N, 3, S, S] and their mirror images, [N, D]."""
        return (self.identity.embed(photo) + self.identity.embed(photo.flip(3))) / 2.0


def load_behind(generator: Generator, *, device: torch.device | str = "cpu") -> Behind:
    """Load what looks behind portraits; ``generator`` says which shapes are natural.

    Raises:
        CheckpointError: naming the file that is absent or does not fit.
    """
    people, places = load_face_id(device=device), load_landmark_net(device=device)
    finder = places.module.requires_grad_(False).eval()
    destylizer = load_painter("destylizer", device=device)

    def as_photo(image: Tensor) -> Tensor:
        with torch.no_grad():
            return painted(destylizer.module, image, image.new_zeros(1, destylizer.module.config.code))

    return Behind(IdentityLoss(people.module).requires_grad_(False), Shapes(generator, lambda image: finder(image).points),
                  as_photo, people.fingerprint + places.fingerprint + destylizer.fingerprint)


def load_tools(
    name: str | Path, *, encoder: str | None = None, vit: str | None = None, device: torch.device | str = "cpu"
) -> tuple[Base, Tools]:
    """Return a base generator and the tools of a run on it.

    Args:
        name: of the base.
        encoder: of portraits into its w_plus; the one of the base where None.
        vit: of perceptual distances and feature maps; the one that suits the base's size where None.
        device: where to compute.

    Raises:
        CheckpointError: naming the file that is absent or does not fit.
    """
    base = load_base(name, device=device, with_discriminator=True)
    encoding = load_encoder(encoder or base.name, device=device)
    tokens = load_vit(vit or ("starter" if base.generator.config.size <= STARTER_SIDE else "official"), device=device)
    tokens.requires_grad_(False)
    layers = token_layers(tokens.depth)
    # Both are asked about the same images in turn.
    shared = SharedTokens(tokens, layers=layers, facets="fk")
    perceptual = inversion_loss(shared, checkpoints_dir()).to(device).requires_grad_(False)
    maps = TokenMaps(shared, layers=layers[:2])

    def encode(image: Tensor) -> Tensor:
        side = encoding.input_size
        if image.shape[3] != side:
            image = F.interpolate(image, size=(side, side), mode="bilinear", antialias=True)
        return encoding.module(image) + encoding.latent_avg

    behind = load_behind(base.generator, device=device)
    guess = load_person(device=device)

    def expected(photo: Tensor) -> Tensor:
        with torch.no_grad():
            return guess.module(behind.seen(photo))

    beside = load_residual_encoder(device=device)
    fits = beside.generator == base.fingerprint

    def features(photo: Tensor, w_plus: Tensor) -> Tensor:
        with torch.no_grad():
            return residual_of(beside.module, base.generator, photo, w_plus).float()

    parts = base.fingerprint, encoding.fingerprint, behind.digest, guess.fingerprint, beside.fingerprint if fits else ""
    digest = "".join(parts) + fingerprint(tokens.state_dict(), perceptual.state_dict())
    return base, Tools(base.generator, base.w_avg, lambda: deepcopy(base.discriminator), encode, perceptual, maps, digest,
                       identity=behind.identity, shapes=behind.shapes, as_photo=behind.as_photo,
                       features=features if fits else None, person=Person(behind.identity.embed, expected))
