"""A deformable style as a network without checks that a fixed graph cannot hold, for ONNX and TorchScript."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.deformable import DeformableGenerator
from models.spatial_transformer import INTERPOLATION, enlarged, pixel_lattice
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

    def forward(self, w_plus: Tensor, residual: Tensor | None, alpha: Tensor) -> Tensor:
        """w_plus [N, L, D], residual [N, C, R, R] or None, alpha [N] -> image [N, 3, S, S]."""
        generator, carried = self.deformable.generator, {"residual": residual}
        sizes = set(self.deformable.config.resolutions) | ({residual.shape[3]} if residual is not None else set())
        transforms = {layer_at(size): partial(self._transform, size=size, alpha=alpha, carried=carried) for size in sizes}
        return generator.synthesis(w_plus, noise=generator.fixed_noise(), feature_transforms=transforms)

    def _transform(self, x: Tensor, *, size: int, alpha: Tensor, carried: dict[str, Tensor | None]) -> Tensor:
        if carried["residual"] is not None and carried["residual"].shape[3] == size:
            x, carried["residual"] = x + carried["residual"], None
        if size not in self.deformable.config.resolutions:
            return x
        index = self.deformable.config.resolutions.index(size)
        if self.deformable.affine is not None:
            theta = self.deformable.affine.stns[index].theta(x, alpha=alpha)
            # affine_grid written out: ONNX has it only from opset 20 on.
            lattice = getattr(self, f"lattice_{size}")
            grid = lattice @ theta[:, :, :2].transpose(1, 2) + theta[:, None, :, 2]  # [N, size^2, 2]
            x = self._sample(x, grid.reshape(-1, size, size, 2), carried)
        if self.deformable.tps is not None:
            x = self._sample(x, self.deformable.tps.stns[index].grid(x, alpha=alpha), carried)
        return x.contiguous(memory_format=torch.channels_last)

    def _sample(self, x: Tensor, grid: Tensor, carried: dict[str, Tensor | None]) -> Tensor:
        sample = partial(F.grid_sample, mode=INTERPOLATION[self.deformable.config.mode], padding_mode="reflection",
                         align_corners=False)
        if carried["residual"] is not None:
            carried["residual"] = sample(carried["residual"], enlarged(grid, carried["residual"].shape[3]))
        return sample(x, grid)
