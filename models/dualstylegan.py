"""DualStyleGAN: structure and colours of an exemplar beside a face (Yang et al. 2022, "Pastiche Master")."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import ConvLayer, EqualLinear, PixelNorm
from models.stylegan2 import FeatureTransforms, Generator, layer_at

# Rows below this one carry structure and are left to residual blocks, those from it on carry colours.
FIRST_COLOR_ROW = layer_at(32) + 1
STYLE_LAYERS = 2
SAMPLER_WIDTH = 128
Weights = Sequence[float] | Tensor


class AdaptiveInstanceNorm(nn.Module):
    """AdaIN (Huang and Belongie 2017): gamma(s) (x - mean x) / sqrt(var x + 1e-5) + beta(s), per sample and channel.

    Args:
        channels: of the features.
        style_dim: width of s.
    """

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.style = nn.Linear(style_dim, 2 * channels)
        with torch.no_grad():
            self.style.bias[:channels] = 1.0
            self.style.bias[channels:] = 0.0

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """x [N, C, H, W], style [N, style_dim] -> [N, C, H, W]."""
        gamma, beta = self.style(style)[:, :, None, None].chunk(2, dim=1)  # each [N, C, 1, 1]
        return gamma * F.instance_norm(x) + beta


class ModRes(nn.Module):
    """Modulative residual block: x + weight conv2(norm2(conv(norm(x, s)), s)), section 3.1.

    Args:
        channels: of the features.
        style_dim: width of s.
    """

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.conv, self.conv2 = ConvLayer(channels, channels, 3), ConvLayer(channels, channels, 3)
        self.norm, self.norm2 = AdaptiveInstanceNorm(channels, style_dim), AdaptiveInstanceNorm(channels, style_dim)
        with torch.no_grad():  # residuals that can hardly be seen leave the face what it was when training begins
            self.conv[0].weight.mul_(0.01)
            self.conv2[0].weight.mul_(0.01)

    def forward(self, x: Tensor, style: Tensor, weight: float | Tensor = 1.0) -> Tensor:
        """x [N, C, H, W], style [N, style_dim], weight a number or [N] -> [N, C, H, W]."""
        branch = self.conv2(self.norm2(self.conv(self.norm(x, style)), style))
        if isinstance(weight, Tensor):
            weight = weight.to(branch).reshape(-1, 1, 1, 1)  # [N] -> [N, 1, 1, 1]
        return x + weight * branch


class DualStyleGAN(nn.Module):
    """A generator with an extrinsic path: residual blocks after its convolutions up to 32 px, new colours in its rows above.

    All rows of weight 0 give the generator itself.

    Args:
        generator: the intrinsic network; it is shared, not copied.
        seed: of the path's initial weights; the global random state is left alone.

    Raises:
        ValueError: if the generator is smaller than 64 px.
    """

    def __init__(self, generator: Generator, *, seed: int = 0) -> None:
        super().__init__()
        config = generator.config
        if config.size < 64:
            raise ValueError(f"an extrinsic path needs a generator of at least 64 px, got {config.size}")
        dim, self.generator = config.style_dim, generator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [EqualLinear(dim, dim, lr_mul=0.01, activate=True) for _ in range(STYLE_LAYERS)]
            self.style = nn.Sequential(PixelNorm(), *layers)
            self.res = nn.ModuleList()
            for row in range(config.n_latent):
                coarse = row < FIRST_COLOR_ROW
                self.res.append(ModRes(config.channels[config.noise_size(row)], dim) if coarse else _identity_layer(dim))

    @property
    def n_latent(self) -> int:
        """Number of rows."""
        return self.generator.config.n_latent

    def map_rows(self, z: Tensor) -> Tensor:
        """Map z [N, D] or z+ [N, L, D], every row by itself, to rows [N, L, D] by the generator's own mapping."""
        dim = self.generator.config.style_dim
        if z.ndim == 2:
            return self.generator.broadcast(self.generator.mapping(z))
        self._check_rows(z, "z+")
        return self.generator.mapping(z.reshape(-1, dim)).reshape(z.shape)  # [N, L, D] -> [N L, D] -> [N, L, D]

    def edit_rows(self, w_plus: Tensor, code: Tensor, *, weights: Weights, fuse_index: int | None = None) -> Tensor:
        """Return rows w_i' = weight_i T_c,i(code_i) + (1 - weight_i) w_i from row 7 up to ``fuse_index``, others as they are.

        Args, raises: see ``synthesis``.
        """
        table = self._weights(weights, len(w_plus))
        rows = list(w_plus.unbind(dim=1))  # L x [N, D]
        for row in range(FIRST_COLOR_ROW, self._last(fuse_index) + 1):
            weight = table[row]
            if isinstance(weight, float) and weight == 0.0:
                continue
            weight = weight[:, None].to(w_plus) if isinstance(weight, Tensor) else weight  # [N] -> [N, 1]
            rows[row] = weight * self.res[row](code[:, row]) + (1.0 - weight) * rows[row]
        return torch.stack(rows, dim=1)

    def transforms(
        self, code: Tensor, *, weights: Weights, fuse_index: int | None = None, before: FeatureTransforms | None = None,
        after: FeatureTransforms | None = None,
    ) -> FeatureTransforms:
        """Return the residual blocks as feature transforms of ``Generator.synthesis``, between those of ``before`` and
        ``after``.

        Args, raises: see ``synthesis``.
        """
        table, last = self._weights(weights, len(code)), self._last(fuse_index)
        found: dict[int, Callable[[Tensor], Tensor]] = dict(before or {})
        active = [row for row in range(FIRST_COLOR_ROW) if row <= last and not (
            isinstance(table[row], float) and table[row] == 0.0)]
        if active:
            styles = self.style(code[:, active].flatten(0, 1)).reshape(len(code), len(active), -1)  # [N K, D] -> [N, K, D]
        for index, row in enumerate(active):
            found[row] = partial(_residual, block=self.res[row], style=styles[:, index], weight=table[row],
                                 first=found.get(row))
        for row, last in (after or {}).items():
            found[row] = partial(_one_after_other, first=found[row], second=last) if row in found else last
        return found

    def synthesis(
        self, w_plus: Tensor, code: Tensor, *, weights: Weights, noise: Sequence[Tensor], fuse_index: int | None = None,
        before: FeatureTransforms | None = None, after: FeatureTransforms | None = None,
    ) -> Tensor:
        """Draw faces with the structure and colours of extrinsic codes.

        Args:
            w_plus: the faces [N, n_latent, style_dim].
            code: extrinsic rows [N, n_latent, style_dim], z+ that ``map_rows`` mapped.
            weights: one per row, or [N, n_latent]: of structure for the rows 0 to 6, of colours for the others.
            noise: one [1 or N, 1, H, W] per convolution, see ``Generator.synthesis``.
            fuse_index: last row that the codes reach, 0 for none; all where None.
            before: transforms of the faces' own features, which the residual blocks then see.
            after: transforms of what they give.

        Returns:
            Images [N, 3, size, size], about [-1, 1].

        Raises:
            ValueError: for wrong shapes.
        """
        self._check_rows(w_plus, "w_plus")
        self._check_rows(code, "code")
        if len(code) != len(w_plus):
            raise ValueError(f"expected one code per face, got {len(code)} codes and {len(w_plus)} faces")
        reach = {"weights": weights, "fuse_index": fuse_index}
        transforms = self.transforms(code, **reach, before=before, after=after)
        return self.generator.synthesis(self.edit_rows(w_plus, code, **reach), noise=noise, feature_transforms=transforms)

    def _check_rows(self, rows: Tensor, name: str) -> None:
        expected = [self.n_latent, self.generator.config.style_dim]
        if rows.ndim != 3 or list(rows.shape[1:]) != expected:
            raise ValueError(f"expected {name} [N, {expected[0]}, {expected[1]}], got {list(rows.shape)}")

    def _weights(self, weights: Weights, count: int) -> list[float] | list[Tensor]:
        """Return one number, or [N], per row."""
        if isinstance(weights, Tensor) and weights.ndim == 2:
            if list(weights.shape) != [count, self.n_latent]:
                raise ValueError(f"expected weights [{count}, {self.n_latent}], got {list(weights.shape)}")
            return list(weights.unbind(dim=1))
        if len(weights) != self.n_latent:
            raise ValueError(f"expected {self.n_latent} weights, one per row, got {len(weights)}")
        return [float(weight) for weight in weights]

    def _last(self, fuse_index: int | None) -> int:
        """Return the last row that codes reach, -1 for none."""
        if fuse_index is None:
            return self.n_latent - 1
        if fuse_index < 0:
            raise ValueError(f"fuse_index must be >= 0, got {fuse_index}")
        return min(fuse_index, self.n_latent - 1) if fuse_index else -1


def _identity_layer(dim: int) -> EqualLinear:
    """Return a linear layer that begins as nearly the identity, so that codes are at first colours as they are."""
    layer = EqualLinear(dim, dim)
    with torch.no_grad():
        layer.weight.mul_(0.01).diagonal().add_(dim**0.5)
    return layer


def _residual(
    x: Tensor, *, block: ModRes, style: Tensor, weight: float | Tensor, first: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """Apply a residual block to features [N, C, H, W], after ``first`` where there is one."""
    return block(x if first is None else first(x), style, weight)


def _one_after_other(x: Tensor, *, first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor]) -> Tensor:
    return second(first(x))


def blend_weights(structure: float | Sequence[float] | Tensor, color: float | Sequence[float] | Tensor, *,
                  n_latent: int) -> list[float] | Tensor:
    """Return the weights of all rows from a weight of structure and one of colours.

    Args:
        structure: a number for the rows 0 to 6, one number for each of them, or [N] with one per face.
        color: likewise for the rows from 7 on.
        n_latent: number of rows.

    Returns:
        n_latent numbers, or [N, n_latent].

    Raises:
        ValueError: for another count of numbers.
    """
    counts = (FIRST_COLOR_ROW, n_latent - FIRST_COLOR_ROW)
    parts: list[list[float] | Tensor] = []
    for name, value, count in zip(("structure", "color"), (structure, color), counts, strict=True):
        if isinstance(value, Tensor) and value.ndim == 1:
            parts.append(value[:, None].expand(-1, count))  # [N] -> [N, count]
            continue
        numbers = [float(value)] * count if isinstance(value, (int, float, Tensor)) else [float(part) for part in value]
        if len(numbers) != count:
            raise ValueError(f"{name} needs one number or {count}, got {len(numbers)}")
        parts.append(numbers)
    if not any(isinstance(part, Tensor) for part in parts):
        return [*parts[0], *parts[1]]
    tensor = next(part for part in parts if isinstance(part, Tensor))
    return torch.cat([part if isinstance(part, Tensor) else tensor.new_tensor(part).expand(len(tensor), -1)
                      for part in parts], dim=1)


class CodeSampler(nn.Module):
    """Random extrinsic rows: 128 normal numbers through two layers with batch norm to rows [N, rows, D] (appendix).

    Args:
        rows: number of rows.
        style_dim: their width.
    """

    def __init__(self, rows: int, *, style_dim: int = 512) -> None:
        super().__init__()
        self.rows, self.style_dim = rows, style_dim
        self.lin1 = nn.Linear(SAMPLER_WIDTH, SAMPLER_WIDTH, bias=False)
        self.bn1 = nn.BatchNorm1d(SAMPLER_WIDTH)
        self.lin2 = nn.Linear(SAMPLER_WIDTH, SAMPLER_WIDTH, bias=False)
        self.bn2 = nn.BatchNorm1d(SAMPLER_WIDTH)
        self.lin_out = nn.Linear(SAMPLER_WIDTH, rows * style_dim, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """z [N, 128] -> [N, rows, style_dim]."""
        x = F.relu(self.bn1(self.lin1(z)))
        x = F.relu(self.bn2(self.lin2(x)))
        return self.lin_out(x).reshape(len(z), self.rows, self.style_dim)  # [N, rows D] -> [N, rows, D]


def sampler_rows(state: Mapping[str, Tensor], *, style_dim: int) -> int:
    """Return the number of rows of a sampler's state dict; raises ValueError where it is none."""
    weight = state.get("lin_out.weight") if isinstance(state, Mapping) else None
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[0] % style_dim:
        got = list(weight.shape) if isinstance(weight, Tensor) else "none"
        raise ValueError(f"a sampler needs lin_out.weight [rows * {style_dim}, {SAMPLER_WIDTH}], got {got}")
    return weight.shape[0] // style_dim
