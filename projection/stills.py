"""Landmark projection from files to files: who, which expression, and what is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from checkpoints import atomic_write
from checkpoints.builders import Base, load_base, load_encoder
from checkpoints.features import load_face_id, load_landmark_net
from data.animation import save_animation
from data.images import WriteError, read_image, save_image, to_pil, to_tensor
from losses.identity import IdentityLoss, identity_distance
from models.face import Face
from faces.align import align_face, photo_corners
from pipeline.cli import UserError, report
from projection.expressions import (
    bundled_expression, check_pose, expression_names, file_expression, named, photo_expression, with_landmarks,
)
from faces.landmark_files import SUFFIXES
from faces.find import FaceFinder
from pipeline.latents import LatentCache
from pipeline.perceptual import inversion_objective
from pipeline.sampling import base_of, undeformed
from pipeline.stylize import Crop, InversionSettings, Stylizer, residual_encoder
from styles.controls import Control, Look
from styles.protocol import Style
from styles.registry import load_style
from training.projection import RESOLUTION, Expression, Person, ProjectionSettings, Projector

PANEL = 256
VIDEO_FRAMES = 60


class Plain(Style):
    """No style: faces as their generator draws them."""

    kind = "plain"

    def __init__(self, base: Base) -> None:
        super().__init__("plain", {}, base.fingerprint, device=base.w_avg.device)
        self._base = base

    @classmethod
    def load(cls, path: Path, tensors: dict[str, Tensor], config: dict[str, Any], *, device: torch.device) -> Plain:
        return cls(load_base(path, device=device))

    @classmethod
    def controls_of(cls, config: Mapping[str, Any], names: Sequence[str]) -> tuple[Control, ...]:
        return ()

    @property
    def controls(self) -> tuple[Control, ...]:
        return ()

    def draw(self, face: Face, look: Look, *, landmarks: np.ndarray | None = None) -> Tensor:
        return undeformed(self.base, face)


def identity_of(loss: IdentityLoss) -> Callable[[Tensor], Callable[[Tensor], Tensor]]:
    """Return what makes, of a photo, the function of pictures that tells their identity distance from it."""
    def against(photo: Tensor) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            target = loss.embed(photo)
        return lambda image: identity_distance(loss.embed(image), target)

    return against


@dataclass(frozen=True)
class Studio:
    """Networks of a run: ``stylizer`` finds, aligns and inverts, ``projector`` projects; ``look`` draws with a style."""

    stylizer: Stylizer
    projector: Projector
    look: Look

    @property
    def has_style(self) -> bool:
        return not isinstance(self.stylizer.style, Plain)

    def crop(self, photo: Image.Image, *, name: str) -> Crop:
        """Return the largest aligned face of a photo; a line tells of further ones.

        Raises:
            UserError: naming the photo, where there is no face.
        """
        found = self.stylizer.finder.told(photo, name=name)
        if len(found) > 1:
            report(f"{name}: has {len(found)} faces; the largest is taken")
        points, size = found[0].landmarks, self.stylizer.size
        return Crop(align_face(photo, points, output_size=size), photo_corners(points, photo.size, output_size=size), points)

    def tensor(self, aligned: Image.Image) -> Tensor:
        """Return an aligned face as [1, 3, S, S]."""
        return to_tensor(aligned, self.stylizer.size).to(self.stylizer.device)

    def person(self, path: Path) -> Person:
        """Return the person of a photo, inverted.

        Raises:
            UserError, ImageError: in one line.
        """
        aligned = self.crop(read_image(path), name=str(path)).image
        photo = self.tensor(aligned)
        points = self.projector.points(photo)
        check_pose(points, name=str(path))
        return Person(self.stylizer.invert(aligned), photo, points)

    def expression(self, target: str, person: Person) -> Expression:
        """Return what a name, a landmark file or a photo asks for.

        Raises:
            UserError, ImageError: in one line.
        """
        name, path = named(target), Path(target)
        if name is not None and not path.exists():
            return bundled_expression(name, self.projector, person.points)
        if path.suffix.lower() in SUFFIXES:
            return file_expression(path, self.projector)
        if not path.exists():
            raise UserError(f"{target}: not found; give a photo, a folder, a clip, a landmark file ({', '.join(SUFFIXES)}) or "
                            f"one of {', '.join(expression_names())}")
        return photo_expression(self.tensor(self.crop(read_image(path), name=target).image), self.projector, name=target)

    def drawn(self, face: Face, points: Tensor) -> Tensor:
        """Return the picture of a projected face by the style; ``points`` [68, 2] are where its landmarks are."""
        return self.stylizer.restyle(face, look=self.look, landmarks=points.cpu().numpy())


def build_studio(
    settings: ProjectionSettings, *, style: str | None = None, base: str | None = None, encoder: str | None = None,
    inversion: InversionSettings | None = None, look: Look | None = None, cache: Path | None = None,
    device: torch.device | str = "cpu",
) -> Studio:
    """Load the networks of a run.

    Args:
        settings: how to project.
        style: draws the projected faces; None leaves them as the generator draws them.
        base, encoder: None takes those of the style, else the starter's.
        inversion: how the look's photo becomes a face; its features must be of 32 px.
        look: values of the style's controls.
        cache: folder of latents.
        device: where to compute.

    Raises:
        CheckpointError: naming the file that is absent or does not fit.
    """
    inversion, device = inversion or InversionSettings("e4e+optimize", 50, residual=RESOLUTION), torch.device(device)
    loaded = load_style(style, device=device) if style else Plain(load_base(base or "starter", device=device))
    ground = base_of(loaded, name=base) if style else loaded.base
    made = load_encoder(encoder or ground.name, device=device) if inversion.mode != "optimize" else None
    beside = residual_encoder(ground, inversion.residual, device=device) if inversion.mode == "e4e" else None
    stylizer = Stylizer(loaded, ground, encoder=made, objective=lambda: inversion_objective(device), settings=inversion,
                        cache=LatentCache(cache), finder=FaceFinder(), residual=beside)
    identity = identity_of(IdentityLoss(load_face_id(device=device).module)) if settings.identity_weight else None
    network = load_landmark_net(device=device).module
    return Studio(stylizer, Projector(ground.generator, network, settings, identity=identity), look or Look())


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
    """Project one photo to one expression and write the published outputs and a side-by-side.

    Returns:
        The files.

    Raises:
        UserError, ImageError: in one line.
    """
    person = studio.person(look)
    expression = studio.expression(target, person)
    # Landmarks that come from no photo are shown on grey.
    shown = with_landmarks(None, expression.points)
    if expression.donor_points is expression.points:
        shown = to_pil(expression.donor)
    projector = studio.projector
    film = Film(projector.settings.steps, lambda image: row([
        person.photo, image, with_landmarks(image, projector.points(image)), shown])) if save_video else None
    done = projector.project(person, expression, progress=film)
    drawn = [studio.drawn(done.face, done.goal)] if studio.has_style else []
    pictures = {"proj.png": done.image, "target_look.png": person.photo, "target_landmarks.png": shown,
                "side_by_side.png": row([person.photo, shown, done.image, *drawn])}
    if drawn:
        pictures[f"{studio.stylizer.style.name}_proj.png"] = drawn[0]
    files = [outdir / name for name in pictures]
    for path, picture in zip(files, pictures.values(), strict=True):
        save_image(path, picture)
    save_latents(outdir / "projected_w.npz", done.face.w_plus, done.face.residual)
    files.append(outdir / "projected_w.npz")
    if film is not None:
        files.append(write_film(outdir / "proj.mp4", film.frames))
    return files


def write_film(path: Path, frames: Sequence[Image.Image]) -> Path:
    """Write frames as MP4; raises WriteError."""
    try:
        save_animation(path, frames)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error}); free space or choose another folder") from error
    return path
