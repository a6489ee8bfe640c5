"""The frozen networks that MODIFY's stages compare images by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from checkpoints.builders import checkpoints_dir, load_vit
from checkpoints.features import load_face_id
from losses.identity import IdentityLoss
from training.likeness import inversion_loss
from training.modify import Judges


class Recogniser(nn.Module):
    """R of eq. 3 and 7: the bundled identity network.

    Args:
        loss: holds the network.
    """

    def __init__(self, loss: IdentityLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, image: Tensor) -> Tensor:
        """Return embeddings [N, D] of images [N, 3, S, S] in [-1, 1]."""
        return self.loss.embed(image)


def load_judges(vit: str | None, *, size: int, device: torch.device | str) -> Judges:
    """Return LPIPS where AlexNet's files are at hand, else the distance of a transformer's tokens, and the identity network.

    Args:
        vit: "starter", "official" or a file; None takes what suits images of ``size`` px.
        size: side of the images in px.
        device: where to compute.

    Raises:
        CheckpointError: if the transformer cannot be had.
    """
    features = load_vit(vit or ("starter" if size <= 256 else "official"), device=device)
    perceptual = inversion_loss(features, checkpoints_dir()).perceptual
    return Judges(perceptual.to(device), Recogniser(IdentityLoss(load_face_id(device=device).module)))
