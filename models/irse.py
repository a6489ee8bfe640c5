"""IR-SE body: improved residual units with squeeze and excitation, state-dict names of the e4e release."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from its mean, Hu et al. 2018; x [N, C, H, W]."""

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True))))  # [N, C, 1, 1]
        return x * gate.sigmoid()


class BottleneckIRSE(nn.Module):
    """Residual unit BN-conv-PReLU-conv-BN-SE of ArcFace's IR-SE network.

    Args:
        in_channels, out_channels: widths.
        stride: of the second convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if in_channels == out_channels:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            SqueezeExcite(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x [N, in, H, W] -> [N, out, H / stride, W / stride]."""
        return self.shortcut_layer(x) + self.res_layer(x)


def irse_stem(width: int) -> nn.Sequential:
    """Return the input layer: 3x3 convolution, batch norm, PReLU; [N, 3, H, W] -> [N, width, H, W]."""
    return nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width))


def irse_body(stem: int, widths: Sequence[int], units: Sequence[int]) -> nn.Sequential:
    """Return the residual units of all stages in one sequence; each stage begins with stride 2."""
    blocks: list[nn.Module] = []
    before = stem
    for width, count in zip(widths, units, strict=True):
        for index in range(count):
            blocks.append(BottleneckIRSE(before, width, 2 if index == 0 else 1))
            before = width
    return nn.Sequential(*blocks)
