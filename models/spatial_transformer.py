"""Learned deformation of feature maps: an affine block and a thin-plate-spline block with alpha-controlled strength.

Both blocks predict where each output pixel samples its input (a grid [N, S, S, 2] of (x, y) in [-1, 1], read with
`align_corners=False`). Two modes exist, stored with the weights:

* `published`, bit-compatible with the released styles: the TPS lattice is normalised by `size - 1`, so its resting grid is
  off the identity by up to half a feature pixel, and alpha leaves the affine block alone.
* `exact`: the lattice holds pixel centres, so the resting grid is the identity, alpha scales the affine block as well,
  and features are sampled bicubically.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.bicubic import sample_bicubic
from models.sampling_grids import pixel_lattice, unfolded
from models.spatial_config import SpatialTransformerConfig

# Published styles were trained on bilinear sampling. Between two pixels that is a blur, of which eyes of a few feature
# pixels keep little.
INTERPOLATION = {"exact": "bicubic", "published": "bilinear"}


class NonFiniteError(ArithmeticError):
    """A sampling grid holds NaN or infinity; sampling with it can crash the interpreter, so it is refused."""


@contextlib.contextmanager
def construction_rng(generator: torch.Generator | None) -> Iterator[None]:
    """Initialise modules from `generator` (a fixed seed where None) and leave the global CPU random state as it was."""
    seed = 0 if generator is None else int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def resting_points(grid_size: int = 10, extent: float = 0.95) -> Tensor:
    """Return the resting control points [grid_size^2, 2] in [-extent, extent], float32, on the CPU."""
    # The upper limit carries a small margin because arange excludes it.
    ticks = np.arange(-extent, extent + 1e-5, 2.0 * extent / (grid_size - 1))
    return torch.from_numpy(np.array(list(itertools.product(ticks, ticks)), dtype=np.float32))


def radial_basis(points: Tensor, centres: Tensor) -> Tensor:
    """U(r) = r^2 log(r^2) / 2, the thin-plate kernel (Bookstein 1989), 0 at r = 0: [P, 2], [C, 2] -> [P, C]."""
    squared = (points[:, None, 0] - centres[None, :, 0]).square() + (points[:, None, 1] - centres[None, :, 1]).square()
    return 0.5 * squared * torch.log(squared.clamp_min(torch.finfo(squared.dtype).tiny))


def tps_matrices(centres: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inverse kernel [C+3, C+3] and the lattice's basis [P, C+3] of the spline through C control points.

    L = [[K, 1, P], [1^T, 0, 0], [P^T, 0, 0]], basis = [U(lattice), 1, lattice] (Bookstein 1989, eq. 4).
    """
    count = centres.shape[0]
    kernel = centres.new_zeros(count + 3, count + 3)
    kernel[:count, :count] = radial_basis(centres, centres)
    kernel[:count, count] = kernel[count, :count] = 1
    kernel[:count, count + 1:] = centres
    kernel[count + 1:, :count] = centres.T
    ones = lattice.new_ones(lattice.shape[0], 1)
    return torch.inverse(kernel), torch.cat([radial_basis(lattice, centres), ones, lattice], dim=1)


# Channels from which on ``sample_bicubic`` is the faster way on CPUs.
FEWEST = 32


def check_finite(grid: Tensor, where: str) -> None:
    """Raise NonFiniteError naming the block when the sampling grid holds NaN or infinity."""
    if grid.is_cuda and torch.cuda.is_current_stream_capturing():
        return  # a graph cannot wait for the answer; its user looks at the images
    if not bool(torch.isfinite(grid).all()):
        raise NonFiniteError(f"the sampling grid of {where} is not finite; the weights or features before it have diverged")


def sample(features: Tensor, grid: Tensor, *, mode: str) -> Tensor:
    """Sample features [N, C, H, W] at grid [N, H, W, 2] with reflection at the border."""
    if mode == "exact" and features.device.type == "cpu" and features.shape[1] >= FEWEST:
        return sample_bicubic(features, grid)
    if mode == "exact" and features.device.type == "mps":  # Metal has no bicubic sampling at given places
        return sample_bicubic(features.cpu(), grid.cpu()).to(features.device)
    return F.grid_sample(features, grid, mode=INTERPOLATION[mode], padding_mode="reflection", align_corners=False)


def warp(features: Tensor, grid: Tensor, *, mode: str, where: str) -> Tensor:
    """Sample as ``sample`` does, in the grid's precision; raises NonFiniteError."""
    check_finite(grid, where)
    with torch.autocast(features.device.type, enabled=False):
        warped = sample(features.to(grid.dtype), grid, mode=mode)
    # grid_sample answers in NCHW; the layers after it are faster in the layout of the layers before it.
    return warped.to(features.dtype).contiguous(memory_format=torch.channels_last)


def check_features(features: Tensor, channels: int, size: int) -> None:
    """Raise ValueError unless features are [N, channels, size, size]."""
    if features.ndim != 4 or features.shape[1:] != (channels, size, size):
        raise ValueError(f"features must be [N, {channels}, {size}, {size}], got {list(features.shape)}")


def working_dtype(features: Tensor) -> torch.dtype:
    """Grids are computed in float32 at least: a bfloat16 coordinate would be off by a tenth of a feature pixel."""
    return torch.promote_types(features.dtype, torch.float32)


def strength(alpha: float | Tensor, features: Tensor, *, places: tuple[int, ...]) -> float | Tensor:
    """Return alpha in a form that multiplies [N, *places, coordinates].

    A tensor must be a scalar, [N], or [1 or N, *places] for a strength of its own at every place.
    """
    if not isinstance(alpha, Tensor):
        return float(alpha)
    alpha = alpha.to(features.device, working_dtype(features))
    if alpha.ndim == 0 or alpha.shape == (features.shape[0],):
        return alpha.reshape(-1, *(1 for _ in places), 1)  # [] or [N] -> [1 or N, 1, ..., 1]
    if tuple(alpha.shape[1:]) == places and alpha.shape[0] in (1, features.shape[0]):
        return alpha[..., None]
    raise ValueError(f"alpha must be a number, or a tensor [{features.shape[0]}] or [{features.shape[0]}, "
                     f"{', '.join(map(str, places))}], got {list(alpha.shape)}")


def strength_field(alpha: Tensor, size: int, *, extent: float) -> Tensor:
    """Spread strengths at the control points [N, grid_size^2] over the pixels, bilinearly: [N, size, size]."""
    side = math.isqrt(alpha.shape[1])
    # The points run through y fastest, an image through x.
    image = alpha.reshape(-1, 1, side, side).transpose(2, 3)  # [N, C] -> [N, 1, y, x]
    places = pixel_lattice(size, mode="exact", dtype=alpha.dtype).reshape(1, size, size, 2).to(alpha.device) / extent
    field = F.grid_sample(image, places.expand(len(alpha), -1, -1, -1), padding_mode="border", align_corners=True)
    return field[:, 0]  # [N, 1, size, size] -> [N, size, size]


def dense(layers: nn.Sequential, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Run linear and ReLU layers in `dtype`, whatever the dtype of their weights and of autocast."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(dtype)
        for layer in layers:
            is_linear = isinstance(layer, nn.Linear)
            x = F.linear(x, layer.weight.to(dtype), layer.bias.to(dtype)) if is_linear else layer(x)
    return x


class TPSGridGenerator(nn.Module):
    """The linear map from control points to the dense grid, with the buffers that released files store.

    The inverse of the kernel has entries of opposite signs far above 1, so in float32 the two products of the published
    code lose four digits, on every processor others. The exact mode multiplies basis and inverse once, in float64, and
    keeps the cardinal weights of the control points, which lie within about [-0.3, 1].
    """

    def __init__(self, size: int, centres: Tensor, *, mode: str) -> None:
        super().__init__()
        self.size = size
        self.mode = mode
        # Released buffers were inverted in float32; the exact mode has no numbers to reproduce and inverts in float64.
        work = torch.float32 if mode == "published" else torch.float64
        inverse, basis = tps_matrices(centres.to(work), pixel_lattice(size, mode=mode, dtype=work))
        self.register_buffer("inverse_kernel", inverse.float())
        self.register_buffer("padding_matrix", torch.zeros(3, 2, device="cpu"))
        self.register_buffer("target_coordinate_repr", basis.float())
        self.register_buffer("resting", centres.clone(), persistent=False)
        if mode == "exact":
            self.register_buffer("cardinal", (basis @ inverse)[:, :len(centres)].contiguous(), persistent=False)
            self.register_buffer("identity", pixel_lattice(size, mode="exact", dtype=work), persistent=False)

    def _apply(self, fn, recurse=True):
        """Keep every matrix in its precision when the network around it is cast, but for Metal, which has no float64."""
        before = dict(self._buffers)
        for name, buffer in before.items():
            self._buffers[name] = buffer.float()
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = self._buffers[name]
            dtype = torch.float32 if moved.device.type == "mps" else torch.promote_types(moved.dtype, buffer.dtype)
            self._buffers[name] = buffer.to(moved.device, dtype)
        return self

    def forward(self, control: Tensor) -> Tensor:
        """Map control points [N, C, 2] to the sampling grid [N, size, size, 2] in their precision.

        grid = basis @ (L^-1 @ [control; 0]). In exact mode the spline interpolates the offsets from rest, which is the
        same function (the spline reproduces affine maps) and makes the resting grid the identity to the last bit.
        """
        with torch.autocast(control.device.type, enabled=False):
            if self.mode == "exact":
                offsets = control.to(self.cardinal.dtype) - self.resting.to(self.cardinal.dtype)
                grid = (self.identity + self.cardinal @ offsets).to(control.dtype)  # [N, size^2, 2]
            else:
                padded = torch.cat([control, self.padding_matrix.to(control).expand(len(control), 3, 2)], dim=1)
                coefficients = self.inverse_kernel.to(control.dtype) @ padded  # [N, C+3, 2]
                grid = self.target_coordinate_repr.to(control.dtype) @ coefficients  # [N, size^2, 2]
        return grid.reshape(-1, self.size, self.size, 2)  # [N, size^2, 2] -> [N, size, size, 2]


class LocalisationNet(nn.Module):
    """Predicts control points [N, grid_size^2, 2] from features; at initialisation it predicts the resting points."""

    def __init__(self, channels: int, size: int, *, resting: Tensor) -> None:
        super().__init__()
        left = ((size - 4) // 2 - 4) // 2
        self.conv = nn.Sequential(nn.Conv2d(channels, 128, 5), nn.MaxPool2d(2), nn.ReLU(),
                                  nn.Conv2d(128, 64, 5), nn.MaxPool2d(2), nn.ReLU())
        self.fc = nn.Sequential(nn.Linear(64 * left * left, 64), nn.ReLU(), nn.Linear(64, resting.numel()))
        with torch.no_grad():
            self.fc[2].weight.zero_()
            self.fc[2].bias.copy_(resting.reshape(-1))  # [C, 2] -> [2 C]

    def forward(self, features: Tensor) -> Tensor:
        """Map features [N, C, S, S] to control points [N, grid_size^2, 2], in float32 at least."""
        points = dense(self.fc, self.conv(features).flatten(1), working_dtype(features))
        return points.reshape(len(points), -1, 2)  # [N, 2 C] -> [N, C, 2]


class TPSTransformer(nn.Module):
    """Warps one feature map by a thin-plate spline (published as `stns.{i}`)."""

    def __init__(self, channels: int, size: int, *, grid_size: int = 10, extent: float = 0.95, mode: str = "exact",
                 guarded: bool = False, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.channels, self.size, self.guarded, self.extent = channels, size, guarded, extent
        centres = resting_points(grid_size, extent)
        with construction_rng(generator):
            self.loc_net = LocalisationNet(channels, size, resting=centres)
        self.tps_grid_gen = TPSGridGenerator(size, centres, mode=mode)

    def grid(self, features: Tensor, *, alpha: float | Tensor = 1.0) -> Tensor:
        """Return the sampling grid [N, S, S, 2] for control points rest (1 - alpha) + predicted alpha.

        ``alpha`` may differ from point to point: [1 or N, grid_size^2].
        """
        check_features(features, self.channels, self.size)
        amount = strength(alpha, features, places=tuple(self.tps_grid_gen.resting.shape[:1]))
        predicted = self.loc_net(features)
        control = self.tps_grid_gen.resting.to(predicted) * (1 - amount) + predicted * amount
        if not self.guarded:
            return self.tps_grid_gen(control)
        # What is mirrored at the frame looks like hair that comes to a point.
        return unfolded(self.tps_grid_gen(control.clamp(-self.extent, self.extent)))

    def forward(self, features: Tensor, *, alpha: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        """Return the warped features [N, C, S, S] and the grid [N, S, S, 2]; raises ValueError, NonFiniteError."""
        grid = self.grid(features, alpha=alpha)
        return warp(features, grid, mode=self.tps_grid_gen.mode, where=f"the TPS block at {self.size} px"), grid


class AffineTransformer(nn.Module):
    """Warps one feature map by an affine map (published as `rtstn`'s `stns.{i}`)."""

    def __init__(self, channels: int, size: int, *, mode: str = "exact", guarded: bool = False,
                 generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.channels, self.size, self.mode, self.guarded = channels, size, mode, guarded
        left = ((size - 4) // 2 - 4) // 2
        with construction_rng(generator):
            self.loc_net = nn.Sequential(nn.Conv2d(channels, 16, 5), nn.MaxPool2d(2), nn.ReLU(),
                                         nn.Conv2d(16, 32, 5), nn.MaxPool2d(2), nn.ReLU())
            self.fc_loc = nn.Sequential(nn.Linear(32 * left * left, 32), nn.ReLU(), nn.Linear(32, 6))
        with torch.no_grad():
            self.fc_loc[2].weight.zero_()
            self.fc_loc[2].bias.copy_(torch.eye(2, 3, device="cpu").reshape(-1))  # [2, 3] -> [6]

    def theta(self, features: Tensor, *, alpha: float | Tensor = 1.0) -> Tensor:
        """Return the matrices [N, 2, 3]: exact mode I + alpha (predicted - I), published mode the prediction."""
        check_features(features, self.channels, self.size)
        amount = strength(alpha, features, places=(1,))
        predicted = dense(self.fc_loc, self.loc_net(features).flatten(1), working_dtype(features))
        predicted = predicted.reshape(-1, 2, 3)  # [N, 6] -> [N, 2, 3]
        if self.mode == "published":
            return predicted
        resting = torch.eye(2, 3, dtype=predicted.dtype, device=predicted.device)
        return resting + amount * (predicted - resting)

    def grid(self, features: Tensor, *, alpha: float | Tensor = 1.0) -> Tensor:
        """Return the sampling grid [N, S, S, 2].

        ``alpha`` may be a field [1 or N, S, S] of its own strength at every pixel: rest + alpha (grid - rest).
        """
        is_field = isinstance(alpha, Tensor) and alpha.ndim == 3
        theta = self.theta(features, alpha=1.0 if is_field else alpha)
        with torch.autocast(features.device.type, enabled=False):
            grid = F.affine_grid(theta, [len(theta), 1, self.size, self.size], align_corners=False)
            if is_field and self.mode == "exact":
                resting = pixel_lattice(self.size, mode="exact", dtype=grid.dtype).to(grid.device)
                resting = resting.reshape(1, self.size, self.size, 2)
                grid = resting + strength(alpha, features, places=(self.size, self.size)) * (grid - resting)
        return unfolded(grid) if self.guarded else grid

    def forward(self, features: Tensor, *, alpha: float | Tensor = 1.0) -> tuple[Tensor, Tensor]:
        """Return the warped features [N, C, S, S] and the grid [N, S, S, 2]; raises ValueError, NonFiniteError."""
        grid = self.grid(features, alpha=alpha)
        return warp(features, grid, mode=self.mode, where=f"the affine block at {self.size} px"), grid


class TransformerStack(nn.Module):
    """One block per resolution under the published name `stns`."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.stns = nn.ModuleList(blocks)


def build_tps(config: SpatialTransformerConfig, *, generator: torch.Generator | None = None) -> TransformerStack:
    """Build the TPS block of every resolution, initialised from `generator` (a fixed seed where None)."""
    generator = generator or torch.Generator().manual_seed(0)
    return TransformerStack([TPSTransformer(config.channels[size], size, grid_size=config.grid_size, extent=config.extent,
                                            mode=config.mode, guarded=config.guarded, generator=generator)
                             for size in config.resolutions])


def build_affine(config: SpatialTransformerConfig, *, generator: torch.Generator | None = None) -> TransformerStack:
    """Build the affine block of every resolution, initialised from `generator` (a fixed seed where None)."""
    generator = generator or torch.Generator().manual_seed(0)
    return TransformerStack([AffineTransformer(config.channels[size], size, mode=config.mode, guarded=config.guarded,
                                               generator=generator)
                             for size in config.resolutions])


def config_from_published(tps_state: Mapping[str, Tensor], *, extent: float = 0.95) -> SpatialTransformerConfig:
    """Read the config of a published `stns` dictionary from its shapes, and its mode from the stored lattice.

    A lattice of pixel centres means `exact`; anything else is what the published code would run as it is, `published`.
    Raises ValueError where the dictionary is not one of spatial transformers.
    """
    sizes, channels, modes, points = [], {}, set(), set()
    while (key := f"stns.{len(sizes)}.tps_grid_gen.target_coordinate_repr") in tps_state:
        prefix, basis = f"stns.{len(sizes)}.loc_net.", tps_state[key]
        missing = [name for name in (prefix + "conv.0.weight", prefix + "fc.2.bias") if name not in tps_state]
        if missing:
            raise ValueError(f"the stns dictionary misses {missing}")
        size, side = math.isqrt(basis.shape[0]), math.isqrt(tps_state[prefix + "fc.2.bias"].numel() // 2)
        if basis.shape != (size * size, side * side + 3):
            raise ValueError(f"{key} must be [size^2, {side * side + 3}], got {list(basis.shape)}")
        # The lattices are up to 1 / size apart, so a quarter of that tells them apart even in a half-precision file.
        distance = (basis[:, -2:].float().cpu() - pixel_lattice(size, mode="exact")).abs().max()
        modes.add("exact" if distance < 0.25 / size else "published")
        sizes.append(size)
        channels[size] = tps_state[prefix + "conv.0.weight"].shape[1]
        points.add(side)
    if not sizes:
        raise ValueError("the stns dictionary holds no 'stns.0.tps_grid_gen.target_coordinate_repr'")
    if len(modes) > 1 or len(points) > 1:
        raise ValueError(f"the blocks of the stns dictionary disagree: modes {sorted(modes)}, grid sizes {sorted(points)}")
    return SpatialTransformerConfig(tuple(sizes), grid_size=points.pop(), extent=extent, mode=modes.pop(), channels=channels)
