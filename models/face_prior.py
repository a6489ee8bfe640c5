"""A prior in front of the generator: z to rows as the encoder gives them for faces, and to a sketch of what rows cannot say."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import Config
from models.decoder import DETAIL, FACE, SKETCH_CHANNELS, SKETCH_SIDE, doubled, face_square, placed

# Channels of a packed sketch: colours and detail by cell, and the four grey values of the face in it.
PACKED = DETAIL + 1 + 4
# Numbers that a time is told by, half of them sines, and the width that they are brought to.
TIMES, TIME_WIDTH = 32, 128
GROUPS = 8
# How much of the Gaussian's deviation the flow starts with: all of it leaves blotches, little leaves light and grounds alike.
SHARE = 0.9


@dataclass(frozen=True)
class FacePriorConfig(Config):
    """Shape of the prior.

    Attributes:
        n_latent, style_dim: rows of w_plus, and their width, which is z's too.
        row_parts: how many numbers of z stand for rows; the others stand for the sketch.
        widths: channels of the flow at 16, 8 and 4 cells of a side.
        blocks: its residual blocks there; those at 16 and 8 cells both on the way down and up.
        steps: of Euler's method from z to a sketch.
    """

    n_latent: int = 12
    style_dim: int = 512
    row_parts: int = 128
    widths: tuple[int, int, int] = (64, 96, 160)
    blocks: tuple[int, int, int] = (2, 2, 3)
    steps: int = 10

    def __post_init__(self) -> None:
        for name in ("widths", "blocks"):
            object.__setattr__(self, name, tuple(int(value) for value in getattr(self, name)))
        if not 0 < self.row_parts < self.style_dim or min(self.n_latent, self.steps, *self.blocks) < 1:
            raise ValueError(f"expected positive sizes and row_parts within 1 and {self.style_dim - 1}, got {asdict(self)}")
        if len(self.widths) != 3 or len(self.blocks) != 3 or any(width < 1 or width % GROUPS for width in self.widths):
            raise ValueError(f"expected three widths, multiples of {GROUPS}, and three numbers of blocks, got {self.widths} and "
                             f"{self.blocks}")


def packed(sketch: Tensor) -> Tensor:
    """Return sketches [N, 5, 16, 16] with the face's grey values at the cells where they belong, [N, 8, 16, 16]."""
    return torch.cat([sketch[:, :DETAIL + 1], F.pixel_unshuffle(placed(sketch[:, FACE], 2 * SKETCH_SIDE), 2)], dim=1)


def unpacked(maps: Tensor) -> Tensor:
    """Return the sketches [N, 5, 16, 16] of ``packed`` ones."""
    return torch.cat([maps[:, :DETAIL + 1], face_square(F.pixel_shuffle(maps[:, DETAIL + 1:], 2))], dim=1)


def condition(image: Tensor) -> Tensor:
    """Return what a flow sees of images [N, 3, S, S]: four pixels of 1/32 of the side for each cell, [N, 12, 16, 16]."""
    return F.pixel_unshuffle(F.interpolate(image, size=(2 * SKETCH_SIDE,) * 2, mode="area"), 2)


class TimedBlock(nn.Module):
    """x + conv(silu(g norm(conv(silu(norm(x)))) + b)), with g and b told by the time; [N, C, H, W] -> the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.after = nn.GroupNorm(GROUPS, width), nn.GroupNorm(GROUPS, width)
        self.first, self.second = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(TIME_WIDTH, 2 * width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        gain, shift = self.time(time)[:, :, None, None].chunk(2, dim=1)
        return x + self.second(F.silu(self.after(self.first(F.silu(self.before(x)))) * (1.0 + gain) + shift))


class SketchFlow(nn.Module):
    """Velocity v(x, t, image) of sketches on their way from the Gaussian to those of faces (Lipman et al. 2023); a U-Net.

    Args:
        config: of the prior that it belongs to.
    """

    def __init__(self, config: FacePriorConfig) -> None:
        super().__init__()
        fine, middle, coarse = config.widths
        rows = [nn.ModuleList(TimedBlock(width) for _ in range(count))
                for width, count in zip(config.widths, config.blocks, strict=True)]
        self.down_fine, self.down_middle, self.coarse = rows
        self.up_middle, self.up_fine = (nn.ModuleList(TimedBlock(width) for _ in range(count))
                                        for width, count in zip((middle, fine), config.blocks[1::-1], strict=True))
        self.stem = nn.Conv2d(PACKED + 12, fine, 3, padding=1)
        self.halve, self.quarter = (nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in ((fine, middle), (middle, coarse)))
        self.rise, self.up = nn.Conv2d(coarse, middle, 1), nn.Conv2d(middle, fine, 1)
        self.head = nn.Conv2d(fine, PACKED, 3, padding=1)
        self.time = nn.Sequential(nn.Linear(TIMES, TIME_WIDTH), nn.SiLU(), nn.Linear(TIME_WIDTH, TIME_WIDTH), nn.SiLU())
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, time: Tensor, seen: Tensor) -> Tensor:
        """Packed sketches [N, 8, 16, 16], times [N] in 0..1 and ``condition`` [N, 12, 16, 16] -> velocity [N, 8, 16, 16]."""
        told = self.time(sines(time))
        fine = run(self.down_fine, self.stem(torch.cat([x, seen], dim=1)), told)
        middle = run(self.down_middle, self.halve(fine), told)
        coarse = run(self.coarse, self.quarter(middle), told)
        middle = run(self.up_middle, middle + doubled(self.rise(coarse)), told)
        return self.head(F.silu(run(self.up_fine, fine + doubled(self.up(middle)), told)))


def run(blocks: nn.ModuleList, x: Tensor, time: Tensor) -> Tensor:
    """Return features through a row of blocks."""
    for block in blocks:
        x = block(x, time)
    return x


def sines(time: Tensor) -> Tensor:
    """Return times [N] in 0..1 as sines and cosines of rising frequency, [N, TIMES]."""
    angles = time[:, None] * math.pi * 2.0 ** (torch.arange(TIMES // 2, device=time.device) / 3.0)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class FacePrior(nn.Module):
    """Random faces of z [N, D], standard normal, whose first numbers z_r stand for rows and whose others z_s for the sketch:

        w_plus = m + z_r R,        sketch = scale phi(n + share z_s S, image),        dx/dt = v(x, t, image)

    with R and S the principal directions of faces' rows and sketches, each as long as the deviation along it, image what the
    generator makes of the rows, and phi the flow along v from t = 0 to 1. The flow starts from the Gaussian of sketches, not
    from noise, so its way is short.

    Args:
        config: the prior's shape.
    """

    row_mean: Tensor
    row_basis: Tensor
    sketch_mean: Tensor
    sketch_basis: Tensor
    scale: Tensor

    def __init__(self, config: FacePriorConfig) -> None:
        super().__init__()
        self.config = config
        dim, rows = config.style_dim, config.row_parts
        cells = SKETCH_CHANNELS * SKETCH_SIDE**2
        self.register_buffer("row_mean", torch.zeros(config.n_latent, dim))
        self.register_buffer("row_basis", torch.zeros(rows, config.n_latent * dim))
        self.register_buffer("sketch_mean", torch.zeros(SKETCH_CHANNELS, SKETCH_SIDE, SKETCH_SIDE))
        self.register_buffer("sketch_basis", torch.zeros(dim - rows, cells))
        self.register_buffer("scale", torch.ones(SKETCH_CHANNELS, 1, 1))
        self.flow = SketchFlow(config)

    def rows(self, z: Tensor, *, truncation_psi: float = 1.0) -> Tensor:
        """Return w_plus [N, L, D] of z [N, D]; psi brings it towards the mean: z' = psi z.

        Raises:
            ValueError: for a wrong shape.
        """
        self._check(z)
        ways = truncation_psi * z[:, :self.config.row_parts] @ self.row_basis
        return self.row_mean + ways.unflatten(1, self.row_mean.shape)

    def rough(self, z: Tensor, *, truncation_psi: float = 1.0) -> Tensor:
        """Return where the flow starts, sketches of the Gaussian over ``scale``, [N, 5, 16, 16]."""
        self._check(z)
        ways = truncation_psi * z[:, self.config.row_parts:] @ self.sketch_basis
        return self.sketch_mean + ways.unflatten(1, self.sketch_mean.shape)

    def sketch(self, z: Tensor, image: Tensor, *, truncation_psi: float = 1.0) -> Tensor:
        """Return sketches [N, 5, 16, 16] of z [N, D] for what the generator makes of their rows, images [N, 3, S, S].

        Raises:
            ValueError: for a wrong shape.
        """
        x, seen = packed(self.rough(z, truncation_psi=SHARE * truncation_psi)), condition(image)
        for step in range(self.config.steps):
            time = x.new_full((len(x),), step / self.config.steps)
            x = x + self.flow(x, time, seen) / self.config.steps
        return self.scale * unpacked(x)

    def _check(self, z: Tensor) -> None:
        if z.ndim != 2 or z.shape[1] != self.config.style_dim:
            raise ValueError(f"expected z [N, {self.config.style_dim}], got {list(z.shape)}")
