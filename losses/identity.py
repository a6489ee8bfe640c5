"""Identity: how far the person in an image is from the person in another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from losses.perceptual import check_pair
from models.face_id import FaceIdNet, crop_face
from models.published_features import ArcFace


def identity_distance(embedding: Tensor, target: Tensor) -> Tensor:
    """Euclidean distance of embeddings, averaged, mean_i |e_i - t_i|_2 (the measure of dlib's face recognition).

    With dlib's network one person's photos lie under 0.6 apart, and strangers about 0.8. Equal embeddings have a gradient of
    zero.

    Args:
        embedding: [N, D].
        target: [N, D], or [1, D] for all.

    Returns:
        Scalar >= 0, differentiable.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if embedding.ndim != 2 or target.ndim != 2 or target.shape[1] != embedding.shape[1] or len(target) not in (
            1, len(embedding)):
        raise ValueError(f"expected two batches of embeddings [N, D], got {list(embedding.shape)} and {list(target.shape)}")
    return torch.linalg.vector_norm(embedding - target, dim=1).mean()


class IdentityLoss(nn.Module):
    """``identity_distance`` of the faces in images.

    Args:
        network: a frozen identity network.
    """

    def __init__(self, network: FaceIdNet) -> None:
        super().__init__()
        self.network = network

    def embed(self, image: Tensor) -> Tensor:
        """Return the embeddings [N, D] of FFHQ-aligned faces [N, 3, S, S] in [-1, 1] of any side S."""
        return self.network(crop_face(image, size=self.network.config.input_size))

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the mean distance between images and targets [N, 3, S, S] in [-1, 1] (one target may stand for all).

        Raises:
            ValueError: if the shapes do not fit.
        """
        check_pair(image, target)
        return identity_distance(self.embed(image), self.embed(target))


class ArcFaceLoss(nn.Module):
    """1 - mean_i <e_i, t_i> of ArcFace's unit embeddings, the identity loss of pSp, e4e and DualStyleGAN.

    Args:
        network: frozen.
    """

    def __init__(self, network: ArcFace) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the mean over images against targets [N, 3, S, S] in [-1, 1] (one target may stand for all)."""
        check_pair(image, target)
        return 1.0 - (self.network(image) * self.network(target)).sum(dim=1).mean()
