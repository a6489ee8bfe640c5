"""The objective of inverting images, with the best perceptual network at hand."""

from __future__ import annotations

from pathlib import Path

from losses.perceptual import NETWORKS, InversionLoss, LPIPSDistance, ViTTokenDistance
from models.dino import DinoFeatures, SharedTokens


def token_layers(depth: int) -> list[int]:
    """Return an early, a middle and a late layer of a transformer of any depth, whose tokens ``inversion_loss`` compares."""
    return sorted({depth // 6, depth * 5 // 12, depth * 2 // 3})


def inversion_loss(dino: DinoFeatures | SharedTokens, folder: Path, *, needs_lpips: bool = False) -> InversionLoss:
    """Return L1 + LPIPS where AlexNet's files lie in ``folder``, else L1 + the distance of the transformer's tokens.

    Raises:
        FileNotFoundError: naming the missing file, if ``needs_lpips``.
        ValueError: if a file does not fit.
    """
    if needs_lpips or (folder / NETWORKS["alex"]).is_file():
        return InversionLoss(LPIPSDistance.from_folder(folder))
    return InversionLoss(ViTTokenDistance(dino, layers=token_layers(dino.depth)))
