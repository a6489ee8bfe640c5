"""What the last frame of a clip was drawn with: the next goes on from there, which is faster, and steadier."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.look import landmark_grid, window_mean
from models.sampling_grids import enlarged

# Largest share of the last frame in the next; root mean square of the differences between both frames, undrawn and in a window
# of this deviation in px of 128, at which a third of that is left.
LASTING, UNLIKE, WINDOW = 0.6, 0.1, 1.5
# Side of the grid by which the last frame is carried to the landmarks, which is smooth.
COARSE = 128


@dataclass
class Matches:
    """One face in a clip.

    Attributes:
        found: which patches it was drawn with, see ``Analogy._matched``, [1, L], or None before the first frame.
        frames: number of frames so far.
        pictures: the last frame's face undrawn and drawn, uint8 [1, 6, S, S], or None.
        points: its landmarks [1, 68, 2] as fractions of the side.
        ground: how far pixels of the frame that was drawn last are ground, [1, 1, S', S']; no part of the state.
    """

    found: Tensor | None = None
    frames: int = 0
    pictures: Tensor | None = None
    points: Tensor | None = None
    ground: Tensor | None = None

    def steadied(self, image: Tensor, drawn: Tensor, points: Tensor) -> Tensor:
        """Return a frame's face with a share of the last one's where nothing but the landmarks has moved, and keep both.

        Args:
            image: the face undrawn, [1, 3, S, S] in [-1, 1].
            drawn: the same drawn.
            points: its landmarks [1, 68, 2] as fractions of the side.
        """
        size = image.shape[3]
        if self.pictures is not None and self.pictures.shape[3] == size:
            grid = enlarged(landmark_grid(points, self.points, min(size, COARSE)), size)
            last = F.grid_sample(self.pictures.to(image) / 127.5 - 1.0, grid, mode="bicubic", padding_mode="border",
                                 align_corners=False)
            before, made = last.split(3, dim=1)
            unlike = window_mean((image - before).square().mean(dim=1, keepdim=True), WINDOW * size / 128.0)
            drawn = drawn + LASTING * torch.exp(-unlike / UNLIKE**2) * (made - drawn)
        both = torch.cat([image, drawn], dim=1).clamp(-1.0, 1.0)
        self.pictures, self.points = ((both + 1.0) * 127.5).round().to(torch.uint8), points
        return drawn

    def state(self) -> dict[str, Any]:
        """Return plain values from which ``load`` makes the same."""
        plain = {"found": self.found.tolist(), "frames": self.frames}
        if self.pictures is not None:
            packed = base64.b64encode(zlib.compress(self.pictures.cpu().numpy().tobytes())).decode("ascii")
            plain |= {"pictures": packed, "size": self.pictures.shape[3], "points": self.points.tolist()}
        return plain

    @classmethod
    def load(cls, plain: Mapping[str, Any]) -> Matches:
        """Return what had this state."""
        made = cls(torch.tensor(plain["found"]), plain["frames"])
        if "pictures" in plain:
            size, packed = plain["size"], zlib.decompress(base64.b64decode(plain["pictures"]))
            made.pictures = torch.frombuffer(bytearray(packed), dtype=torch.uint8).reshape(1, 6, size, size)
            made.points = torch.tensor(plain["points"])
        return made
