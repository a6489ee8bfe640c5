"""What drawings of photos are measured by when one drawing says how they should look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor
from torch.nn import functional as F

from checkpoints.features import load_face_id, load_squeezenet
from data.filters import edge_strength
from losses.identity import IdentityLoss
from losses.perceptual import SqueezeNetLPIPS
from models.squeezenet import SqueezeNetFeatures
from models.style_encoder import gram_matrix

# Maps whose Gram matrices say how a picture is drawn, and the one whose places are the samples of the Frechet distance.
LOOK_TAPS, FRECHET_TAP = (1, 4, 7), 4
# Side in px at which edge maps of different faces are compared.
EDGE_SIDE = 64


@dataclass(frozen=True)
class Judges:
    """The networks that drawings are measured by."""

    features: SqueezeNetFeatures
    lpips: SqueezeNetLPIPS
    identity: IdentityLoss

    @classmethod
    def load(cls, device: torch.device | str = "cpu") -> Judges:
        """Load the bundled ones."""
        features = load_squeezenet(device=device)
        return cls(features, SqueezeNetLPIPS(features).to(device), IdentityLoss(load_face_id(device=device).module))


def frechet(one: Tensor, other: Tensor) -> float:
    """Return the Frechet distance of two sets [N, D] and [M, D], |m - n|^2 + tr(S + T - 2 (S T)^(1/2)) (Heusel et al. 2017)."""
    means, covariances = zip(*((x.double().mean(dim=0).numpy(), np.cov(x.double().numpy(), rowvar=False)) for x in (one, other)))
    root = sqrtm(covariances[0] @ covariances[1])
    return float(np.square(means[0] - means[1]).sum() + np.trace(covariances[0] + covariances[1] - 2 * np.real(root)))


def places(features: SqueezeNetFeatures, image: Tensor) -> Tensor:
    """Return the features at every place of one image [1, 3, H, W] as samples [h w, C] of unit mean square."""
    maps = features(image, taps=(FRECHET_TAP,))[0].float()
    flat = maps.flatten(2)[0].T.cpu()  # [1, C, h, w] -> [h w, C]
    return flat / 10.0


def grams(features: SqueezeNetFeatures, image: Tensor) -> Tensor:
    """Return the Gram matrices of images [N, 3, H, W], each of unit length, as one vector each."""
    return torch.cat([F.normalize(gram_matrix(maps).flatten(1), dim=1) for maps in features(image, taps=LOOK_TAPS)], dim=1)


def part_grams(features: SqueezeNetFeatures, image: Tensor, parts: Tensor) -> Tensor:
    """Return the Gram matrices of each part of an image [1, 3, H, W], weights [1, K, H, W], as one vector each, [K, D]: how parts
    are drawn, whatever share of the picture they have."""
    found = []
    for maps in features(image, taps=LOOK_TAPS):
        weights = F.interpolate(parts, size=tuple(maps.shape[2:]), mode="area").transpose(0, 1)  # [K, 1, h, w]
        found.append(F.normalize(gram_matrix(maps * weights.sqrt()).flatten(1), dim=1))
    return torch.cat(found, dim=1)


def alike(image: Tensor) -> float:
    """Return the mean correlation between the edge maps of any two of the images [N, 3, H, W]: 1 where all show the same."""
    small = F.interpolate(image, size=(EDGE_SIDE, EDGE_SIDE), mode="area")
    maps = edge_strength(small).flatten(1)
    maps = F.normalize(maps - maps.mean(dim=1, keepdim=True), dim=1)
    upper = torch.triu_indices(len(maps), len(maps), offset=1)
    return float((maps @ maps.T)[upper[0], upper[1]].mean())


@torch.no_grad()
def judge(judges: Judges, photos: Tensor, drawn: Tensor, drawing: Tensor) -> dict[str, float]:
    """Measure drawings of photos.

    Args:
        judges: networks.
        photos, drawn: [N, 3, S, S] in [-1, 1].
        drawing: [1, 3, S, S], what they should look like.

    Returns:
        ``lpips`` and ``identity`` to the photo, ``look``: Gram distance to the drawing over the photo's own, ``frechet``: of
        single images (SIFID, Shaham et al. 2019) over the photo's own, and ``alike``, see there.
    """
    found: dict[str, list[float]] = {name: [] for name in ("lpips", "identity", "look", "frechet")}
    wanted, samples = grams(judges.features, drawing), places(judges.features, drawing)
    for photo, picture in zip(photos.split(1), drawn.split(1), strict=True):
        found["lpips"].append(float(judges.lpips(picture, photo)))
        found["identity"].append(float(judges.identity(picture, photo)))
        near, far = ((grams(judges.features, image) - wanted).norm() for image in (picture, photo))
        found["look"].append(float(near / far))
        near, far = (frechet(places(judges.features, image), samples) for image in (picture, photo))
        found["frechet"].append(near / far)
    return {name: float(np.mean(values)) for name, values in found.items()} | {"alike": alike(drawn)}
