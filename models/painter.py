"""The painter: one network that draws any picture in the manner of any other, in one pass, and turns drawings into photos.

An encoder reads a code from the statistics of the style picture's features; a small convolutional network draws the other
picture, with scale and shift of its normalised features given by the code (conditional instance normalisation, Dumoulin et
al. 2017, codes of unseen pictures as by Ghiasi et al. 2017). Fixed noise among its inputs is what strokes and grain are made
of; being fixed, it stands still in clips.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.style_encoder import gram_matrix
from models.tones import opponent, pyramid

SMALL = 1e-5
# Channels of noise; what a side is folded by before the first layer; px along the frame that are not trusted; folds, across
# the neighbourhood over which checks are looked for; px, across that over which broad is told from fine near the frame.
NOISE, FOLD, FRAME, CHECKS, BROAD = 1, 2, 7, 5, 9


@dataclass(frozen=True)
class PainterConfig:
    """Shape of the painter.

    Attributes:
        size: side in px of the pictures that it is made for; a multiple of 16.
        width: channels at half the side.
        inner: channels at a quarter of the side.
        blocks: residual blocks there.
        code: numbers of a style.
        style_width: channels of the style encoder's first layer.
        projected: channels whose Gram matrix is taken at each level.
    """

    size: int = 128
    width: int = 48
    inner: int = 64
    blocks: int = 5
    code: int = 160
    style_width: int = 32
    projected: int = 16

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> PainterConfig:
        """Raises TypeError or ValueError for values that are no config."""
        config = cls(**values)
        if any(not isinstance(value, int) or value < 1 for value in values.values()) or config.size % 16:
            raise ValueError(f"expected whole numbers of at least 1 and a size that 16 divides, got {values}")
        return config


def _moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation over places of maps [N, C, H, W], [N, C, 1, 1] each."""
    mean = maps.mean(dim=(2, 3), keepdim=True)
    return mean, ((maps - mean).square().mean(dim=(2, 3), keepdim=True) + SMALL).sqrt()


def upper_triangle(side: int) -> list[int]:
    """Return where a flattened matrix [side, side] holds what is on or above its diagonal."""
    return [row * side + column for row in range(side) for column in range(row, side)]


class StyleReader(nn.Module):
    """Reads the code of a picture: statistics of three levels of features and of its Laplacian pyramid, and two layers.

    Attributes:
        center, scale: of the statistics over pictures, see ``calibrate``.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, config: PainterConfig) -> None:
        super().__init__()
        widths = [config.style_width, 2 * config.style_width, 3 * config.style_width]
        self.levels = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in zip([3, *widths], widths))
        self.projections = nn.ModuleList(nn.Conv2d(width, config.projected, 1) for width in widths)
        bands = len(pyramid(torch.zeros(1, 3, config.size, config.size))[0])
        count = sum(2 * width for width in widths) + 3 * len(upper_triangle(config.projected)) + 6 + 3 * bands
        self.register_buffer("center", torch.zeros(count))
        self.register_buffer("scale", torch.ones(count))
        self.head = nn.Sequential(nn.Linear(count, 256), nn.LeakyReLU(0.2), nn.Linear(256, config.code))

    @torch.no_grad()
    def calibrate(self, pictures: Tensor) -> None:
        """Set centre and scale of the statistics from pictures [N, 3, S, S], before training."""
        deviation, mean = torch.std_mean(self.statistics(pictures), dim=0)
        self.center.copy_(mean)
        self.scale.copy_(1.0 / (deviation + 0.05 * deviation.mean()))

    def forward(self, picture: Tensor) -> Tensor:
        """Pictures [N, 3, S, S] in [-1, 1] -> codes [N, code]."""
        return self.head((self.statistics(picture) - self.center) * self.scale)

    def statistics(self, picture: Tensor) -> Tensor:
        """Return the statistics of pictures [N, 3, S, S], [N, F]."""
        colours = opponent(picture)
        found = [part.flatten(1) for part in _moments(colours)]
        found += [_moments(band)[1].flatten(1) for band in pyramid(colours)[0]]
        maps = picture
        for level, projection in zip(self.levels, self.projections, strict=True):
            maps = F.leaky_relu(level(maps), 0.2)
            found += [part.flatten(1) for part in _moments(maps)]
            found.append(gram_matrix(projection(maps)).flatten(1)[:, upper_triangle(projection.out_channels)] * maps.shape[1])
        return torch.cat(found, dim=1)


class Conditional(nn.Module):
    """Instance normalisation with scale and shift by the code."""

    def __init__(self, channels: int, code: int) -> None:
        super().__init__()
        self.affine = nn.Linear(code, 2 * channels)
        nn.init.normal_(self.affine.weight, std=0.05)
        nn.init.zeros_(self.affine.bias)

    def forward(self, maps: Tensor, code: Tensor) -> Tensor:
        """Maps [N, C, H, W] and codes [N, code] -> [N, C, H, W]."""
        scale, shift = self.affine(code)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, F.instance_norm(maps, eps=SMALL), 1.0 + scale)


class Layer(nn.Module):
    """Convolution with reflected borders, conditional normalisation, activation."""

    def __init__(self, before: int, after: int, code: int, *, stride: int = 1, active: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, stride=stride, padding=1, padding_mode="reflect", bias=False)
        self.norm, self.active = Conditional(after, code), active

    def forward(self, maps: Tensor, code: Tensor) -> Tensor:
        """Maps [N, C, H, W] and codes [N, code] -> [N, C', H', W']."""
        maps = self.norm(self.conv(maps), code)
        return F.leaky_relu(maps, 0.2) if self.active else maps


class Painter(nn.Module):
    """See the module.

    Args:
        config: its shape.
    """

    def __init__(self, config: PainterConfig) -> None:
        super().__init__()
        self.config, width, inner, code = config, config.width, config.inner, config.code
        folded = FOLD**2
        self.read = StyleReader(config)
        self.stem = Layer((3 + NOISE) * folded, width, code)
        self.down = Layer(width, inner, code, stride=2)
        self.blocks = nn.ModuleList(nn.ModuleList([Layer(inner, inner, code), Layer(inner, inner, code, active=False)])
                                    for _ in range(config.blocks))
        self.up = Layer(inner, width, code)
        self.last = Layer(width + NOISE * folded, width, code)
        self.out = nn.Conv2d(width, 3 * folded, 3, padding=1, padding_mode="reflect")
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("noise", torch.randn(1, NOISE, config.size, config.size, generator=rng, device="cpu"),
                             persistent=False)
        # An affine change of colours, the identity at first.
        self.colours = nn.Linear(code, 12)
        nn.init.normal_(self.colours.weight, std=0.01)
        nn.init.zeros_(self.colours.bias)

    def forward(self, image: Tensor, code: Tensor) -> Tensor:
        """Draw pictures in the manner that codes say.

        Args:
            image: [N, 3, S, S] in [-1, 1], S as the config says.
            code: [N, code], or [1, code] for all.

        Returns:
            [N, 3, S, S], in about [-1, 1].

        Raises:
            ValueError: for another shape.
        """
        if image.ndim != 4 or image.shape[1:] != (3, self.config.size, self.config.size):
            raise ValueError(f"expected images [N, 3, {self.config.size}, {self.config.size}], got {list(image.shape)}")
        code = code.expand(len(image), -1)
        noise = F.pixel_unshuffle(self.noise.to(image).expand(len(image), -1, -1, -1), FOLD)
        half = self.stem(torch.cat([F.pixel_unshuffle(image, FOLD), noise], dim=1), code)
        maps = self.down(half, code)
        for first, second in self.blocks:
            maps = maps + second(first(maps, code), code)
        maps = self.up(F.interpolate(maps, scale_factor=2.0, mode="nearest"), code) + half
        maps = self.out(self.last(torch.cat([maps, noise], dim=1), code))
        turn, shift = self.colours(code).split((9, 3), dim=1)
        turned = image + torch.einsum("nij,njhw->nihw", turn.unflatten(1, (3, 3)), image) + shift[:, :, None, None]
        return turned + F.pixel_shuffle(maps, FOLD)


def painted(painter: Painter, image: Tensor, code: Tensor, *, strength: float | Tensor = 1.0,
            colour: float | Tensor | None = None) -> Tensor:
    """Return pictures in the manner of a code as far as the strengths say.

    Pictures of another side are drawn at the painter's, and the difference is laid on them.

    Args:
        painter: the network.
        image: [N, 3, S, S] in [-1, 1].
        code: [N, code], or [1, code] for all.
        strength: 0 leaves the picture, 1 draws it; one for all or [N, 1, 1, 1].
        colour: strength of the colours; ``strength`` where None.

    Returns:
        [N, 3, S, S] in [-1, 1]; the pictures themselves where both strengths are 0.
    """
    colour = strength if colour is None else colour
    if all(isinstance(share, (int, float)) and share == 0.0 for share in (strength, colour)):
        return image
    side, given = painter.config.size, image.float().clamp(-1.0, 1.0)
    small = fitted(given, side)
    change = opponent(painter(small, code.float()).clamp(-1.0, 1.0) - small)
    # Close to the frame the network is unsure: what lies inside goes on there, but for its lines, which would become streaks.
    inside = even(change)[:, :, FRAME:-FRAME, FRAME:-FRAME]
    broad = F.avg_pool2d(inside, BROAD, stride=1, padding=BROAD // 2, count_include_pad=False)
    change = F.pad(broad, (FRAME,) * 4, mode="replicate") + F.pad(inside - broad, (FRAME,) * 4)
    change = opponent(torch.cat([strength * change[:, :1], colour * change[:, 1:]], dim=1), back=True)
    if image.shape[3] != side:
        change = F.interpolate(change, size=image.shape[2:], mode="bicubic", align_corners=False)
    return (given + change).clamp(-1.0, 1.0).to(image.dtype)


def even(change: Tensor) -> Tensor:
    """Return what a painter changes, [N, 3, S, S], without the checks of ``FOLD`` px that unfolding leaves in even ground.

    What is finer than a few px is averaged, for each place within a fold, over its neighbourhood; lines and strokes, which
    keep to no such place, average out.
    """
    row = change.new_tensor([1.0, 2.0, 1.0]) / 4.0
    kernel = (row[:, None] * row).expand(3, 1, 3, 3)
    fine = change - F.conv2d(F.pad(change, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    checks = F.avg_pool2d(F.pixel_unshuffle(fine, FOLD), CHECKS, stride=1, padding=CHECKS // 2, count_include_pad=False)
    return change - F.pixel_shuffle(checks, FOLD)


def fitted(image: Tensor, side: int) -> Tensor:
    """Return pictures [N, 3, S, S] with ``side`` px."""
    if image.shape[3] == side:
        return image
    return F.interpolate(image, size=(side, side), mode="bilinear", antialias=image.shape[3] > side, align_corners=False)
