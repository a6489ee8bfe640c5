"""StyleGAN2 generator: mapping and synthesis apart, state-dict names of rosinality's implementation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.config import Config
from models.layers import EqualLinear, PixelNorm, StyledConv, ToRGB, normal

FeatureTransforms = Mapping[int, Callable[[Tensor], Tensor]]
# Calls a function with its arguments, perhaps twice: torch.utils.checkpoint and the like.
Recompute = Callable[..., Any]


def official_channels(size: int = 1024, *, multiplier: int = 2) -> dict[int, int]:
    """Return the channel width per resolution of the published networks (config F with multiplier 2)."""
    full = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256 * multiplier, 128: 128 * multiplier, 256: 64 * multiplier,
            512: 32 * multiplier, 1024: 16 * multiplier}
    return {resolution: width for resolution, width in full.items() if resolution <= size}


def check_channels(size: int, channels: Mapping[int, int]) -> None:
    """Raise ValueError unless ``channels`` has a positive width for every power of two from 4 to ``size``."""
    if size < 8 or size & (size - 1):
        raise ValueError(f"size must be a power of two >= 8, got {size}")
    expected = [2**k for k in range(2, int(math.log2(size)) + 1)]
    if sorted(channels) != expected or min(channels.values()) < 1:
        raise ValueError(f"channels must give a positive width for each of {expected}, got {dict(channels)}")


def layer_at(resolution: int) -> int:
    """Return the index of the second convolution at ``resolution`` px (32 -> 6, 64 -> 8; 4 px has only layer 0)."""
    if resolution < 4 or resolution & (resolution - 1):
        raise ValueError(f"resolution must be a power of two >= 4, got {resolution}")
    return 2 * (int(math.log2(resolution)) - 2)


@dataclass(frozen=True)
class GeneratorConfig(Config):
    """Shape of a generator: output ``size`` in px, width of z and w, depth of the mapping, width per resolution."""

    size: int = 1024
    style_dim: int = 512
    n_mlp: int = 8
    channels: Mapping[int, int] = field(default_factory=official_channels)
    lr_mlp: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", {int(k): int(v) for k, v in self.channels.items()})
        check_channels(self.size, self.channels)

    @classmethod
    def official(cls, size: int = 1024) -> GeneratorConfig:
        """Return the published configuration F at ``size`` px."""
        return cls(size=size, channels=official_channels(size))

    @property
    def n_layers(self) -> int:
        """Number of convolutions, each with its noise (17 at 1024 px)."""
        return 2 * int(math.log2(self.size)) - 3

    @property
    def n_latent(self) -> int:
        """Number of rows of w_plus (18 at 1024 px)."""
        return 2 * int(math.log2(self.size)) - 2

    def noise_size(self, layer: int) -> int:
        """Return the resolution in px of convolution ``layer``."""
        return 2 ** ((layer + 5) // 2)


class Halfway(NamedTuple):
    """A synthesis after the second convolution at R px: features [N, C, R, R], and the image [N, 3, R/2, R/2] to which those
    are yet to be added, None at 4 px."""

    features: Tensor
    image: Tensor | None


class ConstantInput(nn.Module):
    """Learned 4x4 input, [1, C, 4, 4] repeated over the batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(normal(1, channels, 4, 4))

    def forward(self, batch: int) -> Tensor:
        # Channels-last runs through the whole network from here; convolutions on CPUs are twice as fast in it.
        return self.input.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)


class Generator(nn.Module):
    """StyleGAN2 generator (Karras et al. 2020) with skip connections to RGB.

    Args:
        config: the network's shape.

    Attributes:
        recompute: what the convolutions of ``synthesis`` are called by, to save memory in training; None calls them.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.recompute: Recompute | None = None
        dim, widths = config.style_dim, config.channels
        mlp = [EqualLinear(dim, dim, lr_mul=config.lr_mlp, activate=True) for _ in range(config.n_mlp)]
        self.style = nn.Sequential(PixelNorm(), *mlp)
        self.input = ConstantInput(widths[4])
        self.conv1 = StyledConv(widths[4], widths[4], dim)
        self.to_rgb1 = ToRGB(widths[4], dim, upsample=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for resolution in sorted(widths)[1:]:
            before, width = widths[resolution // 2], widths[resolution]
            self.convs.append(StyledConv(before, width, dim, upsample=True))
            self.convs.append(StyledConv(width, width, dim))
            self.to_rgbs.append(ToRGB(width, dim))
        self.noises = nn.Module()
        for layer in range(config.n_layers):
            size = config.noise_size(layer)
            self.noises.register_buffer(f"noise_{layer}", normal(1, 1, size, size))

    def mapping(self, z: Tensor, *, truncation_psi: float = 1.0, w_avg: Tensor | None = None) -> Tensor:
        """Map z to w, optionally truncated: w' = w_avg + psi (w - w_avg), StyleGAN section B.

        Args:
            z: [N, style_dim], standard normal.
            truncation_psi: 1 leaves w, 0 gives ``w_avg``.
            w_avg: [style_dim] or [1, style_dim], required when psi is not 1.

        Returns:
            w [N, style_dim].

        Raises:
            ValueError: for a wrong shape or a missing ``w_avg``.
        """
        if z.ndim != 2 or z.shape[1] != self.config.style_dim:
            raise ValueError(f"expected z [N, {self.config.style_dim}], got {list(z.shape)}")
        w = self.style(z)
        if truncation_psi == 1.0:
            return w
        if w_avg is None:
            raise ValueError(f"truncation_psi={truncation_psi} needs w_avg")
        return w_avg + truncation_psi * (w - w_avg)

    def broadcast(self, w: Tensor) -> Tensor:
        """Repeat w [N, style_dim] to w_plus [N, n_latent, style_dim]."""
        return w[:, None, :].expand(-1, self.config.n_latent, -1)

    @torch.no_grad()
    def mean_w(self, n: int = 4096, *, generator: torch.Generator) -> Tensor:
        """Return w_avg [style_dim], the mean of ``n`` mapped z drawn on the CPU from ``generator``."""
        z = torch.randn(n, self.config.style_dim, generator=generator)
        return self.style(z.to(self.input.input.device)).mean(dim=0)

    def layers_at(self, resolution: int) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Return the synthesis layers up to ``resolution`` px, and the mapping network and the layers above."""
        blocks = resolution.bit_length() - 3  # 8 px is the first
        coarse = [self.input, self.conv1, self.to_rgb1, *self.convs[:2 * blocks], *self.to_rgbs[:blocks]]
        return nn.ModuleList(coarse), nn.ModuleList([self.style, *self.convs[2 * blocks:], *self.to_rgbs[blocks:]])

    def fixed_noise(self) -> list[Tensor]:
        """Return the stored noise maps, one [1, 1, H, W] per convolution."""
        return [getattr(self.noises, f"noise_{layer}") for layer in range(self.config.n_layers)]

    def zero_noise(self) -> list[Tensor]:
        """Return noise maps of zeros, one [1, 1, H, W] per convolution."""
        return [torch.zeros_like(noise) for noise in self.fixed_noise()]

    def random_noise(self, n: int, *, generator: torch.Generator) -> list[Tensor]:
        """Return fresh noise, one [n, 1, H, W] per convolution, drawn on the CPU so that a seed means one image."""
        device = self.input.input.device
        return [torch.randn(n, 1, *noise.shape[2:], generator=generator).to(device) for noise in self.fixed_noise()]

    def synthesis(
        self, w_plus: Tensor, *, noise: Sequence[Tensor], feature_transforms: FeatureTransforms | None = None,
        image_transforms: FeatureTransforms | None = None,
    ) -> Tensor:
        """Turn latents into images.

        Args:
            w_plus: [N, n_latent, style_dim].
            noise: one [1 or N, 1, H, W] per convolution: ``fixed_noise()``, ``zero_noise()`` or ``random_noise()``.
            feature_transforms: functions [N, C, H, W] -> the same shape, applied after the convolution of that
                index (0 is the 4 px layer; 2k - 1 and 2k are the two at 4 * 2^k px, see ``layer_at``).
            image_transforms: functions of the RGB image [N, 3, H/2, W/2] so far, by the layer after which they apply,
                which must be the second of its resolution above 4 px, and after the transform of its features.

        Returns:
            Images [N, 3, size, size], float32, about [-1, 1].

        Raises:
            ValueError: for a wrong latent shape, noise count or transform index.
        """
        transforms, on_image = self._checked(w_plus, noise, feature_transforms, image_transforms)
        x = self._convolve(self.conv1, self.input(w_plus.shape[0]), 0, w_plus, noise, transforms)
        return self._draw(Halfway(x, None), 0, w_plus, noise, transforms, on_image)

    def halfway(self, w_plus: Tensor, *, noise: Sequence[Tensor], resolution: int) -> Halfway:
        """Run the layers up to ``layer_at(resolution)``; arguments as in ``synthesis``.

        Raises:
            ValueError: for a wrong latent shape or noise count, or a resolution that the generator does not have.
        """
        self._check(w_plus, noise)
        if resolution not in self.config.channels:
            raise ValueError(f"the generator has no features of {resolution} px; choose one of {sorted(self.config.channels)}")
        x, image = self._convolve(self.conv1, self.input(w_plus.shape[0]), 0, w_plus, noise, {}), None
        for block in range(layer_at(resolution) // 2):
            image = self._to_rgb(x, image, block, w_plus)
            x = self._convolve_twice(x, block, w_plus, noise, {})
        return Halfway(x, image)

    def finish(self, half: Halfway, w_plus: Tensor, *, noise: Sequence[Tensor], resolution: int) -> Tensor:
        """Run the layers that follow ``halfway`` at ``resolution``, perhaps with other features.

        Both parts of ``half`` may be cut to one even square of their pixels, and the noise to the same place; the image is
        that of the square then, but for a few pixels along its edge.

        Returns:
            [N, 3, size, size], or what corresponds to the square.

        Raises:
            ValueError: for wrong shapes.
        """
        self._check(w_plus, noise)
        return self._draw(half, layer_at(resolution) // 2, w_plus, noise, {}, {})

    def _checked(
        self, w_plus: Tensor, noise: Sequence[Tensor], feature_transforms: FeatureTransforms | None,
        image_transforms: FeatureTransforms | None,
    ) -> tuple[FeatureTransforms, FeatureTransforms]:
        """Return transforms of features and images as dictionaries; raises ValueError as ``synthesis`` does."""
        self._check(w_plus, noise)
        transforms, on_image = dict(feature_transforms or {}), dict(image_transforms or {})
        unknown = [index for index in transforms if not 0 <= index < self.config.n_layers]
        unknown += [index for index in on_image if index not in range(2, self.config.n_layers, 2)]
        if unknown:
            raise ValueError(f"transforms index {unknown} outside 0..{self.config.n_layers - 1}, for the image even and not 0")
        return transforms, on_image

    def _check(self, w_plus: Tensor, noise: Sequence[Tensor]) -> None:
        expected = [self.config.n_latent, self.config.style_dim]
        if w_plus.ndim != 3 or list(w_plus.shape[1:]) != expected:
            raise ValueError(f"expected w_plus [N, {expected[0]}, {expected[1]}], got {list(w_plus.shape)}")
        if len(noise) != self.config.n_layers:
            raise ValueError(f"expected {self.config.n_layers} noise maps, got {len(noise)}")

    def _convolve(self, layer: StyledConv, x: Tensor, index: int, w_plus: Tensor, noise: Sequence[Tensor],
                  transforms: FeatureTransforms) -> Tensor:
        arguments = (x, w_plus[:, index], noise[index])
        x = layer(*arguments) if self.recompute is None else self.recompute(layer, *arguments)
        return transforms[index](x) if index in transforms else x

    def _convolve_twice(self, x: Tensor, block: int, w_plus: Tensor, noise: Sequence[Tensor],
                        transforms: FeatureTransforms) -> Tensor:
        for index in (2 * block + 1, 2 * block + 2):
            x = self._convolve(self.convs[index - 1], x, index, w_plus, noise, transforms)
        return x

    def _to_rgb(self, x: Tensor, image: Tensor | None, block: int, w_plus: Tensor) -> Tensor:
        """Add to the image what the features show that enter ``block``."""
        if block == 0:
            return self.to_rgb1(x, w_plus[:, 1])
        return self.to_rgbs[block - 1](x, w_plus[:, 2 * block + 1], image)

    def _draw(self, half: Halfway, first: int, w_plus: Tensor, noise: Sequence[Tensor],
              transforms: FeatureTransforms, on_image: FeatureTransforms) -> Tensor:
        x, image = half
        for block in range(first, len(self.to_rgbs)):
            image = self._to_rgb(x, image, block, w_plus)
            x = self._convolve_twice(x, block, w_plus, noise, transforms)
            if 2 * block + 2 in on_image:
                image = on_image[2 * block + 2](image)
        return self._to_rgb(x, image, len(self.to_rgbs), w_plus)


def generator_config_from_state(state: Mapping[str, Tensor]) -> GeneratorConfig:
    """Read size, widths and mapping depth from a generator's state dict; raises ValueError where it is none."""
    try:
        channels = {4: state["conv1.conv.weight"].shape[1]}
        style_dim = state["style.1.weight"].shape[0]
    except KeyError as error:
        raise ValueError(f"the generator's state misses {error.args[0]!r}") from error
    while (key := f"convs.{2 * len(channels) - 1}.conv.weight") in state:
        channels[4 * 2 ** len(channels)] = state[key].shape[1]
    depth = sum(1 for name in state if name.startswith("style.") and name.endswith(".weight"))
    return GeneratorConfig(size=max(channels), style_dim=style_dim, n_mlp=depth, channels=channels)
