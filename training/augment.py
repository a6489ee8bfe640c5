"""Adaptive augmentation of what a critic sees (Karras et al. 2020, "Training GANs with Limited Data")."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Steps between two changes of the probability.
EVERY = 8


def augment(image: Tensor, p: float, rng: torch.Generator) -> Tensor:
    """Change images [N, 3, S, S] by flips, turns, shifts, scales and colours, each with probability p (the paper's "bgc").

    Of the published pipeline it lacks the wavelet filter: what is scaled down is sampled bilinearly.

    Args:
        image: in [-1, 1].
        p: from 0 to 1; 0 returns the images themselves and draws no random numbers.
        rng: on the CPU.
    """
    if p <= 0.0:
        return image
    n, side = len(image), image.shape[3]

    def some(chance: float = p) -> Tensor:
        return (torch.rand(n, generator=rng) < chance).float()

    def normal(deviation: float) -> Tensor:
        return torch.randn(n, generator=rng) * deviation

    def whole(count: int) -> Tensor:
        return torch.randint(count, (n,), generator=rng).float()

    def scaled(x: Tensor, y: Tensor) -> Tensor:
        return torch.diag_embed(torch.stack([x, y, torch.ones(n)], dim=1))

    def turned(angle: Tensor) -> Tensor:
        c, s, o, i = angle.cos(), angle.sin(), torch.zeros(n), torch.ones(n)
        return torch.stack([c, -s, o, s, c, o, o, o, i], dim=1).reshape(n, 3, 3)

    def shifted(x: Tensor, y: Tensor) -> Tensor:
        matrix = torch.eye(3).repeat(n, 1, 1)
        matrix[:, 0, 2], matrix[:, 1, 2] = x, y
        return matrix

    once = 1.0 - math.sqrt(1.0 - p)  # so that one of two turns happens with probability p
    one, mixed, moved = torch.ones(n), some(), some()
    place = scaled(1.0 - 2.0 * some() * whole(2), one) @ turned(some() * whole(4) * math.pi / 2)
    jump = [(mixed * (torch.rand(n, generator=rng) - 0.5) * 0.25 * side).round() * 2.0 / side for _ in range(2)]
    size, stretch = (some() * normal(0.2 * math.log(2.0)) for _ in range(2))
    place = place @ shifted(*jump) @ scaled(size.exp(), size.exp())
    place = place @ turned(some(once) * (torch.rand(n, generator=rng) - 0.5) * 2 * math.pi)
    place = place @ scaled(stretch.exp(), (-stretch).exp())
    place = place @ turned(some(once) * (torch.rand(n, generator=rng) - 0.5) * 2 * math.pi)
    place = place @ shifted(*(2.0 * moved * normal(0.125) for _ in range(2)))
    grid = F.affine_grid(place[:, :2].to(image), list(image.shape), align_corners=False)
    x = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)

    brightness, contrast = some() * normal(0.2), (some() * normal(0.5 * math.log(2.0))).exp()
    flipped, hue = some() * whole(2), some() * (torch.rand(n, generator=rng) - 0.5) * 2 * math.pi
    saturation = (some() * normal(math.log(2.0))).exp()
    return recoloured(x, brightness=brightness, contrast=contrast, flipped=flipped, hue=hue, saturation=saturation)


def recoloured(x: Tensor, *, brightness: Tensor, contrast: Tensor, flipped: Tensor, hue: Tensor, saturation: Tensor) -> Tensor:
    """Return images [N, 3, S, S] with other colours, x' = C x + b, about the grey axis v v^T; all else [N], hue in radians."""
    v = torch.full((3,), 3**-0.5)
    grey = torch.outer(v, v)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) * 3**-0.5
    c, s = (part[:, None, None] for part in (hue.cos(), hue.sin()))
    turn = c * torch.eye(3) + s * cross + (1.0 - c) * grey  # Rodrigues' formula
    flip = torch.eye(3) - 2.0 * flipped[:, None, None] * grey
    lively = grey + saturation[:, None, None] * (torch.eye(3) - grey)
    linear = lively @ turn @ flip * contrast[:, None, None]
    constant = (lively @ turn @ flip @ torch.ones(3, 1))[:, :, 0] * (contrast * brightness)[:, None]
    mixed_colours = torch.einsum("nij,njhw->nihw", linear.to(x), x)
    return mixed_colours + constant.to(x)[:, :, None, None]


class AdaptiveProbability:
    """The probability p of ``augment``: every 8 steps it goes up where the critic is surer of real images than it should be.

    r = mean sign(D(real)); p += sign(r - target) images / length, kept within 0 and 1.

    Args:
        target: of r; 0 keeps p as it is.
        length: images in which p may go from 0 to 1.
        p: to begin with.
    """

    def __init__(self, target: float, length: int, *, p: float = 0.0) -> None:
        self.target, self.length, self.p, self.signs = target, length, p, []

    def see(self, sign: float, images: int) -> None:
        """Count a step that showed so many real images to the critic, whose logits have this mean sign."""
        if not self.target:
            return
        self.signs.append(sign)
        if len(self.signs) == EVERY:
            up = 1.0 if sum(self.signs) / EVERY > self.target else -1.0
            self.p, self.signs = min(max(self.p + up * EVERY * images / self.length, 0.0), 1.0), []
