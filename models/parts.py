"""Which part of a picture each pixel is, skin, background, hair or the rest, told by a small U-Net (Ronneberger et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import Config
from models.residual_encoder import space_to_depth
from models.sampling_grids import pixel_lattice

# Parts of a picture, in this order.
SKIN, BACKGROUND, HAIR, REST = range(4)
PARTS = ("skin", "background", "hair", "rest")
SLOPE = 0.1
# In front of the image, where its pixels lie in the frame of the face, at most this far.
FARTHEST = 3.0


def face_frame(points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return where pixels lie in the frame of faces: (x, y) [N, 1, size, size] each.

    The nose is the origin; 1 is half the width of the jaw to the right, and the height from the bridge of the nose to the
    chin downwards.

    Args:
        points: [N, 68, 2] as fractions of the side.
    """
    origin, right, down = _axes(points)
    lattice = pixel_lattice(size, mode="exact").to(points) / 2.0 + 0.5
    offsets = lattice[None] - origin[:, None]  # [N, P, 2]
    x, y = ((offsets * axis[:, None]).sum(dim=2) / axis.square().sum(dim=1, keepdim=True).clamp_min(1e-8)
            for axis in (right, down))
    return x.reshape(-1, 1, size, size), y.reshape(-1, 1, size, size)


def _axes(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nose, half the width to the right and the height downwards, [N, 2] each, at a right angle."""
    down = points[:, 8] - points[:, 27]
    side = torch.stack([down[:, 1], -down[:, 0]], dim=1)
    half = 0.5 * (points[:, 16] - points[:, 0]).norm(dim=1, keepdim=True)
    return points[:, 27:36].mean(dim=1), half * F.normalize(side, dim=1), down


@dataclass(frozen=True)
class PartsConfig(Config):
    """Shape of the network.

    Attributes:
        size: side of the picture in px, a multiple of 16.
        widths: channels at half of it, a quarter, an eighth and a sixteenth.
        edge: channels at the whole side, where borders are drawn.
    """

    size: int = 128
    widths: tuple[int, ...] = (24, 48, 80, 112)
    edge: int = 12

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(int(width) for width in self.widths))
        if self.size < 16 or self.size % 16 or len(self.widths) != 4 or min(*self.widths, self.edge) < 1:
            raise ValueError(f"expected a multiple of 16 px and four widths of at least 1, got {self.to_dict()}")


class Two(nn.Sequential):
    """Two convolutions, [N, C, H, W] -> [N, D, H, W]."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__(nn.Conv2d(inner, outer, 3, padding=1), nn.GroupNorm(4, outer), nn.LeakyReLU(SLOPE),
                         nn.Conv2d(outer, outer, 3, padding=1), nn.GroupNorm(4, outer), nn.LeakyReLU(SLOPE))


class PartsNetwork(nn.Module):
    """Tell a picture's parts.

    Args:
        config: the network's shape.
    """

    def __init__(self, config: PartsConfig) -> None:
        super().__init__()
        self.config = config
        first, *others = config.widths
        self.enter = Two(5 * 4, first)
        self.down = nn.ModuleList(Two(a, b) for a, b in zip(config.widths, others, strict=False))
        self.up = nn.ModuleList(Two(a + b, a) for a, b in zip(config.widths, others, strict=False))
        self.spread = nn.Conv2d(first, config.edge, 1)
        self.edge = nn.Conv2d(config.edge + 3, config.edge, 3, padding=1)
        self.head = nn.Conv2d(config.edge, len(PARTS), 3, padding=1)

    def forward(self, image: Tensor, place: Tensor) -> Tensor:
        """Return logits.

        Args:
            image: [N, 3, S, S] in [-1, 1] with S = ``config.size``.
            place: [N, 2, S, S], where its pixels lie in the frame of the face, see ``face_frame``.

        Returns:
            [N, 4, S, S].

        Raises:
            ValueError: for other shapes.
        """
        size = self.config.size
        if list(image.shape[1:]) != [3, size, size] or list(place.shape) != [len(image), 2, size, size]:
            raise ValueError(f"expected images [N, 3, {size}, {size}] and places [N, 2, {size}, {size}], got "
                             f"{list(image.shape)} and {list(place.shape)}")
        seen = torch.cat([image, place.clamp(-FARTHEST, FARTHEST) / FARTHEST], dim=1)
        levels = [self.enter(space_to_depth(seen, 2))]
        for block in self.down:
            levels.append(block(F.avg_pool2d(levels[-1], 2)))
        x = levels.pop()
        for block in reversed(self.up):
            x = block(torch.cat([levels.pop(), F.interpolate(x, scale_factor=2.0, mode="nearest")], dim=1))
        x = F.interpolate(self.spread(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(F.leaky_relu(self.edge(torch.cat([x, image], dim=1)), SLOPE))


@torch.no_grad()
def parts_of(network: PartsNetwork, image: Tensor, points: Tensor) -> Tensor:
    """Return how far pixels are skin, background, hair or the rest, as the network alone says, [N, 4, S', S'] of its side.

    Args:
        network: tells them.
        image: [N, 3, S, S] in about [-1, 1].
        points: landmarks [N, 68, 2] as fractions of the side.
    """
    side = network.config.size
    if image.shape[3] != side:
        image = F.interpolate(image, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    place = torch.cat(face_frame(points, side), dim=1)
    return network(image.clamp(-1.0, 1.0), place).softmax(dim=1)
