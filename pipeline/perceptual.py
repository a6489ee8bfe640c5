"""The objective of latent optimisation with the best perceptual network at hand."""

from __future__ import annotations

import torch

from checkpoints import builders
from losses.perceptual import InversionLoss, LPIPSDistance, ViTTokenDistance

LPIPS_FILES = ("alexnet-owt-7be5be79.pth", "alex.pth")


def inversion_objective(device: torch.device | str) -> InversionLoss:
    """Return L1 + LPIPS where AlexNet's files are in ``checkpoints/``, else L1 + the starter ViT's token distance + edges."""
    folder = builders.checkpoints_dir()
    if all((folder / name).is_file() for name in LPIPS_FILES):
        return InversionLoss(LPIPSDistance.from_folder(folder)).to(device)
    features = builders.load_vit("starter", device=device)
    return InversionLoss(ViTTokenDistance(features, layers=(2, 5, 8)), weight_detail=1.0).to(device)
