"""What the page computes: photos prepared once and drawn often, random faces."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image

from checkpoints import CheckpointError
from checkpoints.paths import find_style, style_names
from data.grids import grid
from data.images import ImageError, image_tensor, read_image, to_pil
from faces.find import FaceFinder, FinderSettings
from models.face import Face
from pipeline import sampling
from pipeline.cli import UserError
from pipeline.photos import side_by_side, whole_photo
from pipeline.stylize import (
    Crop,
    InversionSettings,
    Stylized,
    Stylizer,
    build_stylizer,
)
from styles.controls import Control, Look
from styles.registry import controls_of, parse_recipe

KEPT_PHOTOS = 16
KEPT_STYLES = 3
MENDABLE = (UserError, ImageError, CheckpointError)


@dataclass(frozen=True)
class Prepared:
    """A photo with its aligned faces and their inversions, ready to be drawn."""

    photo: Image.Image
    crops: list[Crop]
    faces: list[Face]


@dataclass(frozen=True)
class Wish:
    """What the page asks for: values of the style's controls, truncation (0 the average face), the view, and how faces are found,
    None as the page was started."""

    look: Look = field(default_factory=Look)
    truncation: float = 1.0
    view: str = "photo and result"
    finder: FinderSettings | None = None


def truncated(face: Face, w_avg: torch.Tensor, psi: float) -> Face:
    """Return faces moved towards the average one, w_avg + psi (w_plus - w_avg), and psi times the residual; the photo stays."""
    if psi == 1.0:
        return face
    return replace(face, w_plus=w_avg + psi * (face.w_plus - w_avg),
                   residual=None if face.residual is None else psi * face.residual)


def shown(item: Stylized, view: str) -> torch.Tensor:
    """Return one face as a view wants it, [1, 3, S, W]."""
    if view == "face":
        return item.result
    return side_by_side(item, inversion=view == "with inversion")


class Cache(OrderedDict):
    """The most recently used few entries."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def take(self, key, make):  # noqa: ANN001, ANN201 - any key and value
        """Return the entry, made where it is not there."""
        if key not in self:
            self[key] = make()
        self.move_to_end(key)
        while len(self) > self.size:
            self.popitem(last=False)
        return self[key]


class Studio:
    """Networks and photos of a running page; one thread at a time.

    Args:
        device: where to compute.
        faces: which faces of a photo.
        finder: how they are found where a wish does not say.
    """

    def __init__(self, *, device: torch.device | str = "cpu", faces: str = "all",
                 finder: FinderSettings = FinderSettings()) -> None:
        self.device, self.faces, self.finder = torch.device(device), faces, finder
        self.stylizers: Cache = Cache(KEPT_STYLES)
        self.photos: Cache = Cache(KEPT_PHOTOS)

    def controls(self, style: str) -> tuple[Control, ...]:
        """Return the controls of a style; raises UserError and CheckpointError in one line."""
        self._check(style)
        return controls_of(style)

    def pictures(self, style: str) -> dict[str, dict[str, Image.Image]]:
        """Return, by control, the small pictures of its choices; the style is loaded where it has such a control."""
        choices = [control.name for control in self.controls(style) if control.type == "choice"]
        return {name: self.stylizer(style).style.pictures(name) for name in choices}

    @staticmethod
    def _check(style: str) -> None:
        for name, _ in parse_recipe(style) or [(style, 1.0)]:
            if name not in style_names():
                raise UserError(f"no such style {name!r}; choose one of the list, or train one")

    def stylizer(self, style: str, *, refine: bool = False, finder: FinderSettings | None = None) -> Stylizer:
        """Return the networks of a style, loaded once; a file that has changed is loaded again."""
        self._check(style)
        times = tuple(find_style(name).stat().st_mtime_ns for name, _ in parse_recipe(style) or [(style, 1.0)])
        mode = "e4e+optimize" if refine else "e4e"
        finder = finder or self.finder
        return self.stylizers.take((style, times, mode, finder), lambda: build_stylizer(
            style, inversion=InversionSettings(mode), faces=self.faces, finder=finder, device=self.device))

    def prepare(self, path: str | Path, style: str, *, refine: bool = False, finder: FinderSettings | None = None) -> Prepared:
        """Read a photo, find its faces and invert them; kept by the photo's content and the base.

        Raises:
            UserError, ImageError, CheckpointError: in one line.
        """
        stylizer = self.stylizer(style, refine=refine, finder=finder)
        photo = read_image(path)
        key = (hashlib.sha256(photo.tobytes()).hexdigest(), photo.size, stylizer.base.fingerprint, stylizer.size, refine, finder)

        def make() -> Prepared:
            crops = stylizer.crops(photo, name=Path(path).name)
            return Prepared(photo, crops, [stylizer.known(crop, stylizer.invert(crop.image)) for crop in crops])

        return self.photos.take(key, make)

    def draw(self, path: str | Path, style: str, wish: Wish, *, refine: bool = False) -> Image.Image:
        """Return the restyled photo in a view: photo and result, with inversion, face, or whole photo."""
        stylizer = self.stylizer(style, refine=refine, finder=wish.finder)
        stylizer.style.prepare(wish.look)  # a look that cannot be drawn is told of before a photo is inverted
        prepared, items = self.prepare(path, style, refine=refine, finder=wish.finder), []
        faces = [truncated(face, stylizer.base.w_avg, wish.truncation) for face in prepared.faces]
        if wish.view == "whole photo" and stylizer.style.draws_pictures:
            framed = [stylizer.framed(*each) for each in zip(prepared.crops, faces, strict=True)]
            return to_pil(stylizer.draw_framed(image_tensor(prepared.photo).to(self.device), framed, look=wish.look))
        for crop, face in zip(prepared.crops, faces, strict=True):
            drawn = stylizer.restyle(face, look=wish.look, landmarks=crop.places())
            items.append(stylizer.stylized(crop, face, drawn))
        if wish.view == "whole photo":
            return whole_photo(prepared.photo, prepared.crops, items)
        rows = [shown(item, wish.view) for item in items]
        return to_pil(torch.cat([row.cpu() for row in rows], dim=2))

    @torch.no_grad()
    def random_faces(self, style: str, wish: Wish, *, seed: int, count: int) -> Image.Image:
        """Return ``count`` random faces above their restyled selves."""
        loaded, base = self.stylizer(style).style, self.stylizer(style).base
        loaded.prepare(wish.look)
        indices = list(range(count))
        faces = sampling.random_faces(loaded, seed, indices, truncation_psi=wish.truncation)
        originals = sampling.originals_of(base, faces, seed, indices, truncation_psi=wish.truncation)
        marks = sampling.face_landmarks(originals, FaceFinder()) if wish.look.has_regions else None
        drawn = loaded.draw(faces, wish.look, landmarks=marks)
        return grid([list(originals.cpu()), list(drawn.float().cpu())], cell=min(256, originals.shape[3]))
