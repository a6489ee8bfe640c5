"""Strokes: a small network that draws a toned photo as the artist draws, one for each style.

After Texler et al. 2020, "Interactive video stylization using few-shot patch-based training": the network sees patches of the
pair alone, so it learns how things are drawn and not whose they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2
# Pictures are drawn in tiles of at most this side in px, which overlap by twice the reach of the network.
TILE, REACH = 1024, 48


@dataclass(frozen=True)
class StrokeConfig:
    """Shape of the network: parts of the face it is told, and widths at the whole side, half and a quarter."""

    parts: int = 4
    widths: tuple[int, ...] = (16, 32, 64)

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(int(width) for width in self.widths))
        if len(self.widths) != 3 or min(self.widths) < 1 or self.parts < 1:
            raise ValueError(f"expected three widths and a number of parts of at least 1, got {self.widths} and {self.parts}")

    def to_dict(self) -> dict:
        """Return plain values that JSON can hold."""
        return {**asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_dict(cls, values: Mapping) -> StrokeConfig:
        """Rebuild the config from ``to_dict()``; unknown names raise ValueError."""
        unknown = set(values) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"unknown settings of the stroke network {sorted(unknown)}")
        return cls(**values)


class Block(nn.Module):
    """x + conv(act(conv(act(x)))), [N, C, H, W] -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect") for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.leaky_relu(self.first(F.leaky_relu(x, SLOPE)), SLOPE))


class StrokeNetwork(nn.Module):
    """A U-Net of three scales (Ronneberger et al. 2015) that adds strokes to a toned photo; new ones add nothing."""

    def __init__(self, config: StrokeConfig | None = None) -> None:
        super().__init__()
        self.config = config or StrokeConfig()
        fine, middle, coarse = self.config.widths
        self.enter = nn.Conv2d(3 + self.config.parts, fine, 3, padding=1, padding_mode="reflect")
        self.down = nn.Conv2d(fine, middle, 4, stride=2, padding=1)
        self.down_again = nn.Conv2d(middle, coarse, 4, stride=2, padding=1)
        self.middle, self.coarse = Block(middle), nn.Sequential(Block(coarse), Block(coarse))
        self.up, self.up_again = nn.Conv2d(coarse, middle, 1), nn.Conv2d(middle, fine, 1)
        self.middle_out, self.fine_out = Block(middle), Block(fine)
        self.leave = nn.Conv2d(fine, 3, 3, padding=1, padding_mode="reflect")
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, image: Tensor, parts: Tensor) -> Tensor:
        """Return drawn images [N, 3, H, W].

        Args:
            image: toned photos [N, 3, H, W] in about [-1, 1]; H and W are multiples of 4.
            parts: of them, [N, K, H, W] in 0..1.

        Raises:
            ValueError: for other shapes.
        """
        if image.ndim != 4 or parts.shape != (len(image), self.config.parts, *image.shape[2:]) or any(
                side % 4 for side in image.shape[2:]):
            raise ValueError(f"expected images [N, 3, H, W], sides multiples of 4, and parts [N, {self.config.parts}, H, W], got "
                             f"{list(image.shape)} and {list(parts.shape)}")
        fine = self.enter(torch.cat([image, parts], dim=1).contiguous(memory_format=torch.channels_last))
        middle = self.middle(self.down(F.leaky_relu(fine, SLOPE)))
        coarse = self.coarse(self.down_again(F.leaky_relu(middle, SLOPE)))
        middle = self.middle_out(middle + F.interpolate(self.up(coarse), scale_factor=2.0, mode="bilinear"))
        fine = self.fine_out(fine + F.interpolate(self.up_again(middle), scale_factor=2.0, mode="bilinear"))
        return image + self.leave(F.leaky_relu(fine, SLOPE))


def drawn(network: StrokeNetwork, image: Tensor, parts: Tensor, *, strength: float = 1.0) -> Tensor:
    """Return an image [1, 3, H, W] of any size drawn by the network, in tiles; strength 0 leaves it as it is."""
    if strength == 0.0:
        return image
    height, width = image.shape[2:]
    if max(height, width) <= TILE and height % 4 == 0 and width % 4 == 0:
        return torch.lerp(image, network(image, parts), strength)
    made = torch.empty_like(image)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            rows, columns = (top, min(top + TILE, height)), (left, min(left + TILE, width))
            (y0, y1), (x0, x1) = ((max(0, a - REACH), min(side, b + REACH))
                                  for (a, b), side in ((rows, height), (columns, width)))
            # Sides that are multiples of 4, as the network halves twice.
            pad = (0, -(x1 - x0) % 4, 0, -(y1 - y0) % 4)
            seen = [F.pad(maps[:, :, y0:y1, x0:x1], pad, mode="replicate") for maps in (image, parts)]
            tile = network(*seen)[:, :, rows[0] - y0:rows[1] - y0, columns[0] - x0:columns[1] - x0]
            made[:, :, rows[0]:rows[1], columns[0]:columns[1]] = tile
    return torch.lerp(image, made, strength)
