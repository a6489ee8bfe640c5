"""Restyling clips: faces followed and smoothed over time, in segments that survive being killed."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from checkpoints import CheckpointError, atomic_write
from data.images import WriteError, to_pil
from data.landmarks68 import eye_distance
from models.matches import Matches
from pipeline import video_io
from pipeline.align import align_face, photo_corners
from pipeline.batch import file_state, settings_digest
from pipeline.cli import UserError
from pipeline.paste import paste_back
from pipeline.smoothing import Jitter, OneEuro
from pipeline.stylize import Crop, Stylizer
from pipeline.tracking import FaceTracker, Track
from styles.controls import Look

Progress = Callable[[int], None]


@dataclass(frozen=True)
class VideoSettings:
    """How a clip is restyled.

    Attributes:
        smooth: strength of the smoothing of landmarks and latents over time, 0..1.
        aligned: write the restyled square face alone instead of the whole frame.
        colour: of pasted faces, see ``pipeline.paste.harmonised``.
        every: frames between detections.
        segment: frames per segment, the unit of resuming and of memory.
        quality: constant rate factor of H.264, lower is better.
    """

    smooth: float = 0.5
    aligned: bool = False
    colour: str = "style"
    every: int = 5
    segment: int = 60
    quality: int = 16


@dataclass(frozen=True)
class VideoReport:
    """What became of a clip.

    ``jitter_in`` and ``jitter_out`` are the mean second difference of the landmarks found in input and output frames,
    in eye distances; ``jitter_ratio`` is their ratio, 1 when the restyled face shakes as much as the filmed one, NaN
    without a face. Landmarks of the output are found by the same predictor in the restyled face, which is deformed but
    deformed alike in every frame, so what it adds to the second difference is shaking.
    """

    frames: int
    faceless: int
    cuts: int
    seconds: float
    jitter_in: float
    jitter_out: float
    sound: bool

    @property
    def jitter_ratio(self) -> float:
        return self.jitter_out / self.jitter_in if self.jitter_in else float("nan")


class Drawer(Protocol):
    """What draws the frames of one clip in order."""

    settings: VideoSettings
    totals: dict[str, Any]

    def pictures(self, frame: video_io.ClipFrame, *, at: float) -> Iterator[video_io.ClipFrame]: ...
    def state(self) -> dict[str, Any]: ...
    def load(self, state: dict[str, Any]) -> None: ...


class ClipDrawer:
    """Restyles the frames of one clip in order; its state can be saved between segments.

    Args:
        stylizer: inverts and restyles aligned faces; its latent cache should be off.
        look: how to draw them.
        settings: how to follow and paste them.
    """

    def __init__(self, stylizer: Stylizer, look: Look, settings: VideoSettings) -> None:
        if stylizer.finder is None:
            raise ValueError("a clip needs a face finder")
        self.stylizer, self.look, self.settings = stylizer, look, settings
        self.tracker = FaceTracker(stylizer.finder, smooth=settings.smooth, faces=stylizer.faces, every=settings.every)
        self.totals = {"frames": 0, "faceless": 0, "in": [0.0, 0], "out": [0.0, 0]}
        self.last: float | None = None

    def pictures(self, frame: video_io.ClipFrame, *, at: float) -> Iterator[video_io.ClipFrame]:
        """Yield what becomes of one frame, which was filmed at ``at`` seconds."""
        yield replace(frame, image=self.draw(frame.image, at=at))

    def draw(self, image: Image.Image, *, at: float) -> Image.Image:
        """Return the restyled frame, which was filmed at ``at`` seconds."""
        seconds = 0.0 if self.last is None else at - self.last
        self.last = at
        tracks = self.tracker.update(image, seconds=seconds)
        self.totals["frames"] += 1
        self.totals["faceless"] += not tracks
        if self.settings.aligned:
            if not tracks:
                side = self.stylizer.size
                return image.resize((side, side), Image.Resampling.LANCZOS)
            return to_pil(self._face(image, tracks[0], seconds)[0])
        result = image
        for track in sorted(tracks, key=lambda track: float(eye_distance(track.landmarks))):
            face, crop = self._face(image, track, seconds)
            filmed, drawn = self.stylizer.outlines(crop, face)
            outlines = (filmed, track.outline(drawn, seconds=seconds))
            result = paste_back(result, to_pil(face), crop.corners, original=crop.image, colour=self.settings.colour,
                                outlines=outlines)
        for track in tracks:
            self._measure(image, result, track)
        return result

    def _face(self, image: Image.Image, track: Track, seconds: float) -> tuple[torch.Tensor, Crop]:
        """Return the restyled aligned face [1, 3, S, S] of a track, and its crop."""
        side = self.stylizer.size
        crop = Crop(align_face(image, track.landmarks, output_size=side),
                    photo_corners(track.landmarks, image.size, output_size=side), track.landmarks)
        def steady(rows: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(track.latent(rows.cpu().numpy(), seconds=seconds)).to(rows)

        found = self.stylizer.invert_frame(crop.image, steady)
        return self.stylizer.restyle(replace(found, last=track.last), look=self.look, landmarks=crop.places()), crop

    def _measure(self, image: Image.Image, result: Image.Image, track: Track) -> None:
        unit = float(eye_distance(track.landmarks))
        drawn = self.stylizer.finder.follow(result, [track.box()])[0]
        for name, meter, points in (("in", track.jitter, track.raw), ("out", track.drawn_jitter, drawn)):
            before = (meter.total, meter.count)
            meter.add(points, unit)
            self.totals[name][0] += meter.total - before[0]
            self.totals[name][1] += meter.count - before[1]

    def state(self) -> dict[str, Any]:
        """Return plain values from which ``load`` goes on exactly."""
        return {"totals": self.totals, "last": self.last, **tracker_state(self.tracker)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.totals, self.last = state["totals"], state["last"]
        load_tracker(self.tracker, state)


def tracker_state(tracker: FaceTracker) -> dict[str, Any]:
    """Return plain values and arrays from which ``load_tracker`` goes on exactly."""
    tracks = [{"landmarks": track.landmarks, "raw": track.raw, "frame": track.frame, "missed": track.missed,
               "points": track.points.state(), "scale": track.points.scale, "latent": track.latent.state(),
               "outline": track.outline.state(), "jitter": track.jitter.recent, "drawn": track.drawn_jitter.recent,
               "last": [one.state() for one in track.last]}
              for track in tracker.tracks]
    return {"since": tracker.since, "cuts": tracker.cuts, "small": tracker.small, "tracks": tracks}


def load_tracker(tracker: FaceTracker, state: dict[str, Any]) -> None:
    """Go on from a state of ``tracker_state``, which may have been JSON."""
    tracker.since, tracker.cuts = state["since"], state["cuts"]
    tracker.small = None if state["small"] is None else np.asarray(state["small"], np.float32)
    tracker.tracks = []
    for row in state["tracks"]:
        filters = [OneEuro(tracker.smooth) for _ in range(3)]
        for one, name in zip(filters, ("points", "latent", "outline")):
            one.load({key: np.asarray(value) for key, value in row[name].items()})
        filters[0].scale = row["scale"]
        tracker.tracks.append(Track(
            np.asarray(row["landmarks"]), np.asarray(row["raw"]), np.asarray(row["frame"]), *filters, row["missed"],
            *(Jitter(recent=[np.asarray(points) for points in row[name]]) for name in ("jitter", "drawn")),
            [Matches.load(one) for one in row["last"]]))


def _plain(value: Any) -> Any:
    """Turn arrays into lists; float64 and float32 survive JSON to the bit."""
    return value.tolist() if isinstance(value, np.ndarray) else float(value)


@contextlib.contextmanager
def _work_folder(output: Path, digest: str) -> Iterator[Path]:
    """Hold the folder of segments beside the output; segments of other settings or another clip are dropped.

    Raises:
        UserError: if another run holds it, or it cannot be made.
    """
    folder = output.with_name(f"{output.name}.parts")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / "lock", "ab")
    except OSError as error:
        raise WriteError(f"{folder}: cannot be written ({error.strerror}); choose another output folder") from error
    with handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # a system without POSIX locks
        except OSError as error:
            raise UserError(f"{output}: another run is making this clip; wait for it or choose another --output") from error
        run = folder / "run.json"
        if not run.is_file() or run.read_text() != digest:
            for stale in folder.iterdir():
                if stale.name != "lock":
                    stale.unlink()
            with atomic_write(run) as temporary:
                temporary.write_text(digest)
        yield folder
    if output.is_file() and not (folder / "run.json").exists():
        shutil.rmtree(folder, ignore_errors=True)


def _finished(folder: Path) -> int:
    """Return the number of segments that are done: each has its pictures and the state after it."""
    count = 0
    while (folder / f"{count:06d}.nut").is_file() and (folder / f"{count:06d}.json").is_file():
        count += 1
    return count


def stylize_video(
    path: Path, stylizer: Stylizer, *, output: Path, look: Look, settings: VideoSettings,
    progress: Progress | None = None, facts: dict[str, Any] | None = None,
) -> VideoReport:
    """Restyle the faces of a clip and write an MP4 with its frame rate, size and sound.

    The clip is worked on in segments, kept in ``OUTPUT.parts`` until all are done. A run that was stopped, however,
    goes on after its last whole segment when it is started again, and gives the same frames.

    Args:
        path: MP4, MOV, WebM, MKV, AVI or GIF.
        stylizer: see ``ClipDrawer``.
        output: the MP4 to write.
        look, settings: how.
        progress: called with the number of frames done.
        facts: what else changes the pictures, for telling runs apart.

    Raises:
        UserError: in one line, for a file that is no video, or a run that is under way.
        WriteError: if the output cannot be written; the segments that are done stay.
    """
    info = video_io.clip_info(path)
    side = stylizer.size
    shape = replace(info, width=side, height=side) if settings.aligned else info
    digest = settings_digest(file=file_state(str(path)), look=repr(look), settings=asdict(settings), **(facts or {}))
    start, drawer = time.monotonic(), ClipDrawer(stylizer, look, settings)
    draw_clip(lambda first: video_io.read_frames(path, start=first), drawer, output=output, digest=digest, info=info,
              shape=shape, sound=path if info.sound else None, progress=progress)
    totals = drawer.totals
    means = [total / count if count else float("nan") for total, count in (totals["in"], totals["out"])]
    return VideoReport(totals["frames"], totals["faceless"], drawer.tracker.cuts, time.monotonic() - start, *means,
                       info.sound)


def draw_clip(
    frames: Callable[[int], Iterator[video_io.ClipFrame]], drawer: Drawer, *, output: Path, digest: str,
    info: video_io.ClipInfo, shape: video_io.ClipInfo, sound: Path | None, progress: Progress | None = None,
) -> None:
    """Draw the frames of a clip in segments that survive being killed, and write an MP4.

    Args:
        frames: returns the frames from a number on.
        drawer: draws them; it goes on from the state after the last whole segment.
        output: the MP4.
        digest: of everything that changes the pictures.
        info: of the clip.
        shape: of the MP4; its time base is the one of the drawer's pictures.
        sound: clip whose sound goes along, or None.
        progress: called with the number of frames done.

    Raises:
        WriteError: if the output cannot be written; the segments that are done stay.
    """
    with _work_folder(output, digest) as folder:
        done = _finished(folder)
        if done:
            drawer.load(json.loads((folder / f"{done - 1:06d}.json").read_text()))
        if progress is not None and done:
            progress(drawer.totals["frames"])
        try:
            done = _draw_segments(frames(done * drawer.settings.segment), folder, drawer, done, info=info, shape=shape,
                                  progress=progress)
            segments = [folder / f"{number:06d}.nut" for number in range(done)]
            video_io.assemble(output, segments, sound)
        except (OSError, CheckpointError) as error:
            raise WriteError(f"{output}: cannot be written ({getattr(error, 'strerror', None) or error}); free space and "
                             "give the same command again: it goes on where it stopped") from error
        for part in [*folder.glob("*.nut"), *folder.glob("*.json"), *folder.glob("*.part")]:
            part.unlink(missing_ok=True)


def _draw_segments(
    frames: Iterator[video_io.ClipFrame], folder: Path, drawer: Drawer, done: int, *, info: video_io.ClipInfo,
    shape: video_io.ClipInfo, progress: Progress | None,
) -> int:
    """Draw the segments that are missing and return how many there are."""
    length = drawer.settings.segment

    def segment(first: video_io.ClipFrame) -> Iterator[video_io.ClipFrame]:
        frame = first
        for count in range(length):
            yield from drawer.pictures(frame, at=float(Fraction(frame.pts) * info.time_base))
            if progress is not None:
                progress(1)
            if count + 1 < length:
                frame = next(frames, None)
                if frame is None:
                    return

    # A clip whose frames all lie in finished segments has nothing more to give.
    while (first := next(frames, None)) is not None:
        video_io.write_segment(folder / f"{done:06d}.nut", segment(first), shape, quality=drawer.settings.quality)
        with atomic_write(folder / f"{done:06d}.json") as temporary:
            temporary.write_text(json.dumps(drawer.state(), default=_plain))
        done += 1
    return done
