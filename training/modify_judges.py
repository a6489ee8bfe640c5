"""The frozen networks that MODIFY's stages compare images by."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from checkpoints.builders import checkpoints_dir, load_vit
from models.dino import DinoFeatures
from training.modify import Judges
from training.likeness import inversion_loss


class MeanToken(nn.Module):
    """R: the mean token of a transformer's last block, for eq. 3 and 7.

    Args:
        features: the transformer.
    """

    def __init__(self, features: DinoFeatures) -> None:
        super().__init__()
        self.features = features

    def forward(self, image: Tensor) -> Tensor:
        """Return embeddings [N, D] of images [N, 3, S, S] in [-1, 1]."""
        last = self.features.depth - 1
        return self.features.tokens(image, layers=[last], facets="f")["f", last].float().mean(dim=1)  # [N, T, D] -> [N, D]


def load_judges(vit: str | None, *, size: int, device: torch.device | str) -> Judges:
    """Return LPIPS where AlexNet's files are at hand, else the distance of a transformer's tokens, and R.

    Args:
        vit: "starter", "official" or a file; None takes what suits images of ``size`` px.
        size: side of the images in px.
        device: where to compute.

    Raises:
        CheckpointError: if the transformer cannot be had.
    """
    features = load_vit(vit or ("starter" if size <= 256 else "official"), device=device)
    perceptual = inversion_loss(features, checkpoints_dir()).perceptual
    return Judges(perceptual.to(device), MeanToken(features))
