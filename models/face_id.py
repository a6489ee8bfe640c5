"""Who a face is: dlib's face recognition network, and the part of an aligned face that it looks at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import Config

MEAN_RGB = (122.782, 117.001, 104.298)
# What the network wants to see of an FFHQ-aligned face, as fractions of its side: (first, last).
COLUMNS = (0.17, 0.83)
ROWS = (0.24, 0.90)
STEM_KERNEL, POOL_KERNEL = 7, 3


@dataclass(frozen=True)
class FaceIdConfig(Config):
    """Shape of the network: input side in px, width and number of residual blocks of each stage, length of the embedding.

    Every stage but the first begins by halving the side. The defaults are dlib's.
    """

    input_size: int = 150
    widths: tuple[int, ...] = (32, 64, 128, 256, 256)
    blocks: tuple[int, ...] = (3, 4, 3, 3, 1)
    embedding: int = 128

    def __post_init__(self) -> None:
        for name in ("widths", "blocks"):
            object.__setattr__(self, name, tuple(int(value) for value in getattr(self, name)))
        if len(self.widths) != len(self.blocks) or not self.widths or min(*self.widths, *self.blocks, self.embedding) < 1:
            raise ValueError(f"widths and blocks must be equally many numbers of at least 1, got {self.widths} and {self.blocks}")
        if any(after < before for before, after in zip(self.widths, self.widths[1:], strict=False)):
            raise ValueError(f"widths must not fall, got {self.widths}")
        side = ((self.input_size - STEM_KERNEL) // 2 - POOL_KERNEL + 1) // 2 + 1
        if side >> (len(self.widths) - 2) < 3 and len(self.widths) > 1:
            raise ValueError(f"input_size {self.input_size} is too small for {len(self.widths)} stages")


class ScaledConv(nn.Module):
    """scale * conv(x) + shift per channel, the batch normalisation of a finished network; [N, C, H, W]."""

    def __init__(self, before: int, width: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, width, kernel, stride=stride, padding=padding)
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.scale[:, None, None] + self.shift[:, None, None]


class SameBlock(nn.Module):
    """relu(x + conv(relu(conv(x)))); [N, C, H, W] -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = ScaledConv(width, width, 3, padding=1), ScaledConv(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class DownBlock(nn.Module):
    """relu(mean of 2x2 of x + conv(relu(conv of stride 2(x)))); [N, C, H, W] -> [N, width, H // 2, W // 2].

    The mean has fewer channels and the convolution, unpadded as it is, at times a row and a column less: zeros fill both.
    """

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.first, self.second = ScaledConv(before, width, 3, stride=2), ScaledConv(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        mean = F.avg_pool2d(x, 2)
        out = self.second(torch.relu(self.first(x)))
        mean = F.pad(mean, (0, 0, 0, 0, 0, out.shape[1] - mean.shape[1]))
        return torch.relu(mean + F.pad(out, (0, mean.shape[3] - out.shape[3], 0, mean.shape[2] - out.shape[2])))


class FaceIdNet(nn.Module):
    """ResNet whose embeddings of one person lie less than 0.6 apart (King, dlib, 2017: dlib_face_recognition_resnet_model_v1)."""

    def __init__(self, config: FaceIdConfig | None = None) -> None:
        super().__init__()
        self.config = config or FaceIdConfig()
        widths = self.config.widths
        self.stem = ScaledConv(3, widths[0], STEM_KERNEL, stride=2)
        blocks: list[nn.Module] = []
        for stage, (width, count) in enumerate(zip(widths, self.config.blocks, strict=True)):
            first = SameBlock(width) if stage == 0 else DownBlock(widths[stage - 1], width)
            blocks += [first, *(SameBlock(width) for _ in range(count - 1))]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], self.config.embedding, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        """Embed faces that were cut out as the network expects them, see ``crop_face``.

        Args:
            image: [N, 3, 150, 150] RGB in [-1, 1].

        Returns:
            [N, 128]; the Euclidean distance of two tells how far two faces are from being one person.

        Raises:
            ValueError: for another shape.
        """
        side = self.config.input_size
        if image.ndim != 4 or list(image.shape[1:]) != [3, side, side]:
            raise ValueError(f"expected cut-out faces [N, 3, {side}, {side}], got {list(image.shape)}")
        x = ((image + 1.0) * 127.5 - image.new_tensor(MEAN_RGB)[:, None, None]) / 256.0
        x = F.max_pool2d(torch.relu(self.stem(x)), POOL_KERNEL, stride=2)
        return self.head(self.blocks(x).mean(dim=(2, 3)))


def triangle_weights(side: int, first: float, last: float, size: int) -> Tensor:
    """Return the weights [size, side] by which ``size`` pixels between two places of a row of ``side`` pixels are read.

    A triangle as wide as the coarser of both pixel grids, so nothing aliases; ``first`` and ``last`` in px, 0 the outer
    edge of the first pixel. Rows sum to 1; double precision.
    """
    step = (last - first) / size
    centres = first + (torch.arange(size, dtype=torch.float64) + 0.5) * step
    pixels = torch.arange(side, dtype=torch.float64) + 0.5
    weights = (1.0 - (pixels - centres[:, None]).abs() / max(step, 1.0)).clamp_min(0.0)  # [size, side]
    return weights / weights.sum(dim=1, keepdim=True)


def crop_face(image: Tensor, *, size: int = 150) -> Tensor:
    """Cut out of FFHQ-aligned faces what the network expects, at any size and differentiably.

    Args:
        image: [N, 3, S, S], S at least 8.
        size: side of the result in px.

    Returns:
        [N, 3, size, size]: columns 0.17 S to 0.83 S, rows 0.24 S to 0.90 S.

    Raises:
        ValueError: for another shape.
    """
    if image.ndim != 4 or image.shape[1] != 3 or image.shape[2] != image.shape[3] or image.shape[3] < 8:
        raise ValueError(f"expected aligned faces [N, 3, S, S] of at least 8 px, got {list(image.shape)}")
    side = image.shape[3]
    across, down = (triangle_weights(side, side * span[0], side * span[1], size).to(image) for span in (COLUMNS, ROWS))
    return down @ image @ across.t()  # [size, S] [N, 3, S, S] [S, size] -> [N, 3, size, size]


def state_of_face_api(arrays: Mapping, config: FaceIdConfig | None = None) -> dict[str, Tensor]:
    """Return the state of a ``FaceIdNet`` from weights under face-api.js' names, whose filters are [H, W, in, out].

    Raises:
        ValueError: naming the first array that is missing.
    """
    config, names = config or FaceIdConfig(), {"stem": "conv32_down"}
    for number, block in enumerate(_face_api_blocks(config)):
        names |= {f"blocks.{number}.first": f"{block}/conv1", f"blocks.{number}.second": f"{block}/conv2"}
    state = {}
    try:
        for ours, theirs in names.items():
            filters = torch.from_numpy(arrays[f"{theirs}/conv/filters"])
            state[f"{ours}.conv.weight"] = filters.permute(3, 2, 0, 1).contiguous()  # [H, W, I, O] -> [O, I, H, W]
            for part, source in (("conv.bias", "conv/bias"), ("scale", "scale/weights"), ("shift", "scale/biases")):
                state[f"{ours}.{part}"] = torch.from_numpy(arrays[f"{theirs}/{source}"])
        state["head.weight"] = torch.from_numpy(arrays["fc"]).t().contiguous()
    except KeyError as error:
        raise ValueError(f"no weights of the identity network: {error.args[0]} is missing") from error
    return state


def _face_api_blocks(config: FaceIdConfig) -> list[str]:
    """Return face-api.js' names of the residual blocks in order."""
    names = [f"conv{config.widths[0]}_{i + 1}" for i in range(config.blocks[0])]
    for stage, (width, count) in enumerate(zip(config.widths[1:], config.blocks[1:], strict=True), start=1):
        again = config.widths[stage - 1] == width
        names += [f"conv{width}_down_out" if again else f"conv{width}_down",
                  *(f"conv{width}_{i + 1}" for i in range(count - 1))]
    return names
