"""Painterly filters on image batches, used to draw sample targets and to make features blind to the medium."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)


def luma(image: Tensor) -> Tensor:
    """Return the Rec. 601 luma [N, 1, H, W] of images [N, 3, H, W]."""
    weights = torch.tensor(LUMA, dtype=image.dtype, device=image.device)[None, :, None, None]
    return (image * weights).sum(dim=1, keepdim=True)


def box_blur(image: Tensor, radius: int) -> Tensor:
    """Mean over a square of side 2 radius + 1 with replicated borders; [N, C, H, W]."""
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * radius + 1, stride=1)


def kuwahara(image: Tensor, radius: int = 2) -> Tensor:
    """Edge-preserving smoothing: each pixel takes the mean of its least varied corner square (Kuwahara et al. 1976).

    Args:
        image: [N, 3, H, W] in [-1, 1].
        radius: side of the four squares minus one, in px.

    Returns:
        [N, 3, H, W] in [-1, 1].
    """
    side = radius + 1
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    mean = F.avg_pool2d(padded, side, stride=1)  # [N, 3, H + radius, W + radius]
    light = luma(padded)
    spread = F.avg_pool2d(light.square(), side, stride=1) - F.avg_pool2d(light, side, stride=1).square()
    height, width = image.shape[2:]
    corners = [(y, x) for y in (0, radius) for x in (0, radius)]
    means = torch.stack([mean[:, :, y:y + height, x:x + width] for y, x in corners])  # [4, N, 3, H, W]
    spreads = torch.stack([spread[:, :, y:y + height, x:x + width] for y, x in corners])  # [4, N, 1, H, W]
    choice = spreads.argmin(dim=0, keepdim=True).expand(1, *image.shape)
    return means.gather(0, choice)[0]


def posterize(image: Tensor, levels: Tensor | int) -> Tensor:
    """Round to ``levels`` (int or [N, 1, 1, 1]) evenly spaced values per channel; [N, 3, H, W] in [-1, 1]."""
    steps = levels - 1
    return torch.round((image + 1.0) / 2.0 * steps) / steps * 2.0 - 1.0


def edge_strength(image: Tensor) -> Tensor:
    """Return the Sobel gradient magnitude of the luma, [N, 1, H, W], about 0..1 for images in [-1, 1]."""
    sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]], dtype=image.dtype, device=image.device)
    kernels = torch.stack([sobel, sobel.t()])[:, None] / 8.0  # [2, 1, 3, 3]
    gradient = F.conv2d(F.pad(luma(image), (1, 1, 1, 1), mode="replicate"), kernels)
    return gradient.square().sum(dim=1, keepdim=True).sqrt()


def ink(image: Tensor, amount: Tensor | float = 1.0) -> Tensor:
    """Darken strong edges as an inked outline; ``amount`` is a float or [N, 1, 1, 1]."""
    line = ((edge_strength(box_blur(image, 1)) - 0.06) * 12.0).clamp(0.0, 1.0) * amount
    return image * (1.0 - line) - line


def hatch(image: Tensor, *, period: Tensor, angle: Tensor, amount: Tensor) -> Tensor:
    """Draw parallel strokes in the dark regions.

    Args:
        image: [N, 3, H, W] in [-1, 1].
        period: stroke distance in px, [N, 1, 1, 1].
        angle: stroke direction in radians, [N, 1, 1, 1].
        amount: opacity 0..1, [N, 1, 1, 1].
    """
    height, width = image.shape[2:]
    y = torch.arange(height, device=image.device, dtype=image.dtype)[None, None, :, None]
    x = torch.arange(width, device=image.device, dtype=image.dtype)[None, None, None, :]
    wave = torch.sin((x * torch.cos(angle) + y * torch.sin(angle)) * (2.0 * torch.pi / period))
    dark = (0.2 - luma(image)).clamp(0.0, 1.0)
    stroke = amount * dark * (wave > 0.0)
    return image * (1.0 - stroke) - stroke


def match_colour(image: Tensor, reference: Tensor) -> Tensor:
    """Give ``image`` the mean and deviation per channel of ``reference`` (Reinhard et al. 2001, in RGB); [N, 3, H, W]."""
    std, mean = torch.std_mean(image, dim=(2, 3), keepdim=True)
    ref_std, ref_mean = torch.std_mean(reference, dim=(2, 3), keepdim=True)
    return ((image - mean) / (std + 1e-4) * ref_std + ref_mean).clamp(-1.0, 1.0)
