"""Frozen SqueezeNet 1.1 features for pretraining: perceptual distance and the ground of the projected discriminator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import squeezenet1_1

TAPS = (1, 4, 7, 12)
TAP_CHANNELS = (64, 128, 256, 512)


class SqueezeNetTeacher(nn.Module):
    """SqueezeNet 1.1 up to its last fire module, frozen.

    Args:
        path: ``.npz`` of weights under torchvision's names (``features.*`` or bare), for BGR input in 0..255 minus
            (103.939, 116.779, 123.68).
    """

    offset: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        table = np.load(path)
        weights = {k.removeprefix("features."): torch.from_numpy(table[k].astype(np.float32)) for k in table.files}
        self.features = squeezenet1_1(weights=None).features
        missing, unexpected = self.features.load_state_dict(weights, strict=False)
        if missing:
            raise ValueError(f"{path}: lacks SqueezeNet weights {missing[:3]}; it has {unexpected[:3]}")
        self.register_buffer("offset", torch.tensor([103.939, 116.779, 123.68])[None, :, None, None])
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the maps at ``TAPS`` of images [N, 3, H, W] in [-1, 1]: strides 2, 4, 8, 16 approximately."""
        x = (image.flip(1) + 1.0) * 127.5 - self.offset
        # Convolutions and pooling on CPUs are twice as fast in this layout.
        x = x.contiguous(memory_format=torch.channels_last)
        maps = []
        for index, layer in enumerate(self.features):
            # Out of place, because the tapped maps are kept.
            x = torch.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
            if index in TAPS:
                maps.append(x)
        return maps


def feature_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Return the mean over taps of the squared distance of channel-normalised features, [N] (LPIPS without weights)."""
    total = torch.zeros(a[0].shape[0], device=a[0].device)
    for x, y in zip(a, b, strict=True):
        x = x.float() / (x.float().norm(dim=1, keepdim=True) + 1e-6)
        y = y.float() / (y.float().norm(dim=1, keepdim=True) + 1e-6)
        total = total + (x - y).square().sum(dim=1).mean(dim=(1, 2))
    return total / len(a)
