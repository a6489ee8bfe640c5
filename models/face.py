"""A face as every system of this project draws it: rows of latents, and what rows cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.stylegan2 import FeatureTransforms, layer_at


@dataclass(frozen=True)
class Face:
    """Faces in a generator: latents, and for inverted photos a residual of the features before the first warp.

    Random faces have no residual. Glasses, hats and teeth of a photo lie outside of what rows of latents can say; added to
    the features they move with them through every warp that follows.

    Attributes:
        w_plus: [N, L, D].
        residual: [N, C, R, R], added to the features after the second convolution at R px (see ``layer_at``), or None.

    Raises:
        ValueError: for shapes that do not fit each other.
    """

    w_plus: Tensor
    residual: Tensor | None = None

    def __post_init__(self) -> None:
        if self.w_plus.ndim != 3:
            raise ValueError(f"expected w_plus [N, L, D], got {list(self.w_plus.shape)}")
        shape = None if self.residual is None else list(self.residual.shape)
        if shape is not None and (len(shape) != 4 or shape[0] != len(self.w_plus) or shape[2] != shape[3]):
            raise ValueError(f"expected a residual [{len(self.w_plus)}, C, R, R], got {shape}")

    @classmethod
    def join(cls, faces: Sequence[Face]) -> Face:
        """Put faces of one kind, all with a residual or none, into one batch."""
        residuals = [face.residual for face in faces]
        known = [residual for residual in residuals if residual is not None]
        if known and len(known) < len(residuals):
            raise ValueError("faces with and without a residual cannot share a batch")
        return cls(torch.cat([face.w_plus for face in faces]), torch.cat(known) if known else None)

    def __len__(self) -> int:
        return len(self.w_plus)

    def __getitem__(self, part: slice) -> Face:
        return Face(self.w_plus[part], None if self.residual is None else self.residual[part])

    @property
    def resolution(self) -> int | None:
        """Side of the residual in px, or None."""
        return None if self.residual is None else self.residual.shape[3]

    def with_rows(self, w_plus: Tensor) -> Face:
        """Return the same faces with other latents [N, L, D]."""
        return replace(self, w_plus=w_plus)

    def to(self, device: torch.device | str) -> Face:
        """Return the faces on a device."""
        return Face(self.w_plus.to(device), None if self.residual is None else self.residual.to(device))

    def transforms(self) -> FeatureTransforms:
        """Return the feature transforms with which ``Generator.synthesis`` draws the undeformed faces."""
        if self.residual is None:
            return {}
        residual = self.residual
        return {layer_at(residual.shape[3]): lambda features: features + residual.to(features.dtype)}
