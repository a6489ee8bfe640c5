"""The objective of latent optimisation with the best perceptual network at hand."""

from __future__ import annotations

import torch
from torch import nn

from checkpoints import builders
from checkpoints.features import load_squeezenet
from losses.perceptual import NETWORKS, InversionLoss, LPIPSDistance, SqueezeNetLPIPS


def lpips_distance(device: torch.device | str, *, networks: tuple[str, ...] = ("alex",)) -> nn.Module:
    """Return LPIPS in the first of ``networks`` (see ``losses.perceptual.NETWORKS``) whose file is in ``checkpoints/``, else in
    the bundled SqueezeNet."""
    folder = builders.checkpoints_dir()
    for network in networks:
        if (folder / NETWORKS[network]).is_file():
            return LPIPSDistance.from_folder(folder, network=network).to(device)
    return SqueezeNetLPIPS(load_squeezenet(device=device)).to(device)


def published_distance(device: torch.device | str) -> nn.Module:
    """Return the distance of the published landmark projection: LPIPS in VGG16 where its file is, see ``lpips_distance``."""
    return lpips_distance(device, networks=("vgg", "alex"))


def inversion_objective(device: torch.device | str) -> InversionLoss:
    """Return L1 + LPIPS; in the bundled SqueezeNet with edges, which its first stride passes over."""
    distance = lpips_distance(device)
    return InversionLoss(distance, weight_detail=0.0 if isinstance(distance, LPIPSDistance) else 1.0).to(device)
