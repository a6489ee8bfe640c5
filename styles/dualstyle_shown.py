"""What exemplars show beside their codes: tones of the picture, and how its face is deformed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from data.images import read_image, to_tensor
from models.exemplar_moves import moves_of
from models.painter import Painter, fitted
from models.tones import Tones, read_tones
from styles.dualstyle_files import Gallery
from styles.protocol import file_path


class Shown:
    """Looks exemplars up: in the gallery by name, in a file, or, for random rows, in what of the gallery is nearest.

    Args:
        gallery: of the style.
        points: images [N, 3, S, S] -> landmarks [N, 68, 2] as fractions of the side.
        size: side of the style's pictures in px.
        device: where it computes.
        painter: reads how portraits are drawn, where the gallery says so.
    """

    def __init__(self, gallery: Gallery, points: Callable[[Tensor], Tensor], *, size: int, device: torch.device,
                 painter: Painter | None = None) -> None:
        self.gallery, self.points, self.size, self.device, self.painter = gallery, points, size, device, painter

    def nearest(self, code: Tensor, rows: slice) -> str:
        """Return the exemplar of the gallery whose rows are nearest to those of a code [1, L, D]."""
        apart = (self.gallery.codes.to(code) - code)[:, rows].flatten(1).norm(dim=1)
        return self.gallery.names[int(apart.argmin())]

    def tones(self, value: Any) -> tuple[Tones, Tensor]:
        """Return the tones of an exemplar, a name or a file, and the landmarks [1, 68, 2] that they belong to."""
        if value not in self.gallery.names:
            image = self._picture(value)
            return read_tones(image), self.points(image)
        gallery, index = self.gallery, self.gallery.names.index(value)
        thumb = gallery.thumbs[index].permute(2, 0, 1)[None].to(self.device) / 127.5 - 1.0  # [H, W, 3] -> [1, 3, H, W]
        return (Tones.from_numbers(gallery.tones[index].to(self.device), thumb, side=self.size),
                gallery.points[index:index + 1].to(self.device))

    def moves(self, value: Any) -> Tensor:
        """Return how far the deformation of an exemplar, a name or a file, moved its landmarks, [1, 68, 2]."""
        if value not in self.gallery.names:
            found = self.points(self._picture(value))
        else:
            index = self.gallery.names.index(value)
            found = self.gallery.points[index:index + 1].to(self.device)
        return moves_of(found, self.gallery.shape.to(self.device))

    def manner(self, value: Any) -> Tensor:
        """Return how an exemplar, a name or a file, is drawn: a code [1, code] of the painter."""
        if value not in self.gallery.names:
            return self.painter.read(fitted(self._picture(value), self.painter.config.size))
        index = self.gallery.names.index(value)
        return self.gallery.manner[index:index + 1].to(self.device)

    def _picture(self, value: Any) -> Tensor:
        return to_tensor(read_image(file_path(value)), self.size).to(self.device)
