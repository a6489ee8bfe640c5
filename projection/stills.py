"""Another's expression from files to files: who, which expression, and what is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from checkpoints import atomic_write
from data.animation import save_animation
from data.images import WriteError, image_tensor, read_image, save_image, to_pil, to_tensor
from drawing.context import aligned_mesh
from drawing.expressed import expressed
from drawing.expression import shares_of, with_expression
from drawing.style import FRAME
from faces.align import align_face, photo_corners
from faces.find import FaceFinder
from faces.landmark_files import SUFFIXES
from faces.mesh import landmarks_of
from pipeline.cli import UserError, report
from pipeline.stylize import Crop, Stylizer
from projection.expressions import (
    Expression,
    check_pose,
    expression_names,
    file_expression,
    named,
    named_expression,
    photo_expression,
    with_landmarks,
)
from styles.controls import Look

PANEL = 256
VIDEO_FRAMES = 60
# Pictures of a film from a person's own expression to the wanted one.
MORPH = 24
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


@dataclass(frozen=True)
class Person:
    """Who.

    Attributes:
        photo: the whole photo.
        corners: of the face's frame in px of the photo, top left, top right and bottom left, [3, 2].
        aligned: the face [1, 3, S, S].
        mesh: [468, 3] as fractions of the frame's side.
    """

    photo: Image.Image
    corners: np.ndarray
    aligned: Tensor
    mesh: np.ndarray


@dataclass(frozen=True)
class Studio:
    """What a run needs: a finder, how far each part goes, see ``shares_of``, and what draws the result in a style, if any."""

    finder: FaceFinder
    parts: Mapping[str, float] = field(default_factory=dict)
    stylizer: Stylizer | None = None
    look: Look | None = None

    @property
    def side(self) -> int:
        """Side in px of the pictures of a film."""
        return FRAME if self.stylizer is None else self.stylizer.size

    def crop(self, photo: Image.Image, *, name: str) -> Crop:
        """Return the largest aligned face of a photo; a line tells of further ones.

        Raises:
            UserError: naming the photo, where there is no face.
        """
        found = self.finder.told(photo, name=name)
        if len(found) > 1:
            report(f"{name}: has {len(found)} faces; the largest is taken")
        points = found[0].landmarks
        return Crop(align_face(photo, points, output_size=FRAME), photo_corners(points, photo.size, output_size=FRAME), points,
                    found[0].mesh)

    def person(self, path: Path) -> Person:
        """Return the person of a photo.

        Raises:
            UserError, ImageError: in one line.
        """
        photo = read_image(path)
        crop = self.crop(photo, name=str(path))
        aligned, mesh = seen(crop)
        check_pose(landmarks_of(mesh), name=str(path))
        return Person(photo, crop.corners[[0, 3, 1]], aligned, mesh)

    def expression(self, target: str, person: Person) -> tuple[Expression, Image.Image]:
        """Return what a name, a landmark file or a photo asks for, and a picture of it.

        Raises:
            UserError, ImageError: in one line.
        """
        name, path = named(target), Path(target)
        if name is not None and not path.exists():
            found = named_expression(name, person.mesh)
            return found, with_landmarks(None, landmarks_of(with_expression(person.mesh, found.measures)))
        if path.suffix.lower() in SUFFIXES:
            found, points = file_expression(path)
            return found, with_landmarks(None, points)
        if not path.exists():
            raise UserError(f"{target}: not found; give a photo, a folder, a clip, a landmark file ({', '.join(SUFFIXES)}) or "
                            f"one of {', '.join(expression_names())}")
        crop = self.crop(read_image(path), name=target)
        return photo_expression(*seen(crop), name=target), crop.image

    def wanted(self, person: Person, expression: Expression, *, share: float = 1.0) -> np.ndarray:
        """Return the person's mesh [468, 3] with an expression, or on the way to it."""
        return with_expression(person.mesh, expression.measures, share * shares_of(self.parts))

    def face(self, person: Person, expression: Expression, *, share: float = 1.0) -> Tensor:
        """Return the person's aligned face [1, 3, S, S] with an expression."""
        wanted = self.wanted(person, expression, share=share)
        return expressed(person.aligned, CORNERS * person.aligned.shape[3], person.mesh, wanted, donor=expression.donor)

    def whole(self, person: Person, expression: Expression) -> Image.Image:
        """Return the whole photo in which the person has an expression."""
        made = expressed(image_tensor(person.photo), person.corners, person.mesh, self.wanted(person, expression),
                         donor=expression.donor)
        return to_pil(made)

    def drawn(self, face: Tensor) -> Image.Image:
        """Return an aligned face [1, 3, S, S] drawn in the run's style."""
        return to_pil(self.stylizer.stylize(to_pil(face), look=self.look).result)


def seen(crop: Crop) -> tuple[Tensor, np.ndarray]:
    """Return an aligned face [1, 3, S, S] and its mesh [468, 3] as fractions of the side."""
    image = to_tensor(crop.image, crop.image.width)
    places = crop.mesh_places()
    return image, (aligned_mesh(image)[0] if places is None else places)[0].cpu().numpy().astype(np.float64)


class Film:
    """Pictures of an optimisation, about sixty, evenly spaced.

    Args:
        steps: of the optimisation.
        panel: turns a picture [1, 3, S, S] into a frame.
    """

    def __init__(self, steps: int, panel: Callable[[Tensor], Image.Image]) -> None:
        self.every, self.panel, self.frames = max(1, steps // VIDEO_FRAMES), panel, []

    def __call__(self, step: int, image: Tensor) -> None:
        if step % self.every == 0:
            self.frames.append(self.panel(image))


def row(pictures: Sequence[Image.Image | Tensor], *, side: int = PANEL) -> Image.Image:
    """Return pictures side by side."""
    canvas = Image.new("RGB", (side * len(pictures), side))
    for index, picture in enumerate(pictures):
        image = picture if isinstance(picture, Image.Image) else to_pil(picture)
        canvas.paste(image.resize((side, side), Image.Resampling.LANCZOS), (side * index, 0))
    return canvas


def save_latents(path: Path, w_plus: Tensor, residual: Tensor | None = None) -> None:
    """Write ``w`` [1, L, D] and, if there is one, ``residual`` [1, C, 32, 32] as NPZ, atomically."""
    arrays = {"w": w_plus.cpu().numpy()} | ({} if residual is None else {"residual": residual.cpu().numpy()})
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def project_photo(studio: Studio, look: Path, target: str, outdir: Path, *, save_video: bool) -> list[Path]:
    """Give the person of a photo an expression and write the published outputs, a side-by-side and the whole photo.

    Returns:
        The files.

    Raises:
        UserError, ImageError: in one line.
    """
    person = studio.person(look)
    expression, shown = studio.expression(target, person)
    face = studio.face(person, expression)
    drawn = [studio.drawn(face)] if studio.stylizer is not None else []
    pictures = {"proj.png": face, "photo.png": studio.whole(person, expression), "target_look.png": person.aligned,
                "target_landmarks.png": shown,
                "side_by_side.png": row([person.aligned, shown, face, *drawn], side=person.aligned.shape[3])}
    if drawn:
        pictures[f"{studio.stylizer.style.name}_proj.png"] = drawn[0]
    files = [outdir / name for name in pictures]
    for path, picture in zip(files, pictures.values(), strict=True):
        save_image(path, picture)
    if save_video:
        shares = torch.linspace(0.0, 1.0, MORPH).tolist()
        files.append(write_film(outdir / "proj.mp4", [to_pil(studio.face(person, expression, share=share)) for share in shares]))
    return files


def write_film(path: Path, frames: Sequence[Image.Image]) -> Path:
    """Write frames as MP4; raises WriteError."""
    try:
        save_animation(path, frames)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error}); free space or choose another folder") from error
    return path
