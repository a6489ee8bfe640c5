"""Face alignment network (Bulat and Tzimiropoulos 2017): stacked hourglasses with face-alignment's state-dict names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUT_SIZE = 256
WIDTH = 256
DEPTH = 4


@dataclass(frozen=True)
class FANConfig:
    """Number of stacked hourglasses and of landmarks; the released 2DFAN4 has four and 68."""

    stacks: int = 4
    points: int = 68

    def __post_init__(self) -> None:
        if self.stacks < 1 or self.points < 1:
            raise ValueError(f"stacks and points must be at least 1, got {self}")

    @classmethod
    def from_keys(cls, keys: Iterable[str], *, points: int = 68) -> FANConfig:
        """Read the number of stacks from state-dict names; raises ValueError where there are none."""
        stacks = {int(found.group(1)) for key in keys if (found := re.match(r"l(\d+)\.", key))}
        if stacks != set(range(len(stacks))) or not stacks:
            raise ValueError("these are not the weights of a face alignment network: no heads l0, l1, ...")
        return cls(len(stacks), points)


class ConvBlock(nn.Module):
    """Three 3x3 convolutions of which each sees the one before; their outputs side by side are added to the input."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        widths = (width // 2, width // 4, width // 4)
        self.bn1, self.conv1 = nn.BatchNorm2d(before), nn.Conv2d(before, widths[0], 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(widths[0]), nn.Conv2d(widths[0], widths[1], 3, padding=1, bias=False)
        self.bn3, self.conv3 = nn.BatchNorm2d(widths[1]), nn.Conv2d(widths[1], widths[2], 3, padding=1, bias=False)
        self.downsample = None
        if before != width:
            self.downsample = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU(), nn.Conv2d(before, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, before, H, W] -> [N, width, H, W]."""
        first = self.conv1(torch.relu(self.bn1(x)))
        second = self.conv2(torch.relu(self.bn2(first)))
        third = self.conv3(torch.relu(self.bn3(second)))
        return torch.cat([first, second, third], dim=1) + (x if self.downsample is None else self.downsample(x))


class Hourglass(nn.Module):
    """Down to a sixteenth of the side and up again, with a block beside every level."""

    def __init__(self, width: int = WIDTH, depth: int = DEPTH) -> None:
        super().__init__()
        self.depth = depth
        for level in range(depth, 0, -1):
            for name in ("b1", "b2", "b3"):
                self.add_module(f"{name}_{level}", ConvBlock(width, width))
        self.add_module("b2_plus_1", ConvBlock(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, width, H, W] -> the same shape; H and W are multiples of 2^depth."""
        return self._level(x, self.depth)

    def _level(self, x: Tensor, level: int) -> Tensor:
        beside = getattr(self, f"b1_{level}")(x)
        low = getattr(self, f"b2_{level}")(F.avg_pool2d(x, 2))
        low = self._level(low, level - 1) if level > 1 else self.b2_plus_1(low)
        return beside + F.interpolate(getattr(self, f"b3_{level}")(low), scale_factor=2.0, mode="nearest")


def fan_input(image: Tensor) -> Tensor:
    """Prepare images as the published projection does: nearest resize to 256 px, minus the minimum, over the maximum.

    Minimum and maximum are of the whole batch, so a dark or a faded photo gives other maps than the face deserves; the
    network was trained on [0, 1].

    Args:
        image: [N, 3, S, S] of any range.

    Returns:
        [N, 3, 256, 256] in [0, 1].
    """
    image = F.interpolate(image, size=(INPUT_SIZE, INPUT_SIZE), mode="nearest")
    image = image - image.min()
    return image / image.max()


class FAN(nn.Module):
    """Stacked hourglasses; every stack gives heat maps and hands them on to the next.

    Args:
        config: the network's shape.
    """

    def __init__(self, config: FANConfig | None = None) -> None:
        super().__init__()
        self.config = config or FANConfig()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, stride=2, padding=3), nn.BatchNorm2d(64)
        self.conv2, self.conv3, self.conv4 = ConvBlock(64, 128), ConvBlock(128, 128), ConvBlock(128, WIDTH)
        last = self.config.stacks - 1
        for stack in range(self.config.stacks):
            self.add_module(f"m{stack}", Hourglass())
            self.add_module(f"top_m_{stack}", ConvBlock(WIDTH, WIDTH))
            self.add_module(f"conv_last{stack}", nn.Conv2d(WIDTH, WIDTH, 1))
            self.add_module(f"bn_end{stack}", nn.BatchNorm2d(WIDTH))
            self.add_module(f"l{stack}", nn.Conv2d(WIDTH, self.config.points, 1))
            if stack < last:
                self.add_module(f"bl{stack}", nn.Conv2d(WIDTH, WIDTH, 1))
                self.add_module(f"al{stack}", nn.Conv2d(self.config.points, WIDTH, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return the last stack's heat maps [N, points, 64, 64] of images [N, 3, 256, 256] in [0, 1].

        Raises:
            ValueError: for another shape.
        """
        if image.ndim != 4 or list(image.shape[1:]) != [3, INPUT_SIZE, INPUT_SIZE]:
            raise ValueError(f"expected images [N, 3, {INPUT_SIZE}, {INPUT_SIZE}], got {list(image.shape)}")
        x = self.conv2(torch.relu(self.bn1(self.conv1(image))))
        x = self.conv4(self.conv3(F.avg_pool2d(x, 2)))  # [N, 256, 64, 64]
        for stack in range(self.config.stacks):
            part = {name: getattr(self, f"{name}{stack}", None) for name in ("m", "top_m_", "conv_last", "bn_end", "l")}
            seen = torch.relu(part["bn_end"](part["conv_last"](part["top_m_"](part["m"](x)))))
            heat = part["l"](seen)
            if stack < self.config.stacks - 1:
                x = x + getattr(self, f"bl{stack}")(seen) + getattr(self, f"al{stack}")(heat)
        return heat
