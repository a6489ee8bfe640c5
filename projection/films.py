"""Animations: one person with the expressions of a clip or of a folder of photos, in segments that survive being killed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from data.images import read_image, save_image, to_pil
from data.landmarks68 import eye_distance
from drawing.context import aligned_mesh
from drawing.expression import PATH as MODEL
from drawing.expression import expression_of
from drawing.mouth import Inside
from drawing.style import FRAME
from faces.align import align_face, photo_corners
from faces.mesh import landmarks_of
from faces.tracking import FaceTracker
from pipeline import video_io
from pipeline.batch import file_state, settings_digest
from pipeline.cli import UserError, report
from pipeline.clip_drawer import load_tracker, tracker_state
from pipeline.naming import Photo
from pipeline.smoothing import Jitter, OneEuro
from pipeline.stylize import Crop
from pipeline.video import draw_clip
from projection.expressions import Expression, check_pose
from projection.stills import Person, Studio, seen


@dataclass(frozen=True)
class AnimationSettings:
    """How an animation is made.

    Attributes:
        smooth: of the driving face over time, 0..1.
        halfway: also write a frame halfway between each two.
        every: frames between detections.
        segment: frames per segment, the unit of resuming.
        quality: constant rate factor of H.264.
    """

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
        self.tracker = FaceTracker(studio.finder, smooth=settings.smooth, every=settings.every)

    def find(self, image: Image.Image, *, seconds: float) -> tuple[Crop | None, np.ndarray | None]:
        """Return the aligned face, and its landmarks [68, 2] in px as they were found; nothing where there is none."""
        tracks = self.tracker.update(image, seconds=seconds)
        if not tracks:
            return None, None
        track = tracks[0]
        try:
            aligned = align_face(image, track.landmarks, output_size=FRAME)
        except ValueError:  # landmarks that left the frame
            return None, None
        corners = photo_corners(track.landmarks, image.size, output_size=FRAME)
        return Crop(aligned, corners, track.landmarks, track.smooth_mesh(seconds=seconds)), track.raw

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

    def find(self, image: Image.Image, *, seconds: float) -> tuple[Crop | None, np.ndarray | None]:
        """Return the aligned face or nothing."""
        try:
            return self.studio.crop(image, name=image.info.get("name", "photo")), None
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
        studio: what a run needs.
        person: who.
        source: finds the aligned face of a frame.
        settings: how.
        keep: called with the frame's number, whether it is halfway, and the picture.
    """

    def __init__(self, studio: Studio, person: Person, source: Tracked | Separate, settings: AnimationSettings, *,
                 keep: Callable[[int, bool, Image.Image], None] | None = None) -> None:
        self.studio, self.person, self.source, self.settings, self.keep = studio, person, source, settings, keep
        # Measures are in eye distances, so their unit is that of speed as well.
        self.measures = OneEuro(settings.smooth)
        self.filmed, self.made = Jitter(), Jitter()
        self.now = Expression(expression_of(person.mesh))
        self.totals: dict[str, Any] = {"frames": 0, "faceless": 0}
        self.last: float | None = None
        self.last_pts = 0

    def pictures(self, frames: Iterable[tuple[video_io.ClipFrame, float]]) -> Iterator[video_io.ClipFrame]:
        """Yield the person with the expressions of frames, which come with their seconds, and pictures halfway between."""
        for frame, at in frames:
            yield from self._pictures(frame, at=at)

    def _pictures(self, frame: video_io.ClipFrame, *, at: float) -> Iterator[video_io.ClipFrame]:
        """Yield the person with the expression of a frame, and before it the picture halfway from the last one."""
        before, factor, last_pts = self.now, 2 if self.settings.halfway else 1, self.last_pts
        first, seconds = self.last is None, 0.0 if self.last is None else at - self.last
        self.last, self.last_pts = at, frame.pts
        raw = self._follow(frame.image, seconds=seconds)
        if self.settings.halfway and not first:
            # The time base is halved, so the middle of two stamps is their sum.
            middle = Expression((before.measures + self.now.measures) / 2.0, self.now.donor)
            yield replace(frame, pts=frame.pts + last_pts, image=self._picture(self._face(middle), frame.number, halfway=True))
        face = self._face(self.now)
        if raw is not None:
            self.filmed.add(raw, float(eye_distance(raw)))
            found = landmarks_of(aligned_mesh(face)[0][0].cpu().numpy())
            self.made.add(found, float(eye_distance(found)))
        self.totals["frames"] += 1
        yield replace(frame, pts=frame.pts * factor, image=self._picture(face, frame.number, halfway=False))

    def _face(self, expression: Expression) -> Tensor:
        return self.studio.face(self.person, expression)

    def _picture(self, face: Tensor, number: int, *, halfway: bool) -> Image.Image:
        picture = to_pil(face) if self.studio.stylizer is None else self.studio.drawn(face)
        if self.keep is not None:
            self.keep(number, halfway, picture)
        return picture

    def _follow(self, image: Image.Image, *, seconds: float) -> np.ndarray | None:
        """Take the expression of one frame, that of the last one where there is no usable face; return the landmarks [68, 2] in
        px that the clip shows, where they are told."""
        crop, raw = self.source.find(image, seconds=seconds)
        try:
            if crop is None:
                raise UserError("no face")
            aligned, mesh = seen(crop)
            check_pose(landmarks_of(mesh), name="frame")
        except UserError:
            self.totals["faceless"] += 1
            self.filmed.cut()
            self.made.cut()
            self.now = Expression(self.now.measures)
            return None
        self.now = Expression(self.measures(expression_of(mesh), seconds=seconds), Inside(aligned, mesh[:, :2]))
        return raw

    def report(self) -> AnimationReport:
        """Return what became of the clip so far."""
        ratio = self.made.mean / self.filmed.mean if self.filmed.count and self.filmed.mean else float("nan")
        return AnimationReport(self.totals["frames"], self.totals["faceless"], ratio)

    def state(self) -> dict[str, Any]:
        """Return plain values from which ``load`` goes on exactly."""
        meters = {name: [meter.total, meter.count, meter.recent] for name, meter in
                  (("filmed", self.filmed), ("made", self.made))}
        return {"totals": self.totals, "last": self.last, "last_pts": self.last_pts, "measures": self.measures.state(),
                "source": self.source.state(), "now": self.now.measures, **meters}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.totals, self.last, self.last_pts = state["totals"], state["last"], state["last_pts"]
        self.measures.load({name: np.asarray(value) for name, value in state["measures"].items()})
        self.source.load(state["source"])
        self.filmed, self.made = (Jitter(total, count, [np.asarray(points) for points in recent])
                                  for total, count, recent in (state["filmed"], state["made"]))
        self.now = Expression(np.asarray(state["now"]))


def _facts(studio: Studio, look: Path, settings: AnimationSettings) -> dict[str, Any]:
    drawn = None if studio.stylizer is None else [studio.stylizer.style.fingerprint, studio.stylizer.base.fingerprint,
                                                  repr(studio.look)]
    return {"look": file_state(str(look)), "person": str(look), "settings": asdict(settings), "parts": dict(studio.parts),
            "drawn": drawn, "model": file_state(str(MODEL))}


def animate_clip(studio: Studio, look: Path, clip: Path, output: Path, settings: AnimationSettings, *,
                 progress: Callable[[int], None] | None = None) -> AnimationReport:
    """Give a person the expressions of a clip and write an MP4 of the aligned face, with the clip's rate and sound.

    Raises:
        UserError, ImageError: in one line; WriteError if the output cannot be written.
    """
    info, person = video_io.clip_info(clip), studio.person(look)
    drawer = ProjectionDrawer(studio, person, Tracked(studio, settings), settings)
    factor, side = 2 if settings.halfway else 1, studio.side
    shape = replace(info, width=side, height=side, rate=info.rate * factor, time_base=info.time_base / factor)
    draw_clip(lambda first: video_io.read_frames(clip, start=first), drawer, output=output, info=info, shape=shape,
              digest=settings_digest(clip=file_state(str(clip)), **_facts(studio, look, settings)),
              sound=clip if info.sound else None, progress=progress)
    return drawer.report()


def animate_photos(studio: Studio, look: Path, photos: list[Photo], outdir: Path, settings: AnimationSettings, *, fps: int,
                   progress: Callable[[int], None] | None = None) -> AnimationReport:
    """Give a person the expressions of photos, in their order: a PNG each, in ``frames``, and ``proj.mp4``.

    Raises:
        UserError, ImageError: in one line; WriteError if the output cannot be written.
    """
    person, side, rate = studio.person(look), studio.side, Fraction(fps)

    def keep(number: int, halfway: bool, picture: Image.Image) -> None:
        save_image(outdir / "frames" / f"{Path(photos[number].stem).name}{'_halfway' * halfway}.png", picture)

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
