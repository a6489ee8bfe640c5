"""Drawing and training from Python, a line or two each.

    from pipeline.api import Stylizer, train

    ink = Stylizer("ink")
    ink.photo("me.jpg").save("me_ink.jpg")
    ink.photo("me.jpg", alpha=0.5, frame="crop").save("face.png")
    for number, face in enumerate(ink.samples(4, seed=7)):
        face.save(f"face_{number}.png")
    train("real.png", "drawn.png", "mine").photo("me.jpg").save("me_mine.jpg")
"""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from data.images import read_photo, save_image, to_pil
from data.origin import Origin
from faces.find import FaceFinder
from pipeline import sampling
from pipeline.cli import UserError, resolve_device
from pipeline.stylize import InversionSettings, build_stylizer
from styles.controls import Look

__all__ = ["Picture", "Stylizer", "train"]

FRAMES = ("auto", "photo", "face", "crop")
Pictures = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Picture:
    """A drawn picture.

    Attributes:
        image: 8 bit RGB.
        origin: what the photo's file said beside its pixels, which goes into files of this picture; None for faces cut out of it.
    """

    image: Image.Image
    origin: Origin | None = None

    def save(self, path: str | Path) -> Path:
        """Write a PNG, or a JPEG by suffix, and return its path; raises ``data.images.WriteError`` where it cannot be written."""
        save_image(path, self.image, origin=self.origin)
        return Path(path)


class Stylizer:
    """A style that draws photos and random faces.

    Args:
        style: a name (``python -m styles list`` shows them), a file, or a mixture such as ``"ink:0.7,vangogh:0.3"``.
        device: auto, cpu, cuda or mps.

    Attributes:
        controls: what can be set by keywords of ``photo`` and ``samples``; each has ``name``, ``help``, ``default``, ``low`` and
            ``high``.

    Raises:
        checkpoints.CheckpointError: if there is no such style, or its file is damaged.
    """

    def __init__(self, style: str | Path, *, device: str = "auto") -> None:
        self._whole = build_stylizer(str(style), inversion=InversionSettings(None), faces="all", device=resolve_device(device))
        self.controls = self._whole.style.controls

    def __repr__(self) -> str:
        return f"Stylizer({self._whole.style.name!r})"

    def photo(self, photo: str | Path | Image.Image, *, frame: str = "auto", **controls: Any) -> Picture:
        """Return a photo drawn in the style.

        Args:
            photo: a file, or an image.
            frame: "photo" draws all of it, "face" its faces and leaves the rest as it is, "crop" gives its largest face, cut out
                and aligned; "auto" is "photo" where the style draws whole photos, else "crop".
            controls: values by name, such as ``alpha=0.5`` or ``alpha="eyes=1.2,mouth=0.4"``; see ``controls``.

        Raises:
            UserError: naming the photo, if there is no face in it.
            data.images.ImageError: if the file cannot be read.
            ValueError: for another frame, or controls that the style does not have.
        """
        whole = self._whole
        if frame not in FRAMES:
            raise ValueError(f"frame must be one of {FRAMES}, got {frame!r}")
        look = self._look(controls, samples=False)
        name = "photo" if isinstance(photo, Image.Image) else str(photo)
        image, origin = (photo.convert("RGB"), None) if isinstance(photo, Image.Image) else read_photo(photo)
        crops = whole.crops(image, name=name)
        draws_pictures = whole.style.draws_pictures
        if frame == "crop" or (frame == "auto" and not draws_pictures):
            return Picture(to_pil(whole.stylize(crops[0], look=look).result))
        if not draws_pictures:
            raise ValueError(f"frame {frame!r}: the style {whole.style.name!r} draws aligned faces alone; use frame='crop'")
        return Picture(to_pil(whole.draw_frame(image, crops, look=look, surroundings=frame != "face")), origin)

    def samples(self, count: int, *, seed: int = 0, **controls: Any) -> list[Picture]:
        """Return ``count`` random faces drawn in the style: the same ones for the same seed, however many are asked for.

        Raises:
            ValueError: for a count below 1, or controls that the style does not have.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        style, look = self._whole.style, self._look(controls, samples=True)
        pictures = []
        for index in range(count):
            face = sampling.random_faces(style, seed, [index], truncation_psi=sampling.default_truncation(style))
            landmarks = None
            if look.has_regions and not style.draws_pictures:
                landmarks = sampling.face_landmarks(sampling.shown(self._whole.base, face), FaceFinder())
            with torch.no_grad():
                pictures.append(Picture(to_pil(style.draw(face, look, landmarks=landmarks))))
        return pictures

    def _look(self, controls: dict[str, Any], *, samples: bool) -> Look:
        known = {control.name: control for control in self.controls}
        strange = sorted(set(controls) - set(known))
        if strange:
            raise ValueError(f"the style {self._whole.style.name!r} has no control {strange[0]!r}; it has "
                             f"{', '.join(known) or 'none'}")
        values = {}
        for name, value in controls.items():
            try:
                values[name] = known[name].parse(str(value)) if isinstance(value, (str, Path)) else value
            except ArgumentTypeError as error:
                raise ValueError(f"{name}: {error}") from error
        return self._whole.style.default_look(samples=samples).changed(**values)


def train(source: Pictures | None, target: Pictures, name: str, **settings: Any) -> Stylizer:
    """Train a style as ``train.py`` does, write ``checkpoints/NAME.safetensors``, and return the style.

    Args:
        source: aligned real face, or several; None for a drawing alone.
        target: the same face as drawn, one for each source.
        name: of the style.
        settings: further options of ``train.py``: ``num_iter=40``, ``align=True``, ``overwrite=True``; True gives an option
            alone, False leaves it out.

    Raises:
        UserError: for pictures that show no face, or settings that are unknown.
        checkpoints.CheckpointError: for a style or a run of that name that is there already; ``overwrite=True`` replaces it.
    """
    import train as script

    words = ["--style", name]
    for option, pictures in (("--source", source), ("--target", target)):
        if pictures is not None:
            words += [option, *([str(pictures)] if isinstance(pictures, (str, Path)) else map(str, pictures))]
    for option, value in settings.items():
        words += [] if value is False else [f"--{option}"] if value is True else [f"--{option}", str(value)]
    try:
        code = script.run(script.parse(words))
    except SystemExit as error:
        raise UserError(f"train: {' '.join(words)}: not understood; `python train.py --help` lists the settings") from error
    if code:
        raise UserError(f"{name}: training was interrupted; train(..., resume=True) goes on with it")
    return Stylizer(name)
