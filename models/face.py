"""A face as every system of this project draws it: rows of latents, and what rows cannot say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
        photo: [N, 3, S, S] in [-1, 1], the aligned photos that the faces were found in, or None. Kinds of styles that draw what
            no inversion shows take it from there.
        known: what the drawing stages know of each face, ``drawing.context.FaceContext``, or None: they read it then.

    Raises:
        ValueError: for shapes that do not fit each other.
    """

    w_plus: Tensor
    residual: Tensor | None = None
    photo: Tensor | None = None
    known: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        if self.w_plus.ndim != 3:
            raise ValueError(f"expected w_plus [N, L, D], got {list(self.w_plus.shape)}")
        shape = None if self.residual is None else list(self.residual.shape)
        if shape is not None and (len(shape) != 4 or shape[0] != len(self.w_plus) or shape[2] != shape[3]):
            raise ValueError(f"expected a residual [{len(self.w_plus)}, C, R, R], got {shape}")
        shape = None if self.photo is None else list(self.photo.shape)
        if shape is not None and (shape[:2] != [len(self.w_plus), 3] or len(shape) != 4 or shape[2] != shape[3]):
            raise ValueError(f"expected photos [{len(self.w_plus)}, 3, S, S], got {shape}")

    @classmethod
    def join(cls, faces: Sequence[Face]) -> Face:
        """Put faces of one kind, all with a residual or none, and with photos or none, into one batch."""
        joined = {}
        for name in ("residual", "photo"):
            known = [part for part in (getattr(face, name) for face in faces) if part is not None]
            if known and len(known) < len(faces):
                raise ValueError(f"faces with and without a {name} cannot share a batch")
            joined[name] = torch.cat(known) if known else None
        return cls(torch.cat([face.w_plus for face in faces]), **joined)

    def __len__(self) -> int:
        return len(self.w_plus)

    def __getitem__(self, part: slice) -> Face:
        return replace(self._changed(lambda tensor: tensor[part]), known=None if self.known is None else self.known[part])

    @property
    def resolution(self) -> int | None:
        """Side of the residual in px, or None."""
        return None if self.residual is None else self.residual.shape[3]

    def with_rows(self, w_plus: Tensor) -> Face:
        """Return the same faces with other latents [N, L, D]."""
        return replace(self, w_plus=w_plus)

    def to(self, device: torch.device | str) -> Face:
        """Return the faces on a device."""
        return self._changed(lambda tensor: tensor.to(device))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Face:
        """Return the faces with every tensor that they have changed."""
        return Face(*(None if part is None else change(part) for part in (self.w_plus, self.residual, self.photo)))

    def transforms(self) -> FeatureTransforms:
        """Return the feature transforms with which ``Generator.synthesis`` draws the undeformed faces."""
        if self.residual is None:
            return {}
        residual = self.residual
        return {layer_at(residual.shape[3]): lambda features: features + residual.to(features.dtype)}
