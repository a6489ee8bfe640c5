"""A deformable style as a network without checks that a fixed graph cannot hold, for ONNX and TorchScript."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.deformable import DeformableGenerator
from models.painter import Painter, fitted, painted
from models.look import landmark_grid, look_maps, matched
from models.sampling_grids import composed, enlarged, halved, moved_places, pixel_lattice, unfolded
from models.spatial_transformer import INTERPOLATION
from models.stylegan2 import layer_at
from models.tones import CELL, Tones, in_tones
from styles.controls import Control
from styles.deformable_controls import COLOR_SHARE
from styles.patches import PairPatches


class DeformableGraph(nn.Module):
    """``DeformableGenerator.synthesis`` with the stored noise.

    Args:
        deformable: the network.
        inputs: the control that is its input beside latents and residual.
        look: how much of the style's own look is taken.
        rows: fine rows [K, D] of the drawing in which a style with a look of its own draws; the face's where None.
        color: how far the face's rows go towards those.
        finder: shows the faces of a style with a look, and finds their landmarks for one that is carried to them.
        painter, manner: draws as the code [code] says, as far as ``manner_strength``.
        detail: share of what photos show beyond their inversions.
        tones: of the drawing, to which the picture goes by ``tone``.
        patches: of the pair, taken as far as ``patch_strength``.
    """

    def __init__(self, deformable: DeformableGenerator, *, inputs: tuple[Control, ...], rows: Tensor | None = None,
                 look: float = 1.0, color: float = 1.0, finder: nn.Module | None = None, painter: Painter | None = None,
                 manner: Tensor | None = None, manner_strength: float = 0.0, tones: Tones | None = None, tone: float = 0.0,
                 detail: float = 0.0, patches: PairPatches | None = None, patch_strength: float = 0.0) -> None:
        super().__init__()
        self.tone = tone if tones is not None else 0.0
        for name, tensor in (tones._asdict() if tones is not None else {}).items():
            self.register_buffer(f"tones_{name}", tensor, persistent=False)
        self.deformable, self.inputs, self.look, self.color, self.finder = deformable, inputs, look, color, finder
        self.painter, self.manner_strength, self.detail = painter, manner_strength, detail
        self.patches, self.patch_strength = patches, patch_strength
        self.register_buffer("manner", manner, persistent=False)
        self.register_buffer("rows", rows, persistent=False)
        for size in deformable.config.resolutions:
            self.register_buffer(f"lattice_{size}", pixel_lattice(size, mode="exact"), persistent=False)

    def forward(self, w_plus: Tensor, residual: Tensor | None, photo: Tensor | None, alpha: Tensor) -> Tensor:
        """w_plus [N, L, D], residual [N, C, R, R] or None, photo [N, 3, S, S] or None, alpha [N] -> image [N, 3, S, S]."""
        generator, config = self.deformable.generator, self.deformable.config
        shown = None if self.finder is None else self.finder.shown(w_plus, residual)
        maps = self._maps(shown)
        if self.rows is not None:
            count = w_plus.shape[1] - len(self.rows)
            fine = torch.lerp(w_plus[:, count:], self.rows.expand(len(w_plus), -1, -1), self.color)
            w_plus = torch.cat([w_plus[:, :count], fine], dim=1)
        carried = self._residuals(residual)
        passed: dict[int, list[Tensor]] = {size: [] for size in config.resolutions}
        sizes = {*config.resolutions, *carried} | ({config.look} if maps is not None else set())
        given = {"alpha": alpha, "carried": carried, "passed": passed, "maps": maps,
                 "places": self.finder.points(shown) if self.is_carried else None}
        transforms = {layer_at(size): partial(self._transform, size=size, **given) for size in sizes}
        on_image = {}
        if config.carry_image:
            on_image = {layer_at(size): partial(self._carry_image, grids=passed[size]) for size in config.resolutions}
        image = generator.synthesis(w_plus, noise=generator.fixed_noise(), feature_transforms=transforms,
                                    image_transforms=on_image)
        grids = [grid for size in config.resolutions for grid in passed[size]]
        if photo is not None and self.detail:
            side = int(shown.shape[3])
            detail = fitted(photo, side) - shown
            image = image + self.detail * (self._read(detail, composed(grids, side)) if grids else detail)
        made = self._made(image)
        if self.patches is None:
            return made
        places = self.finder.points(shown)
        places = moved_places(places, composed(grids, int(image.shape[3]))) if grids else places
        return self.patches(image, made, places, self.patch_strength)

    def _made(self, image: Tensor) -> Tensor:
        """Return an image painted and toned."""
        if self.painter is not None and self.manner_strength:
            image = painted(self.painter, image, self.manner[None], strength=self.manner_strength)
        if not self.tone:
            return image
        tones = Tones(*(getattr(self, f"tones_{name}") for name in Tones._fields))
        image = image.clamp(-1.0, 1.0)
        if not self.is_carried:
            return in_tones(image, tones, strength=self.tone, colour=COLOR_SHARE * self.tone)
        grid = landmark_grid(self.finder.points(image), self.deformable.look_places, int(image.shape[3]) // CELL)
        return in_tones(image, tones, grid=grid, strength=self.tone)

    @property
    def is_carried(self) -> bool:
        return self.finder is not None and self.deformable.config.look_form == "carried"

    def _residuals(self, residual: Tensor | None) -> dict[int, Tensor]:
        """Return what is added to the features by side; a traced shape is a tensor, so it becomes a number here."""
        config, found = self.deformable.config, {}
        if residual is not None:
            found[int(residual.shape[3])] = residual
        if self.deformable.look is not None and config.look_form == "added":
            own = self.look * self.deformable.look
            found[config.look] = own + found[config.look] if config.look in found else own
        return found

    def _maps(self, shown: Tensor | None) -> Tensor | None:
        """Return the maps of a look that is matched, carried to the landmarks of the faces as they are shown."""
        deformable, config = self.deformable, self.deformable.config
        if deformable.look is None or config.look_form == "added":
            return None
        maps = look_maps(deformable.look, deformable.look_source)
        if not self.is_carried:
            return maps
        grid = landmark_grid(self.finder.points(shown), deformable.look_places, config.look)
        return self._read(maps.expand(len(shown), -1, -1, -1), grid)

    def _carry_image(self, image: Tensor, *, grids: list[Tensor]) -> Tensor:
        for grid in grids:
            image = self._read(image, halved(grid))
        return image

    def _transform(self, x: Tensor, *, size: int, alpha: Tensor, carried: dict[int, Tensor],
                   passed: dict[int, list[Tensor]], maps: Tensor | None, places: Tensor | None) -> Tensor:
        if size in carried:
            x = x + carried.pop(size)
        if maps is not None and size == self.deformable.config.look:
            x = matched(x, maps, strength=self.look)
        if size not in self.deformable.config.resolutions:
            return x
        index = self.deformable.config.resolutions.index(size)
        if self.deformable.affine is not None:
            theta = self.deformable.affine.stns[index].theta(x, alpha=alpha)
            # affine_grid written out: ONNX has it only from opset 20 on.
            lattice = getattr(self, f"lattice_{size}")
            grid = lattice @ theta[:, :, :2].transpose(1, 2) + theta[:, None, :, 2]  # [N, size^2, 2]
            grid = grid.reshape(-1, size, size, 2)
            x = self._sample(x, unfolded(grid) if self.deformable.config.guarded else grid, carried, passed[size])
        if self.deformable.tps is not None:
            grid = self.deformable.tps.stns[index].grid(x, alpha=alpha)
            if size == self.deformable.config.resolutions[-1]:
                grid = self.deformable.completed(grid, [one for several in passed.values() for one in several], places, alpha)
            x = self._sample(x, grid, carried, passed[size])
        return x.contiguous(memory_format=torch.channels_last)

    def _read(self, x: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(x, grid, mode=INTERPOLATION[self.deformable.config.mode], padding_mode="reflection",
                             align_corners=False)

    def _sample(self, x: Tensor, grid: Tensor, carried: dict[int, Tensor], passed: list[Tensor]) -> Tensor:
        passed.append(grid)
        for side, residual in carried.items():
            carried[side] = self._read(residual.expand(len(x), -1, -1, -1), enlarged(grid, side))
        return self._read(x, grid)
