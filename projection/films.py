"""Animations: one person with the expressions of a clip or of a folder of photos, in segments that survive being killed."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.images import read_image, save_image, to_pil
from data.landmarks68 import eye_distance
from models.face import Face
from pipeline import video_io
from faces.align import align_face
from pipeline.batch import file_state, settings_digest
from pipeline.cli import UserError, report
from pipeline.clip_drawer import load_tracker, tracker_state
from projection.expressions import check_pose
from pipeline.naming import Photo
from projection.stills import Studio, save_latents
from pipeline.smoothing import Jitter, OneEuro
from faces.tracking import FaceTracker
from pipeline.video import draw_clip
from training.projection import Expression, Person, Projection

STORED = ("rows", "features", "w_plus", "residual", "goal")


@dataclass(frozen=True)
class AnimationSettings:
    """How an animation is made.

    Attributes:
        first_steps, steps: of the first frame and of every further one, which starts from the last.
        smooth: of the landmarks over time, 0..1.
        halfway: also write a frame halfway between each two.
        every: frames between detections.
        segment: frames per segment, the unit of resuming.
        quality: constant rate factor of H.264.
    """

    first_steps: int = 30
    steps: int = 2
    smooth: float = 0.5
    halfway: bool = False
    every: int = 5
    segment: int = 10
    quality: int = 14


@dataclass(frozen=True)
class AnimationReport:
    """Frames, those without a usable face, and how much the result shakes against the clip (NaN where unknown)."""

    frames: int
    faceless: int
    jitter_ratio: float


class Tracked:
    """Aligned faces of a clip: the largest face, followed and smoothed."""

    def __init__(self, studio: Studio, settings: AnimationSettings) -> None:
        self.size = studio.stylizer.size
        self.tracker = FaceTracker(studio.stylizer.finder, smooth=settings.smooth, every=settings.every)

    def find(self, image: Image.Image, *, seconds: float) -> tuple[Image.Image | None, np.ndarray | None]:
        """Return the aligned face, and its landmarks [68, 2] in px as they were found; nothing where there is none."""
        tracks = self.tracker.update(image, seconds=seconds)
        if not tracks:
            return None, None
        try:
            return align_face(image, tracks[0].landmarks, output_size=self.size), tracks[0].raw
        except ValueError:  # landmarks that left the frame
            return None, None

    def state(self) -> dict[str, Any]:
        """Return what ``load`` goes on from."""
        return tracker_state(self.tracker)

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        load_tracker(self.tracker, state)


class Separate:
    """Aligned faces of photos, each for itself."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def find(self, image: Image.Image, *, seconds: float) -> tuple[Image.Image | None, np.ndarray | None]:
        """Return the aligned face or nothing."""
        try:
            return self.studio.crop(image, name=image.info.get("name", "photo")).image, None
        except UserError as error:
            report(error)
            return None, None

    def state(self) -> dict[str, Any]:
        """Photos hang on nothing."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Photos hang on nothing."""


class ProjectionDrawer:
    """Draws one person with the expression of every frame; its state can be saved between segments.

    Args:
        studio: networks.
        person: who.
        source: finds the aligned face of a frame.
        settings: how.
        keep: called with the frame's number, whether it is halfway, its face and the picture.
    """

    def __init__(self, studio: Studio, person: Person, source: Tracked | Separate, settings: AnimationSettings, *,
                 keep: Callable[[int, bool, Face, Image.Image], None] | None = None) -> None:
        self.studio, self.person, self.source, self.settings, self.keep = studio, person, source, settings, keep
        self.points = OneEuro(settings.smooth, scale=float(eye_distance(person.points.cpu().numpy())))
        self.filmed, self.made = Jitter(), Jitter()
        self.after: Projection | None = None
        self.totals: dict[str, Any] = {"frames": 0, "faceless": 0}
        self.last: float | None = None
        self.last_pts = 0

    def pictures(self, frames: Iterable[tuple[video_io.ClipFrame, float]]) -> Iterator[video_io.ClipFrame]:
        """Yield the person with the expressions of frames, which come with their seconds, and pictures halfway between."""
        for frame, at in frames:
            yield from self._pictures(frame, at=at)

    def _pictures(self, frame: video_io.ClipFrame, *, at: float) -> Iterator[video_io.ClipFrame]:
        """Yield the person with the expression of a frame, and before it the picture halfway from the last one."""
        before, factor, last_pts = self.after, 2 if self.settings.halfway else 1, self.last_pts
        seconds = 0.0 if self.last is None else at - self.last
        self.last, self.last_pts = at, frame.pts
        now = self._project(frame.image, seconds=seconds)
        if self.settings.halfway and before is not None:
            face = Face((before.face.w_plus + now.face.w_plus) / 2, (before.face.residual + now.face.residual) / 2)
            picture = self._picture(face, (before.goal + now.goal) / 2)
            self._keep(frame.number, True, face, picture)
            # The time base is halved, so the middle of two stamps is their sum.
            yield replace(frame, pts=frame.pts + last_pts, image=picture)
        picture = self._picture(now.face, now.goal)
        self._keep(frame.number, False, now.face, picture)
        self.totals["frames"] += 1
        yield replace(frame, pts=frame.pts * factor, image=picture)

    def _keep(self, number: int, halfway: bool, face: Face, picture: Image.Image) -> None:
        if self.keep is not None:
            self.keep(number, halfway, face, picture)

    def _picture(self, face: Face, goal: Tensor) -> Image.Image:
        return to_pil(self.studio.drawn(face, goal))

    def _project(self, image: Image.Image, *, seconds: float) -> Projection:
        """Return the person with the expression of one frame; that of the last frame where there is no usable face."""
        aligned, raw = self.source.find(image, seconds=seconds)
        expression = None if aligned is None else self._expression(aligned, seconds)
        if expression is None:
            self.totals["faceless"] += 1
            self.filmed.cut()
            self.made.cut()
            if self.after is None:
                self.after = self._still()
            return self.after
        first = self.after is None
        steps = self.settings.first_steps if first else self.settings.steps
        self.after = self.studio.projector.project(self.person, expression, steps=steps, after=self.after)
        if raw is not None:
            self.filmed.add(raw, float(eye_distance(raw)))
            found = self.studio.projector.points(self.after.image).cpu().numpy()
            self.made.add(found, float(eye_distance(found)))
        return self.after

    def _expression(self, aligned: Image.Image, seconds: float) -> Expression | None:
        photo = self.studio.tensor(aligned)
        found = self.studio.projector.points(photo)
        try:
            check_pose(found, name="frame")
        except UserError:
            return None
        smoothed = self.points(found.cpu().numpy(), seconds=seconds)
        return Expression(torch.from_numpy(smoothed).to(found), photo, found)

    def _still(self) -> Projection:
        """Return the person as in the photo."""
        own = Expression(self.person.points)
        return self.studio.projector.project(self.person, own, steps=0)

    def report(self) -> AnimationReport:
        """Return what became of the clip so far."""
        ratio = self.made.mean / self.filmed.mean if self.filmed.count and self.filmed.mean else float("nan")
        return AnimationReport(self.totals["frames"], self.totals["faceless"], ratio)

    def state(self) -> dict[str, Any]:
        """Return plain values from which ``load`` goes on exactly."""
        meters = {name: [meter.total, meter.count, meter.recent] for name, meter in
                  (("filmed", self.filmed), ("made", self.made))}
        return {"totals": self.totals, "last": self.last, "last_pts": self.last_pts, "points": self.points.state(),
                "source": self.source.state(), "after": None if self.after is None else _packed(self.after), **meters}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.totals, self.last, self.last_pts = state["totals"], state["last"], state["last_pts"]
        self.points.load({name: np.asarray(value) for name, value in state["points"].items()})
        self.source.load(state["source"])
        self.filmed, self.made = (Jitter(total, count, [np.asarray(points) for points in recent])
                                  for total, count, recent in (state["filmed"], state["made"]))
        self.after = None if state["after"] is None else self._unpacked(state["after"])

    def _unpacked(self, packed: dict[str, Any]) -> Projection:
        device = self.studio.stylizer.device
        found = {name: torch.frombuffer(bytearray(base64.b64decode(data)), dtype=torch.float32).reshape(shape).to(device)
                 for name, (shape, data) in packed.items()}
        face = Face(found["w_plus"], found["residual"])
        image = self.studio.projector.draw(face)
        return Projection(face, image, found["goal"], image, found["rows"], found["features"])


def _packed(projection: Projection) -> dict[str, Any]:
    """Return the numbers of a projection as text, to the bit."""
    face = projection.face
    kept = (projection.rows, projection.features, face.w_plus, face.residual, projection.goal)
    tensors = dict(zip(STORED, kept, strict=True))
    return {name: [list(tensor.shape), base64.b64encode(tensor.float().cpu().contiguous().numpy().tobytes()).decode()]
            for name, tensor in tensors.items()}


def _facts(studio: Studio, look: Path, settings: AnimationSettings) -> dict[str, Any]:
    return {"look": file_state(str(look)), "person": str(look), "settings": asdict(settings),
            "projection": asdict(studio.projector.settings), "style": studio.stylizer.style.fingerprint,
            "base": studio.stylizer.base.fingerprint, "drawn": repr(studio.look),
            "inversion": studio.stylizer.settings.facts()}


def animate_clip(studio: Studio, look: Path, clip: Path, output: Path, settings: AnimationSettings, *,
                 latents: Path | None = None, progress: Callable[[int], None] | None = None) -> AnimationReport:
    """Give a person the expressions of a clip and write an MP4 of the aligned face, with the clip's rate and sound.

    ``latents`` is a folder for the faces of the frames, ``000000.npz`` and so on, or None.

    Raises:
        UserError, ImageError: in one line; WriteError if the output cannot be written.
    """
    info, person, side = video_io.clip_info(clip), studio.person(look), studio.stylizer.size

    def keep(number: int, halfway: bool, face: Face, picture: Image.Image) -> None:
        save_latents(latents / f"{number:06d}{'_halfway' * halfway}.npz", face.w_plus, face.residual)

    drawer = ProjectionDrawer(studio, person, Tracked(studio, settings), settings, keep=None if latents is None else keep)
    factor = 2 if settings.halfway else 1
    shape = replace(info, width=side, height=side, rate=info.rate * factor, time_base=info.time_base / factor)
    draw_clip(lambda first: video_io.read_frames(clip, start=first), drawer, output=output, info=info, shape=shape,
              digest=settings_digest(clip=file_state(str(clip)), **_facts(studio, look, settings)),
              sound=clip if info.sound else None, progress=progress)
    return drawer.report()


def animate_photos(studio: Studio, look: Path, photos: list[Photo], outdir: Path, settings: AnimationSettings, *, fps: int,
                   latents: bool = True, progress: Callable[[int], None] | None = None) -> AnimationReport:
    """Give a person the expressions of photos, in their order: a PNG each, in ``frames``, and ``proj.mp4``.

    With ``latents`` the face of every picture lies beside it as NPZ.

    Raises:
        UserError, ImageError: in one line; WriteError if the output cannot be written.
    """
    person, side, rate = studio.person(look), studio.stylizer.size, Fraction(fps)

    def keep(number: int, halfway: bool, face: Face, picture: Image.Image) -> None:
        name = Path(photos[number].stem).name + ("_halfway" if halfway else "")
        save_image(outdir / "frames" / f"{name}.png", picture)
        if latents:
            save_latents(outdir / "frames" / f"{name}.npz", face.w_plus, face.residual)

    def frames(first: int) -> Iterator[video_io.ClipFrame]:
        for number, photo in enumerate(photos[first:], start=first):
            image = read_image(photo.path)
            image.info["name"] = photo.path
            yield video_io.ClipFrame(number, number, image)

    drawer = ProjectionDrawer(studio, person, Separate(studio), settings, keep=keep)
    factor = 2 if settings.halfway else 1
    info = video_io.ClipInfo(side, side, rate, 1 / rate, len(photos), False)
    shape = replace(info, rate=rate * factor, time_base=info.time_base / factor)
    digest = settings_digest(photos=[(photo.path, file_state(photo.path)) for photo in photos], fps=fps,
                             **_facts(studio, look, settings))
    draw_clip(frames, drawer, output=outdir / "proj.mp4", info=info, shape=shape, digest=digest, sound=None,
              progress=progress)
    return drawer.report()
