"""A deformable style as a network without checks that a fixed graph cannot hold, for ONNX and TorchScript."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.deformable import DeformableGenerator
from models.sampling_grids import enlarged, halved, pixel_lattice, unfolded
from models.spatial_transformer import INTERPOLATION
from models.stylegan2 import layer_at
from styles.controls import Control


class DeformableGraph(nn.Module):
    """``DeformableGenerator.synthesis`` with the stored noise.

    Args:
        deformable: the network.
        inputs: the control that is its input beside latents and residual.
    """

    def __init__(self, deformable: DeformableGenerator, *, inputs: tuple[Control, ...]) -> None:
        super().__init__()
        self.deformable, self.inputs = deformable, inputs
        for size in deformable.config.resolutions:
            self.register_buffer(f"lattice_{size}", pixel_lattice(size, mode="exact"), persistent=False)

    def forward(self, w_plus: Tensor, residual: Tensor | None, photo: Tensor | None, alpha: Tensor) -> Tensor:
        """w_plus [N, L, D], residual [N, C, R, R] or None, alpha [N] -> image [N, 3, S, S]; photos are not looked at."""
        generator, config = self.deformable.generator, self.deformable.config
        # A traced shape is a tensor, so it becomes a number here.
        carried = {} if residual is None else {int(residual.shape[3]): residual}
        passed: dict[int, list[Tensor]] = {size: [] for size in config.resolutions}
        given = {"alpha": alpha, "carried": carried, "passed": passed}
        transforms = {layer_at(size): partial(self._transform, size=size, **given) for size in {*config.resolutions, *carried}}
        on_image = {}
        if config.carry_image:
            on_image = {layer_at(size): partial(self._carry_image, grids=passed[size]) for size in config.resolutions}
        return generator.synthesis(w_plus, noise=generator.fixed_noise(), feature_transforms=transforms,
                                   image_transforms=on_image)

    def _carry_image(self, image: Tensor, *, grids: list[Tensor]) -> Tensor:
        for grid in grids:
            image = self._read(image, halved(grid))
        return image

    def _transform(self, x: Tensor, *, size: int, alpha: Tensor, carried: dict[int, Tensor],
                   passed: dict[int, list[Tensor]]) -> Tensor:
        if size in carried:
            x = x + carried.pop(size)
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
