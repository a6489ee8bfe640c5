"""Shape and mode of the spatial transformers, stored inside every style."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.config import Config

MODES = ("exact", "published")


@dataclass(frozen=True)
class SpatialTransformerConfig(Config):
    """Where features are warped and how.

    `resolutions` are the feature sizes in pixels, `channels` maps each to its width, `grid_size` is the number of control
    points per side, `extent` their outermost coordinate, `mode` is "exact" or "published". `guarded` warps cannot fold and
    read nothing beyond the frame; `carry_image` moves the RGB image of the layers before a warp along with the features.
    """

    resolutions: tuple[int, ...] = (32, 64)
    grid_size: int = 10
    extent: float = 0.95
    mode: str = "exact"
    channels: Mapping[int, int] = field(default_factory=lambda: {32: 512, 64: 512})
    affine: bool = True
    tps: bool = True
    guarded: bool = False
    carry_image: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "resolutions", tuple(int(size) for size in self.resolutions))
        object.__setattr__(self, "channels", {int(size): int(width) for size, width in self.channels.items()})
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {self.mode!r}")
        if self.grid_size < 2:
            raise ValueError(f"grid_size must be at least 2, got {self.grid_size}")
        if not 0 < self.extent <= 1:
            raise ValueError(f"extent must be in (0, 1], got {self.extent}")
        if len(set(self.resolutions)) != len(self.resolutions):
            raise ValueError(f"resolutions must differ from each other, got {self.resolutions}")
        for size in self.resolutions:
            if size < 16:
                raise ValueError(f"resolutions must be at least 16 for the localisation net, got {size}")
            if size not in self.channels:
                raise ValueError(f"channels must name every resolution, got {dict(self.channels)} without {size}")
