"""StyleGAN2 discriminator with rosinality's state-dict names, and the patch heads on its intermediate maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.config import Config
from models.layers import ConvLayer, EqualLinear
from models.stylegan2 import check_channels, official_channels

TAP_RESOLUTIONS = (32, 16)


@dataclass(frozen=True)
class DiscriminatorConfig(Config):
    """Shape of a discriminator: input ``size`` in px and width per resolution."""

    size: int = 1024
    channels: Mapping[int, int] = field(default_factory=official_channels)

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", {int(k): int(v) for k, v in self.channels.items()})
        check_channels(self.size, self.channels)

    @classmethod
    def official(cls, size: int = 1024) -> DiscriminatorConfig:
        """Return the published configuration F at ``size`` px."""
        return cls(size=size, channels=official_channels(size))


class ResBlock(nn.Module):
    """Residual block that halves the resolution: (conv2(conv1(x)) + skip(x)) / sqrt(2); x [N, in, H, W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = ConvLayer(in_channels, in_channels, 3)
        self.conv2 = ConvLayer(in_channels, out_channels, 3, downsample=True)
        self.skip = ConvLayer(in_channels, out_channels, 1, downsample=True, activate=False)

    def merge(self, x: Tensor, branch: Tensor) -> Tensor:
        """Add the skip path of input ``x`` to the output ``branch`` of conv2."""
        return (branch + self.skip(x)) / math.sqrt(2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(x, self.conv2(self.conv1(x)))


def minibatch_stddev(x: Tensor, *, group: int = 4) -> Tensor:
    """Append one channel with the standard deviation over groups of samples, ProgressiveGAN section 3.

    x [N, C, H, W] -> [N, C + 1, H, W]. The group is the largest divisor of N that is at most ``group``; samples
    n, n + N/group, ... form a group, as in the published implementation.
    """
    batch, _, height, width = x.shape
    size = max(g for g in range(1, group + 1) if batch % g == 0)
    grouped = x.float().reshape(size, batch // size, -1)  # [N, C, H, W] -> [G, N/G, C*H*W]
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=1)  # [N/G]
    channel = deviation.repeat(size)[:, None, None, None].expand(batch, 1, height, width).to(x.dtype)
    return torch.cat([x, channel], dim=1)


class DiscriminatorBody(nn.Module):
    """Residual StyleGAN2 discriminator up to its last map, without a head.

    Args:
        config: the network's shape.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.channels
        resolutions = sorted(widths, reverse=True)
        blocks: list[nn.Module] = [ConvLayer(3, widths[config.size], 1)]
        blocks += [ResBlock(widths[r], widths[r // 2]) for r in resolutions[:-1]]
        self.convs = nn.Sequential(*blocks)
        self.final_conv = ConvLayer(widths[4] + 1, widths[4], 3)

    def check(self, image: Tensor) -> None:
        """Raise ValueError unless ``image`` is [N, 3, size, size]."""
        expected = [3, self.config.size, self.config.size]
        if image.ndim != 4 or list(image.shape[1:]) != expected:
            raise ValueError(f"expected images [N, {', '.join(map(str, expected))}], got {list(image.shape)}")

    def features(self, image: Tensor) -> Tensor:
        """Return the last map [N, C, 4, 4] of images [N, 3, size, size] in [-1, 1]."""
        self.check(image)
        return self.final_conv(minibatch_stddev(self.convs(image)))


class Discriminator(DiscriminatorBody):
    """Residual StyleGAN2 discriminator.

    Args:
        config: the network's shape.
    """

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__(config)
        width = config.channels[4]
        self.final_linear = nn.Sequential(EqualLinear(width * 16, width, activate=True), EqualLinear(width, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return realness logits [N, 1] of images [N, 3, size, size] in [-1, 1]."""
        return self.final_linear(self.features(image).flatten(1)).float()  # [N, C, 4, 4] -> [N, 16 C]


class PatchHeads(nn.Module):
    """Four 3x3 convolutions to one channel, one for each tapped map.

    Args:
        channels: width of the tapped maps, in tap order.
    """

    def __init__(self, channels: tuple[int, int, int, int] = (512, 512, 512, 512)) -> None:
        super().__init__()
        self.new_conv = nn.ModuleList(ConvLayer(width, 1, 3) for width in channels)

    def forward(self, tap: Tensor, *, head: int) -> Tensor:
        """tap [N, C, H, W] -> [N, 1, H, W] by head 0..3."""
        return self.new_conv[head](tap)


class PatchDiscriminator(nn.Module):
    """Patch-wise realness from an intermediate map of a discriminator (DoesFS, after Zhu et al. 2022).

    The four taps, in order: the second convolution of the block that ends at 32 px, the first and second of the
    block from 32 to 16 px, and the first of the block from 16 px. Each block is computed once and nothing below
    the requested tap is computed at all.

    Args:
        discriminator: the network to tap; it is shared, not copied.
    """

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        widths, size = discriminator.config.channels, discriminator.config.size
        if size <= TAP_RESOLUTIONS[0]:
            raise ValueError(f"patch heads need a discriminator above {TAP_RESOLUTIONS[0]} px, got {size} px")
        self.discriminator = discriminator
        self.heads = PatchHeads((widths[32], widths[32], widths[16], widths[16]))

    def tap(self, image: Tensor, *, head: int) -> Tensor:
        """Return the map that ``head`` (0..3) reads: [N, C, 32, 32] for 0 and 1, [N, C, 16, 16] for 2 and 3."""
        self.discriminator.check(image)
        if head not in range(4):
            raise ValueError(f"head must be 0..3, got {head}")
        taps = 0
        x = self.discriminator.convs[0](image)
        for block in list(self.discriminator.convs)[1:]:
            first = block.conv1(x)
            if first.shape[2] in TAP_RESOLUTIONS:
                if taps == head:
                    return first
                taps += 1
            second = block.conv2(first)
            if second.shape[2] in TAP_RESOLUTIONS:
                if taps == head:
                    return second
                taps += 1
            x = block.merge(x, second)
        raise AssertionError("a discriminator above 32 px has four taps")

    def forward(self, image: Tensor, *, head: int) -> Tensor:
        """Return patch logits [N, 1, H, W] of images [N, 3, size, size] in [-1, 1] from head 0..3."""
        return self.heads(self.tap(image, head=head), head=head).float()
