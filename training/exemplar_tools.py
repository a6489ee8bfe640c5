"""The networks that a training of exemplars uses and leaves alone, from their files."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from checkpoints.builders import Base, checkpoints_dir, load_base, load_encoder, load_vit
from checkpoints.features import load_face_id, load_published
from checkpoints.io import fingerprint
from losses.identity import ArcFaceLoss, IdentityLoss
from losses.perceptual import NETWORKS, LPIPSDistance
from models.dino import SharedTokens
from models.published_features import VGG_SIDE
from training.exemplar_run import Tools
from training.exemplars import TokenMaps
from training.likeness import inversion_loss, token_layers

STARTER_SIDE = 256


class PooledDistance(nn.Module):
    """A distance of images that are averaged down to 256 px where they are larger, as published.

    Args:
        metric: of images [N, 3, S, S].
    """

    def __init__(self, metric: nn.Module) -> None:
        super().__init__()
        self.metric = metric

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the metric of images [N, 3, S, S] of any side."""
        side = min(image.shape[3], VGG_SIDE)
        return self.metric(*(F.adaptive_avg_pool2d(x, side) for x in (image, target)))


def _vgg_distance(device: torch.device | str) -> PooledDistance | None:
    """Return LPIPS in VGG16, or None where its file is not in ``checkpoints/``."""
    if not (checkpoints_dir() / NETWORKS["vgg"]).is_file():
        return None
    return PooledDistance(LPIPSDistance.from_folder(checkpoints_dir(), network="vgg")).to(device).requires_grad_(False)


def load_tools(
    name: str | Path, *, encoder: str | None = None, vit: str | None = None, device: torch.device | str = "cpu"
) -> tuple[Base, Tools]:
    """Return a base generator and the tools of a run on it.

    Args:
        name: of the base.
        encoder: of portraits into its w_plus; the one of the base where None.
        vit: of perceptual distances and feature maps. Where None, LPIPS in VGG16 and VGG19's maps as published if their files are
            in ``checkpoints/``, else the transformer that suits the base's size. Identity is ArcFace's if its file is there.
        device: where to compute.

    Raises:
        CheckpointError: naming the file that is absent or does not fit.
    """
    base = load_base(name, device=device, with_discriminator=True)
    encoding = load_encoder(encoder or base.name, device=device)
    maps, metric, states, named = None, None, [], {}
    if vit is None:
        maps, metric = load_published("vgg19", device=device), _vgg_distance(device)
        named = {"perceptual": "LPIPS in VGG16", "maps": "VGG19"}
        states = [network.state_dict() for network in (maps, metric) if network is not None]
    perceptual = metric
    if maps is None or metric is None:
        tokens = load_vit(vit or ("starter" if base.generator.config.size <= STARTER_SIDE else "official"), device=device)
        tokens.requires_grad_(False)
        layers = token_layers(tokens.depth)
        # Both are asked about the same images in turn.
        shared = SharedTokens(tokens, layers=layers, facets="fk")
        states.append(tokens.state_dict())
        if metric is None:
            perceptual = inversion_loss(shared, checkpoints_dir()).to(device).requires_grad_(False)
            named["perceptual"] = f"L1 + {type(perceptual.perceptual).__name__}"
            states.append(perceptual.state_dict())
        if maps is None:
            maps, named["maps"] = TokenMaps(shared, layers=layers[:2]), "tokens of the vision transformer"
    arcface = load_published("arcface", device=device)
    named["identity"] = "the bundled network" if arcface is None else "ArcFace"
    identity = IdentityLoss(load_face_id(device=device).module) if arcface is None else ArcFaceLoss(arcface)

    def encode(image: Tensor) -> Tensor:
        side = encoding.input_size
        if image.shape[3] != side:
            image = F.interpolate(image, size=(side, side), mode="bilinear", antialias=True)
        return encoding.module(image) + encoding.latent_avg

    digest = (base.fingerprint + encoding.fingerprint + fingerprint(identity.network.state_dict())
              + fingerprint(*states))
    return base, Tools(base.generator, base.w_avg, lambda: deepcopy(base.discriminator), encode, perceptual, maps, digest,
                       identity=identity.requires_grad_(False), named=named)
