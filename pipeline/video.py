"""Restyling clips: faces followed and smoothed over time, in segments that survive being killed."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from checkpoints import CheckpointError, atomic_write
from data.images import WriteError
from pipeline import video_io
from pipeline.batch import file_state, settings_digest
from pipeline.cli import UserError
from pipeline.clip_drawer import ClipDrawer, Drawer, VideoSettings
from pipeline.stylize import Stylizer
from styles.controls import Look

Progress = Callable[[int], None]


@dataclass(frozen=True)
class VideoReport:
    """What became of a clip.

    ``jitter_in`` and ``jitter_out`` are the mean second difference of the landmarks found in input and output frames,
    in eye distances; ``jitter_ratio`` is their ratio, 1 when the restyled face shakes as much as the filmed one, NaN
    where no face is seen in three frames on end. ``notes`` are those of ``ClipInfo``. Landmarks of the output are
    found by the same predictor in the restyled face, which is deformed but deformed alike in every frame, so what it
    adds to the second difference is shaking.
    """

    frames: int
    faceless: int
    cuts: int
    seconds: float
    jitter_in: float
    jitter_out: float
    sound: bool
    notes: tuple[str, ...] = ()

    @property
    def jitter_ratio(self) -> float:
        return self.jitter_out / self.jitter_in if self.jitter_in else float("nan")

    def __str__(self) -> str:
        jitter = "" if math.isnan(self.jitter_ratio) else f", jitter {self.jitter_ratio:.2f} of the clip's"
        return "; ".join((f"{self.frames} frames, {self.faceless} without a face{jitter}", *self.notes))


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
        path: the clip.
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
    shape = replace(info, width=side, height=side, colours=info.colours.stated()) if settings.aligned else info
    digest = settings_digest(file=file_state(str(path)), look=repr(look), settings=asdict(settings), **(facts or {}))
    start, drawer = time.monotonic(), ClipDrawer(stylizer, look, settings)
    draw_clip(lambda first: video_io.read_frames(path, start=first), drawer, output=output, digest=digest, info=info,
              shape=shape, sound=path if info.sound else None, progress=progress)
    totals = drawer.totals
    means = [total / count if count else float("nan") for total, count in (totals["in"], totals["out"])]
    return VideoReport(totals["frames"], totals["faceless"], drawer.tracker.cuts, time.monotonic() - start, *means,
                       info.sound, info.notes)


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
        done, end = _finished(folder), 0
        if done:
            saved = json.loads((folder / f"{done - 1:06d}.json").read_text())
            drawer.load(saved["drawer"])
            end = saved["end"]
        if progress is not None and done:
            progress(drawer.totals["frames"])
        try:
            done, end = _draw_segments(frames(done * drawer.settings.segment), folder, drawer, done, end, info=info,
                                       shape=shape, progress=progress)
            segments = [folder / f"{number:06d}.nut" for number in range(done)]
            video_io.assemble(output, segments, sound, end=end * shape.time_base)
        except (OSError, CheckpointError) as error:
            raise WriteError(f"{output}: cannot be written ({getattr(error, 'strerror', None) or error}); free space and "
                             "give the same command again: it goes on where it stopped") from error
        for part in [*folder.glob("*.nut"), *folder.glob("*.json"), *folder.glob("*.part")]:
            part.unlink(missing_ok=True)


def _draw_segments(
    frames: Iterator[video_io.ClipFrame], folder: Path, drawer: Drawer, done: int, end: int, *, info: video_io.ClipInfo,
    shape: video_io.ClipInfo, progress: Progress | None,
) -> tuple[int, int]:
    """Draw the segments that are missing; return how many there are and when the last frame ends."""
    length = drawer.settings.segment

    def timed(first: video_io.ClipFrame) -> Iterator[tuple[video_io.ClipFrame, float]]:
        frame = first
        for count in range(length):
            yield frame, float(Fraction(frame.pts) * info.time_base)
            if progress is not None:
                progress(1)
            if count + 1 < length:
                frame = next(frames, None)
                if frame is None:
                    return

    # A clip whose frames all lie in finished segments has nothing more to give.
    while (first := next(frames, None)) is not None:
        pictures = drawer.pictures(timed(first))
        _, end = video_io.write_segment(folder / f"{done:06d}.nut", pictures, shape, quality=drawer.settings.quality)
        with atomic_write(folder / f"{done:06d}.json") as temporary:
            temporary.write_text(json.dumps({"end": end, "drawer": drawer.state()}, default=_plain))
        done += 1
    return done, end
