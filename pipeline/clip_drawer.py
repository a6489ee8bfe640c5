"""Restyling the frames of a clip in order: while one is drawn, the faces of the next are found."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.images import image_tensor, to_pil
from data.landmarks68 import eye_distance
from faces.align import align_face, photo_corners
from faces.face import Face, face_state, load_face
from faces.tracking import FaceTracker, Track
from models.face import Face as Inverted
from pipeline.paste import paste_back
from pipeline.smoothing import Jitter, OneEuro
from pipeline.stylize import Crop, Stylizer
from pipeline.video_io import ClipFrame
from styles.controls import Look

# Frames that are begun before the result of one is waited for.
AHEAD = 3


@dataclass(frozen=True)
class VideoSettings:
    """How a clip is restyled.

    Attributes:
        smooth: strength of the smoothing of landmarks and latents over time, 0..1.
        aligned: write the restyled square face alone instead of the whole frame.
        surroundings: draw all of a frame where the style draws photos; else what is around faces stays.
        colour: of pasted faces, see ``pipeline.paste.harmonised``.
        every: frames between detections.
        segment: frames per segment, the unit of resuming and of memory.
        quality: constant rate factor of H.264, lower is better.
    """

    smooth: float = 0.5
    aligned: bool = False
    surroundings: bool = True
    colour: str = "style"
    every: int = 5
    segment: int = 120
    quality: int = 15


class Drawer(Protocol):
    """What draws the frames of one clip in order."""

    settings: VideoSettings
    totals: dict[str, Any]

    def pictures(self, frames: Iterable[tuple[ClipFrame, float]]) -> Iterator[ClipFrame]:
        """Yield what becomes of frames, each of which comes with the second at which it was filmed.

        When all are drawn, ``state`` is that after the last one; before, it may be anything.
        """

    def state(self) -> dict[str, Any]: ...
    def load(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Found:
    """A face of one frame with its inversion, and how far the last frame is away.

    Its track goes on to the next frame while this one is drawn, so what is measured in the result is kept beside it: the
    face as it was found, and the eye distance of the smoothed landmarks in px.
    """

    track: Track
    crop: Crop
    face: Inverted
    seconds: float
    filmed: Face
    unit: float


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

    def pictures(self, frames: Iterable[tuple[ClipFrame, float]]) -> Iterator[ClipFrame]:
        """Yield the restyled frames, see ``Drawer``; ``AHEAD`` more may have been taken than were yielded."""
        with _in_threads(self._drawn) as start:
            waiting: deque[tuple[ClipFrame, list[Found], Callable[[], Tensor | list[Tensor]]]] = deque()
            for frame, at in frames:
                found = self._find(frame.image, at=at)
                waiting.append((frame, found, start((frame.image, found))))
                if len(waiting) > AHEAD:
                    yield self._picture(*waiting.popleft())
            while waiting:
                yield self._picture(*waiting.popleft())

    def _find(self, image: Image.Image, *, at: float) -> list[Found]:
        """Return the faces of the next frame, inverted, those in front last."""
        seconds = 0.0 if self.last is None else at - self.last
        self.last = at
        tracks = self.tracker.update(image, seconds=seconds)
        self.totals["frames"] += 1
        self.totals["faceless"] += not tracks
        if self.settings.aligned:
            tracks = tracks[:1]
        return [self._found(image, track, seconds)
                for track in sorted(tracks, key=lambda track: float(eye_distance(track.landmarks)))]

    def _found(self, image: Image.Image, track: Track, seconds: float) -> Found:
        side = self.stylizer.size
        crop = Crop(align_face(image, track.landmarks, output_size=side),
                    photo_corners(track.landmarks, image.size, output_size=side), track.landmarks)

        def steady(rows: Tensor) -> Tensor:
            return torch.from_numpy(track.latent(rows.cpu().numpy(), seconds=seconds)).to(rows)

        mesh = track.smooth_mesh(seconds=seconds)
        crop = crop._replace(mesh=mesh)
        return Found(track, crop, self.stylizer.invert_frame(crop.image, steady), seconds, track.face,
                     float(eye_distance(track.landmarks)))

    @property
    def _whole(self) -> bool:
        """Whether whole frames are drawn: nothing is pasted then."""
        return self.stylizer.style.draws_pictures and not self.settings.aligned

    def _drawn(self, given: tuple[Image.Image, list[Found]]) -> Tensor | list[Tensor]:
        """Return a whole drawn frame [1, 3, H, W], or the drawn aligned faces of a frame."""
        image, found = given
        if self._whole and found:
            faces = [self.stylizer.framed(one.crop, one.face) for one in found]
            return self.stylizer.draw_framed(image_tensor(image).to(self.stylizer.device), faces, look=self.look,
                                             surroundings=self.settings.surroundings)
        return [self.stylizer.restyle(self.stylizer.known(one.crop, one.face), look=self.look, landmarks=one.crop.places())
                for one in found]

    def _picture(self, frame: ClipFrame, found: list[Found], drawn: Callable[[], Tensor | list[Tensor]]) -> ClipFrame:
        """Return a frame with its restyled faces, or the face alone."""
        return replace(frame, image=self._pasted(frame.image, found, drawn()))

    def _pasted(self, image: Image.Image, found: list[Found], drawn: Tensor | list[Tensor]) -> Image.Image:
        if self.settings.aligned:
            side = self.stylizer.size
            return to_pil(drawn[0]) if drawn else image.resize((side, side), Image.Resampling.LANCZOS)
        result = image
        if isinstance(drawn, Tensor):
            result = to_pil(drawn)
        else:
            for one, face in zip(found, drawn, strict=True):
                picture = to_pil(face)
                filmed, made = self.stylizer.outlines(one.crop, picture)
                made = one.track.outline(made, seconds=one.seconds)
                result = paste_back(result, picture, one.crop.corners, original=one.crop.image, colour=self.settings.colour,
                                    outlines=(filmed, made), background=self.stylizer.background(face, made))
        for one in found:
            self._measure(result, one)
        return result

    def _measure(self, result: Image.Image, one: Found) -> None:
        drawn = self.stylizer.finder.follow(result, [one.filmed])[0].landmarks
        for name, meter, points in (("in", one.track.jitter, one.filmed.landmarks), ("out", one.track.drawn_jitter, drawn)):
            before = (meter.total, meter.count)
            meter.add(points, one.unit)
            self.totals[name][0] += meter.total - before[0]
            self.totals[name][1] += meter.count - before[1]

    def state(self) -> dict[str, Any]:
        """Return plain values from which ``load`` goes on exactly."""
        return {"totals": self.totals, "last": self.last, **tracker_state(self.tracker)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.totals, self.last = state["totals"], state["last"]
        load_tracker(self.tracker, state)


@contextlib.contextmanager
def _in_threads(*calls: Callable[[Any], Any]) -> Iterator[Callable[[Any], Callable[[], Any]]]:
    """Yield what starts calls, the next with the result of the one before, and returns what waits for the last one's.

    Each of ``calls`` is done in a thread of its own, in the order in which they were started, beside the caller: kernels of one
    face are too small to be shared by threads. Where torch may use only one thread all are done when the result is asked for.
    """
    threads = torch.get_num_threads()
    if threads < 2:
        yield lambda value: partial(reduce, lambda given, call: call(given), calls, value)
        return
    each = max(1, threads // (1 + len(calls)))
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(each)
        pools = [stack.enter_context(ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(each,)))
                 for _ in calls]

        def start(value: Any) -> Callable[[], Any]:
            result: Callable[[], Any] = lambda: value  # noqa: E731
            for pool, call in zip(pools, calls, strict=True):
                result = pool.submit(lambda call, given: call(given()), call, result).result
            return result

        yield start


def tracker_state(tracker: FaceTracker) -> dict[str, Any]:
    """Return plain values and arrays from which ``load_tracker`` goes on exactly."""
    tracks = [{"landmarks": track.landmarks, "face": face_state(track.face), "missed": track.missed,
               "points": track.points.state(), "scale": track.points.scale, "latent": track.latent.state(),
               "outline": track.outline.state(), "jitter": track.jitter.recent, "drawn": track.drawn_jitter.recent,
               "mesh": track.mesh.state()}
              for track in tracker.tracks]
    return {"since": tracker.since, "cuts": tracker.cuts, "small": tracker.small, "tracks": tracks}


def load_tracker(tracker: FaceTracker, state: Mapping[str, Any]) -> None:
    """Go on from a state of ``tracker_state``, which may have been JSON."""
    tracker.since, tracker.cuts = state["since"], state["cuts"]
    tracker.small = None if state["small"] is None else np.asarray(state["small"], np.float32)
    tracker.tracks = []
    for row in state["tracks"]:
        filters = [OneEuro(tracker.smooth) for _ in range(4)]
        for one, name in zip(filters, ("points", "latent", "outline", "mesh")):
            one.load({key: np.asarray(value) for key, value in row[name].items()})
        filters[0].scale = row["scale"]
        tracker.tracks.append(Track(
            np.asarray(row["landmarks"]), load_face(row["face"]), *filters, row["missed"],
            *(Jitter(recent=[np.asarray(points) for points in row[name]]) for name in ("jitter", "drawn"))))
