"""Any picture as a style, at once: its tone by part and its shape beside the mean face, read from the picture and not trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from checkpoints.io import CheckpointError, save_model
from data.images import read_image
from data.random_drawings import random_drawing
from drawing.context import aligned_mesh, landmarks_in
from drawing.reading import style_of_picture
from drawing.style import DrawnStyle
from faces.find import FaceFinder
from models.face import Face
from pipeline.cli import report
from styles.controls import Control, FileValue, Look
from styles.drawn import DEFORMATION, STROKES, TONE, FramedFace, draw_faces, draw_frame, no_grids, undeformed
from styles.pictures import picture_value, whole_seed
from styles.protocol import Style, file_path

IMAGE = Control("style_image", "picture whose style is taken, of any size and kind; without one a random drawing", type="file",
                label="Style picture")
SEED = Control("style_seed", "seed of the random drawing where no picture is given; 0 where not given either", low=0.0,
               high=100.0, label="Random style")
SECOND = Control("second_style_image", "another picture, mixed with the first", type="file", label="Second style picture")
SHARE = Control("second_share", "share of the second picture in the mixture", default=0.5, label="Share of the second picture")
CONTROLS = (IMAGE, DEFORMATION, TONE, STROKES, SECOND, SHARE, SEED)
# Truncation psi of the faces of random drawings.
RANDOM_TRUNCATION = 0.7
# Styles that are kept, for a picture is read once and drawn after many times.
KEPT = 16


class PictureStyle(Style):
    """Draws after any picture; its file holds a config only.

    Args:
        config: of the file.
        name: what its results are called.
        device: where it computes.
    """

    kind = "picture"
    draws_pictures = True
    grids = staticmethod(no_grids)

    def __init__(self, config: Mapping[str, Any], name: str, *, device: torch.device) -> None:
        super().__init__(name, config, self.kind, device=device)
        self._styles: dict[Any, DrawnStyle] = {}

    @classmethod
    def load(cls, path: Path, tensors: dict[str, Tensor], config: dict[str, Any], *, device: torch.device) -> PictureStyle:
        if tensors:
            raise CheckpointError(f"{path}: does not fit: unexpected {', '.join(sorted(tensors)[:3])}; get the file again")
        return cls(config, path.stem, device=device)

    @classmethod
    def controls_of(cls, config: Mapping[str, Any], names: Sequence[str]) -> tuple[Control, ...]:
        return CONTROLS

    @property
    def controls(self) -> tuple[Control, ...]:
        return CONTROLS

    @cached_property
    def _finder(self) -> FaceFinder:
        return FaceFinder()

    def prepare(self, look: Look) -> None:
        self.drawn_in(look)

    @property
    def drawn(self) -> DrawnStyle:
        """What the default look is drawn by."""
        return self.drawn_in(self.default_look())

    def drawn_in(self, look: Look) -> DrawnStyle:
        """Return the style of the pictures of a look; a line tells of one without a face.

        Raises:
            ImageError: naming a picture that cannot be read.
            CheckpointError: for a seed that is no whole number of at least 0.
        """
        found = []
        if look.get(IMAGE.name) is None:
            seed = whole_seed(look.get(SEED.name, 0), SEED)
            found.append(self._kept(seed, lambda: style_of_picture(self.random_picture(seed), lambda: self._finder,
                                                                   device=self.device)[0]))
        for control in (IMAGE, SECOND):
            picture = look.get(control.name)
            if picture is not None:
                picture = picture if isinstance(picture, FileValue) else picture_value(picture)
                found.append(self._kept(picture.digest, partial(self._read, file_path(picture))))
        share = float(look.get(SHARE.name, SHARE.default))
        return found[0] if len(found) == 1 else DrawnStyle.mix(found, [1.0 - share, share])

    def _read(self, path: Path) -> DrawnStyle:
        found, has_face = style_of_picture(read_image(path), lambda: self._finder, device=self.device)
        if not has_face:
            report(f"{path}: no face found in the style picture; its tones are taken as they are, and nothing is deformed")
        return found

    def _kept(self, key: Any, make: Callable[[], DrawnStyle]) -> DrawnStyle:
        """Return the style of a key, read where it is not there."""
        if key not in self._styles:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                self._styles[key] = make()
            while len(self._styles) > KEPT:
                del self._styles[next(iter(self._styles))]
        return self._styles[key]

    def random_picture(self, seed: int) -> Image.Image:
        """Return a random face drawn in a random look of ``data.looks``, both by the seed."""
        z = torch.randn(1, self.latent_shape[1], generator=torch.Generator().manual_seed(seed))
        face = self.random(z, truncation_psi=RANDOM_TRUNCATION)
        with torch.no_grad():
            image = undeformed(self.base, face) if face.photo is None else face.photo
            points = landmarks_in(aligned_mesh(image)[0])
        pixels = random_drawing(image.float().cpu(), points, seed=seed)
        return Image.fromarray((pixels * 255.0).round().astype(np.uint8))

    @torch.no_grad()
    def draw(self, face: Face, look: Look, *, landmarks: np.ndarray | None = None) -> Tensor:
        return draw_faces(self.drawn_in(look), face, self._values(look), picture=partial(undeformed, self.base), grids=no_grids)

    def draw_frame(self, image: Tensor, parts: Tensor, faces: Sequence[FramedFace], look: Look, *,
                   inside: Tensor | None = None) -> Tensor:
        return draw_frame(self.drawn_in(look), image, parts, faces, self._values(look), grids=no_grids, inside=inside)

    def _values(self, look: Look) -> dict[str, Any]:
        return {**{control.name: control.default for control in CONTROLS}, **look}

    def graph(self) -> nn.Module:
        """Return the network with the default look's picture as a constant."""
        from styles.drawn_graph import DrawnGraph

        return DrawnGraph(self.drawn)


def save_picture_style(path: str | Path, *, base: str = "starter") -> None:
    """Write the file of a style that draws after any picture.

    Args:
        path: the file.
        base: name of the generator that random faces come from.
    """
    save_model(path, {}, {"kind": "style", "style_kind": PictureStyle.kind, "base": {"name": base}, "training": {}})
