"""The generator with spatial transformers: one synthesis whose features are warped at some resolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.sampling_grids import enlarged, halved
from models.spatial_transformer import (
    SpatialTransformerConfig,
    build_affine,
    build_tps,
    config_from_published,
    strength_field,
    warp,
)
from models.stylegan2 import Generator, GeneratorConfig, generator_config_from_state, layer_at

PUBLISHED_PARTS = ("g", "stns", "rtstn")
PUBLISHED_EXTENT = 0.95


class Deformed(NamedTuple):
    """Images [N, 3, S, S] and the sampling grid [N, R, R, 2] of every TPS block, in the order of the resolutions."""

    image: Tensor
    grids: list[Tensor]


@dataclass
class _Run:
    """What one synthesis passes from layer to layer: alpha, residuals by side that are still to be added, TPS grids so far, and
    the grids of each resolution, by which the image is carried along."""

    alpha: float | Tensor
    residuals: dict[int, Tensor]
    grids: dict[int, Tensor] = field(default_factory=dict)
    passed: dict[int, list[Tensor]] = field(default_factory=dict)

    def carry(self, grid: Tensor, *, mode: str) -> None:
        """Move residuals, which are still to be added at a higher resolution, by a warp that comes before them."""
        self.passed.setdefault(grid.shape[1], []).append(grid)
        for side, residual in self.residuals.items():
            larger = enlarged(grid, side)
            residual = residual.expand(len(grid), -1, -1, -1)
            self.residuals[side] = warp(residual, larger, mode=mode, where="a residual")


class DeformableGenerator(nn.Module):
    """StyleGAN2 whose features pass an affine warp, then a TPS warp, after the second convolution of some resolutions.

    Args:
        generator: the network to deform; it is shared, not copied.
        config: the transformers' resolutions, widths and mode.
        rng: source of the blocks' initial weights; a fixed seed where None. The global random state is left alone.

    Raises:
        ValueError: if a resolution or width does not exist in the generator.
    """

    def __init__(
        self, generator: Generator, config: SpatialTransformerConfig, *, rng: torch.Generator | None = None
    ) -> None:
        super().__init__()
        widths = generator.config.channels
        for size in config.resolutions:
            if widths.get(size) != config.channels[size]:
                raise ValueError(f"the generator has {widths.get(size, 'no')} channels at {size} px, "
                                 f"the spatial transformers expect {config.channels[size]}")
        self.generator = generator
        self.config = config
        self.affine = build_affine(config, generator=rng) if config.affine else None
        self.tps = build_tps(config, generator=rng) if config.tps else None

    @classmethod
    def for_generator(
        cls, generator: Generator, *, rng: torch.Generator | None = None, **settings: Any
    ) -> DeformableGenerator:
        """Build transformers of the generator's own widths; `settings` are those of SpatialTransformerConfig."""
        resolutions = settings.pop("resolutions", (32, 64))
        channels = {size: generator.config.channels[size] for size in resolutions if size in generator.config.channels}
        return cls(generator, SpatialTransformerConfig(resolutions, channels=channels, **settings), rng=rng)

    def mapping(self, z: Tensor, *, truncation_psi: float = 1.0, w_avg: Tensor | None = None) -> Tensor:
        """Map z [N, style_dim] to w [N, style_dim], see `Generator.mapping`."""
        return self.generator.mapping(z, truncation_psi=truncation_psi, w_avg=w_avg)

    def broadcast(self, w: Tensor) -> Tensor:
        """Repeat w [N, style_dim] to w_plus [N, n_latent, style_dim]."""
        return self.generator.broadcast(w)

    def synthesis(
        self, w_plus: Tensor, *, alpha: float | Tensor = 1.0, noise: Sequence[Tensor], residual: Tensor | None = None,
        passed: list[Tensor] | None = None,
    ) -> Deformed:
        """Turn latents into deformed images.

        Args:
            w_plus: [N, n_latent, style_dim].
            alpha: degree of deformation: a number, [N], or [1 or N, grid_size^2] with a degree of its own at every
                control point, in the order of `resting_points`; 0 is rest, 1 as learned, values outside extrapolate.
            noise: one [1 or N, 1, H, W] per convolution, see `Generator.synthesis`.
            residual: [N, C, R, R] of the undeformed face, see `models.face.Face`; warps at lower resolutions move it too.
            passed: a list to which the sampling grids of all warps are added, in turn.

        Returns:
            Deformed(image, grids); grids is empty without TPS blocks.

        Raises:
            ValueError: for wrong shapes.
            NonFiniteError: if a sampling grid holds NaN or infinity.
        """
        run = _Run(alpha, {} if residual is None else {residual.shape[3]: residual})
        sizes = {*self.config.resolutions, *run.residuals}
        transforms = {layer_at(size): partial(self._transform, size=size, run=run) for size in sizes}
        on_image = {}
        if self.config.carry_image:
            on_image = {layer_at(size): partial(self._carry_image, size=size, run=run) for size in self.config.resolutions}
        image = self.generator.synthesis(w_plus, noise=noise, feature_transforms=transforms, image_transforms=on_image)
        if passed is not None:
            passed += [grid for size in self.config.resolutions for grid in run.passed.get(size, [])]
        return Deformed(image, [run.grids[size] for size in self.config.resolutions if size in run.grids])

    def features(self, w_plus: Tensor, *, noise: Sequence[Tensor]) -> Tensor:
        """Return what the first warp gets to see of rows alone, [N, C, S, S]; see ``synthesis``."""
        return self.generator.halfway(w_plus, noise=noise, resolution=min(self.config.resolutions)).features

    def _carry_image(self, image: Tensor, *, size: int, run: _Run) -> Tensor:
        """Warp the image [N, 3, size/2, size/2] of the layers before a warp as that warped the features."""
        for grid in run.passed.get(size, []):
            image = warp(image, halved(grid), mode=self.config.mode, where=f"the image at {size // 2} px")
        return image

    @staticmethod
    def _with_residual(features: Tensor, *, size: int, run: _Run) -> Tensor:
        """Add the residual where it belongs."""
        return features + run.residuals.pop(size).to(features.dtype) if size in run.residuals else features

    def _transform(self, features: Tensor, *, size: int, run: _Run) -> Tensor:
        """Warp the features of one resolution."""
        features = self._with_residual(features, size=size, run=run)
        if size not in self.config.resolutions:
            return features
        index, alpha = self.config.resolutions.index(size), run.alpha
        if self.affine is not None:
            dense = isinstance(alpha, Tensor) and alpha.ndim == 2
            degree = strength_field(alpha, features.shape[2], extent=self.config.extent) if dense else alpha
            features, grid = self.affine.stns[index](features, alpha=degree)
            run.carry(grid, mode=self.config.mode)
        if self.tps is not None:
            grid = self.tps.stns[index].grid(features, alpha=alpha)
            features = warp(features, grid, mode=self.config.mode, where=f"the TPS block at {size} px")
            run.grids[size] = grid
            run.carry(grid, mode=self.config.mode)
        return features

    def published_state(self) -> dict[str, dict[str, Tensor]]:
        """Return `{"g", "stns", "rtstn"}` with the names of the released style files.

        The lattice travels in `stns`, so an exact style stays exact for every reader of the file; only the scaling of
        the affine block by alpha needs a reader that knows the mode.

        Raises:
            ValueError: for a config that the format cannot say (no affine or TPS block, another extent).
        """
        if self.config.carry_image or self.config.guarded:
            raise ValueError("the published format cannot hold an image that is carried along or guarded warps; train with "
                             "--profile published for it")
        if self.affine is None or self.tps is None or self.config.extent != PUBLISHED_EXTENT:
            raise ValueError("the published format holds affine and TPS blocks with extent "
                             f"{PUBLISHED_EXTENT}, got affine={self.config.affine}, tps={self.config.tps}, "
                             f"extent={self.config.extent}")
        parts = (self.generator, self.tps, self.affine)
        return {name: _detached(part) for name, part in zip(PUBLISHED_PARTS, parts, strict=True)}


def check_published_parts(state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Raise ValueError unless the state has exactly the parts g, stns and rtstn."""
    if set(state) != set(PUBLISHED_PARTS):
        raise ValueError(f"a published style holds {list(PUBLISHED_PARTS)}, got {sorted(map(str, state))}")


def configs_from_published(
    state: Mapping[str, Mapping[str, Tensor]],
) -> tuple[GeneratorConfig, SpatialTransformerConfig]:
    """Read the shapes of a published style's networks: the generator's and the spatial transformers' config.

    Raises:
        ValueError: if the parts or the keys that carry the shapes are missing.
    """
    check_published_parts(state)
    return generator_config_from_state(state["g"]), config_from_published(state["stns"])


def _detached(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's state on the CPU."""
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
