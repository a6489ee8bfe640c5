"""Restyling one photo into files: the work of a folder run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from data.images import read_photo, save_image, to_pil, to_tensor
from data.origin import Origin
from pipeline import cli
from pipeline.batch import Draw, Drawn, Photo, content_digest, settings_digest
from pipeline.latent_files import save_face
from pipeline.paste import paste_back
from pipeline.stylize import Crop, Look, Stylized, Stylizer, build_stylizer

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif")


@dataclass(frozen=True)
class PhotoSettings:
    """What is done to every photo, in values that travel to other processes.

    Attributes:
        networks: arguments of ``build_stylizer``.
        output: folder of the pictures.
        look: how faces are drawn.
        dtype: arithmetic of the networks.
        frame: what is drawn: "photo", all of it, "face", its faces in their surroundings, or "crop", aligned faces; "auto" is the
            photo where the style draws photos and faces are found, else aligned faces.
        size: longer side of a drawn photo in px; 0 for its own.
        colour: of pasted faces.
        save_latents: also write what each face was inverted to, see ``pipeline.latent_files``.
    """

    networks: dict[str, Any]
    output: Path
    look: Look
    dtype: str = "auto"
    frame: str = "auto"
    size: int = 0
    colour: str = "style"
    save_latents: bool = False

    def digest(self, stylizer: Stylizer) -> str:
        """Return a digest of everything that changes the pictures: the options and the content of all weights."""
        finder = self.networks["finder"] if self.networks["align"] else None
        return settings_digest(
            style=stylizer.style.fingerprint, networks=stylizer.digests(),
            finder=repr(finder), landmarks=finder and content_digest(finder.weights()), faces=self.networks["faces"],
            inversion=self.networks["inversion"], look=repr(self.look), dtype=self.dtype, frame=self.frame, size=self.size,
            colour=self.frame == "face" and self.colour, **({"latents": True} if self.save_latents else {}))

    def frame_of(self, stylizer: Stylizer) -> str:
        """Return what is drawn with the styles and settings of a stylizer."""
        if self.frame != "auto":
            return self.frame
        return "photo" if stylizer.style.draws_pictures and stylizer.finder is not None else "crop"


def drawer(settings: PhotoSettings, stylizer: Stylizer | None = None) -> Draw:
    """Return the function that restyles one photo; it loads the networks unless they are given."""
    stylizer = stylizer or build_stylizer(**settings.networks)
    dtype = cli.resolve_dtype(settings.dtype, stylizer.device)

    def draw(photo: Photo) -> Drawn:
        image, origin = read_photo(photo.path)
        with cli.autocast(stylizer.device, dtype):
            if stylizer.style.draws_pictures and settings.frame_of(stylizer) != "crop":
                return drawn_picture(settings, stylizer, photo, image, origin)
            return drawn_faces(settings, stylizer, photo, image, origin)

    return draw


def drawn_picture(settings: PhotoSettings, stylizer: Stylizer, photo: Photo, image: Image.Image, origin: Origin) -> Drawn:
    """Draw a whole photo, or its faces in their surroundings, into one file."""
    if settings.size:
        scale = settings.size / max(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
    crops = stylizer.crops(image, name=photo.path)
    result = stylizer.draw_frame(image, crops, look=settings.look, surroundings=settings.frame_of(stylizer) == "photo")
    output = settings.output / photo.stem
    file = output.with_name(output.name + suffix_of(photo))
    save_image(file, to_pil(result), origin=origin)
    files = [file]
    for number, crop in enumerate(crops if settings.save_latents else ()):
        name = f"{output.name}_face{number}" if len(crops) > 1 else output.name
        files.append(output.with_name(f"{name}_latents.npz"))
        save_face(files[-1], stylizer.invert(crop.image), landmarks=crop.places(), fingerprint=stylizer.base.fingerprint)
    return Drawn(len(crops), files, "; ".join(origin.notes))


def drawn_faces(settings: PhotoSettings, stylizer: Stylizer, photo: Photo, image: Image.Image, origin: Origin) -> Drawn:
    """Draw the aligned faces of a photo into files, and paste them back where that is asked for."""
    path, files, items = settings.output / photo.stem, [], []
    crops = stylizer.crops(image, name=photo.path)
    if settings.frame == "auto" and stylizer.faces == "all":
        crops = crops[:1]
    for number, crop in enumerate(crops):
        items.append(stylizer.stylize(crop, look=settings.look))
        name = f"{path.name}_face{number}" if len(crops) > 1 else path.name
        files += [path.with_name(f"{name}.png"), path.with_name(f"{name}_side.png")]
        save_image(files[-2], items[-1].result)
        save_image(files[-1], side_by_side(items[-1], inversion=not stylizer.style.draws_pictures))
        if settings.save_latents:
            files.append(path.with_name(f"{name}_latents.npz"))
            save_face(files[-1], items[-1].face, landmarks=crop.places(), fingerprint=stylizer.base.fingerprint)
    if settings.frame in ("photo", "face"):
        files.append(path.with_name(f"{path.name}_photo{suffix_of(photo)}"))
        save_image(files[-1], whole_photo(image, crops, items, colour=settings.colour), origin=origin)
    return Drawn(len(crops), files, "; ".join(origin.notes))


def suffix_of(photo: Photo) -> str:
    """Return the ending of a picture made of a photo: JPEG stays JPEG, all else is PNG."""
    return ".jpg" if Path(photo.path).suffix.lower() in JPEG_SUFFIXES else ".png"


def whole_photo(photo: Image.Image, crops: list[Crop], items: list[Stylized], *, colour: str = "style") -> Image.Image:
    """Return the photo with its restyled faces blended in, the smallest first so that nearer faces lie on top."""
    result = photo.copy()
    for crop, item in reversed(list(zip(crops, items, strict=True))):
        paste_back(result, to_pil(item.result), crop.corners, original=crop.image, colour=colour,
                   outlines=item.outlines, background=item.background, in_place=True)
    return result


def side_by_side(item: Stylized, *, inversion: bool) -> Tensor:
    """Return the aligned photo, its inversion if wanted, and the result in one row, [1, 3, S, 2S or 3S]."""
    size = item.result.shape[3]
    photo = to_tensor(item.aligned, size).to(item.result.device)
    parts = [photo, *([item.inverted] if inversion else []), item.result]
    return torch.cat([F.interpolate(p, size=(size, size), mode="bilinear") if p.shape[3] != size else p
                      for p in parts], dim=3).clamp(-1.0, 1.0)
