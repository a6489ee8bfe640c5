"""The networks that a training of exemplars uses and leaves alone, from their files."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from checkpoints.builders import Base, checkpoints_dir, load_base, load_encoder, load_vit
from checkpoints.features import load_face_id
from checkpoints.io import fingerprint
from losses.identity import IdentityLoss
from models.dino import SharedTokens
from training.exemplar_run import Tools
from training.exemplars import TokenMaps
from training.likeness import inversion_loss, token_layers

STARTER_SIDE = 256


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

    people = load_face_id(device=device)
    digest = (base.fingerprint + encoding.fingerprint + people.fingerprint
              + fingerprint(tokens.state_dict(), perceptual.state_dict()))
    return base, Tools(base.generator, base.w_avg, lambda: deepcopy(base.discriminator), encode, perceptual, maps, digest,
                       identity=IdentityLoss(people.module).requires_grad_(False))
