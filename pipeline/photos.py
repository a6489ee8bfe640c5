"""Restyling one photo into files: the work of a folder run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.builders import landmarks_path
from data.images import read_photo, save_image
from pipeline import cli
from pipeline.batch import Draw, Drawn, Photo, content_digest, settings_digest
from pipeline.latent_files import save_face
from pipeline.stylize import Look, Stylizer, build_stylizer, side_by_side, whole_photo


JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".jif")


@dataclass(frozen=True)
class PhotoSettings:
    """What is done to every photo, in values that travel to other processes.

    Attributes:
        networks: arguments of ``build_stylizer``.
        output: folder of the pictures.
        look: how faces are drawn.
        dtype: arithmetic of the networks.
        paste_back: also write the whole photo with its restyled faces.
        colour: of pasted faces.
        save_latents: also write what each face was inverted to, see ``pipeline.latent_files``.
    """

    networks: dict[str, Any]
    output: Path
    look: Look
    dtype: str = "auto"
    paste_back: bool = False
    colour: str = "style"
    save_latents: bool = False

    def digest(self, stylizer: Stylizer) -> str:
        """Return a digest of everything that changes the pictures: the options and the content of all weights."""
        align = self.networks["align"]
        return settings_digest(
            style=stylizer.style.fingerprint, networks=stylizer.digests(),
            landmarks=align and content_digest(landmarks_path()), faces=self.networks["faces"],
            inversion=self.networks["inversion"], look=repr(self.look), dtype=self.dtype, paste_back=self.paste_back,
            colour=self.paste_back and self.colour, **({"latents": True} if self.save_latents else {}))


def drawer(settings: PhotoSettings, stylizer: Stylizer | None = None) -> Draw:
    """Return the function that restyles one photo; it loads the networks unless they are given."""
    stylizer = stylizer or build_stylizer(**settings.networks)
    dtype = cli.resolve_dtype(settings.dtype, stylizer.device)

    def draw(photo: Photo) -> Drawn:
        (image, origin), path, files, items = read_photo(photo.path), settings.output / photo.stem, [], []
        crops = stylizer.crops(image, name=photo.path)
        for number, crop in enumerate(crops):
            with cli.autocast(stylizer.device, dtype):
                items.append(stylizer.stylize(crop, look=settings.look))
            name = f"{path.name}_face{number}" if len(crops) > 1 else path.name
            files += [path.with_name(f"{name}.png"), path.with_name(f"{name}_side.png")]
            save_image(files[-2], items[-1].result)
            save_image(files[-1], side_by_side(items[-1]))
            if settings.save_latents:
                files.append(path.with_name(f"{name}_latents.npz"))
                save_face(files[-1], items[-1].face, landmarks=crop.places(), fingerprint=stylizer.base.fingerprint)
        if settings.paste_back:
            suffix = ".jpg" if Path(photo.path).suffix.lower() in JPEG_SUFFIXES else ".png"
            files.append(path.with_name(f"{path.name}_photo{suffix}"))
            save_image(files[-1], whole_photo(image, crops, items, colour=settings.colour), origin=origin)
        return Drawn(len(crops), files, "; ".join(origin.notes))

    return draw
