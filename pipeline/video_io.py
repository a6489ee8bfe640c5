"""Reading and writing of clips: frames with their own time stamps, segments, and the final file with its sound."""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from pipeline.cli import UserError

SUFFIXES = {".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi", ".gif"}
COPIED_SOUND = {"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"}
MAX_SIDE = 8192


@dataclass(frozen=True)
class ClipInfo:
    """Upright width and height in px, mean frames per second, time base, number of frames (0: unknown), sound or not."""

    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    frames: int
    sound: bool


@dataclass(frozen=True)
class ClipFrame:
    """One frame: its number, its time stamp in units of the clip's time base, and the upright RGB image."""

    number: int
    pts: int
    image: Image.Image


def is_clip(path: Path) -> bool:
    """Tell by the suffix whether a file is a clip; a GIF is one when it moves."""
    if path.suffix.lower() != ".gif":
        return path.suffix.lower() in SUFFIXES
    try:
        with Image.open(path, formats=("GIF",)) as image:
            return getattr(image, "n_frames", 1) > 1
    except (OSError, ValueError, SyntaxError):
        return False  # the photo reader says what is wrong with it


def open_clip(path: Path) -> av.container.InputContainer:
    """Open a clip that has pictures.

    Raises:
        UserError: in one line, if it is missing, no video, or too large.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found; check the path")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{path}: is no video that can be read; get it again or convert it to MP4") from error
    streams = container.streams.video
    if not streams or not streams[0].width or max(streams[0].width, streams[0].height) > MAX_SIDE:
        container.close()
        raise UserError(f"{path}: has no video of at most {MAX_SIDE} px per side; give a video file")
    return container


def clip_info(path: Path) -> ClipInfo:
    """Read a clip's facts and its first frame; raises UserError where there is none."""
    with open_clip(path) as container:
        stream = container.streams.video[0]
        first = next(_decoded(container), None)
        if first is None:
            raise UserError(f"{path}: holds no frame that can be decoded; get it again")
        width, height = (first.height, first.width) if first.rotation % 180 else (first.width, first.height)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        return ClipInfo(width, height, Fraction(rate), Fraction(stream.time_base), stream.frames,
                        bool(container.streams.audio))


def _decoded(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    """Yield frames until the end or the first damage; what comes after damage is not trusted."""
    try:
        yield from container.decode(video=0)
    except (av.error.FFmpegError, EOFError):
        return


def read_frames(path: Path, *, start: int = 0) -> Iterator[ClipFrame]:
    """Yield the frames of a clip from number ``start`` on, upright, one at a time.

    Earlier frames are decoded and dropped, because seeking is not exact in every format. Frames without a time stamp
    follow the one before at the clip's rate.
    """
    with open_clip(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        step = max(1, round(1 / (rate * stream.time_base)))
        last = None
        for number, frame in enumerate(_decoded(container)):
            pts = frame.pts if frame.pts is not None else 0 if last is None else last + step
            # A stamp that does not grow cannot be written.
            pts = pts if last is None or pts > last else last + 1
            last = pts
            if number < start:
                continue
            image = Image.fromarray(frame.to_ndarray(format="rgb24"))
            yield ClipFrame(number, pts, image.rotate(frame.rotation, expand=True) if frame.rotation else image)


def write_segment(path: Path, frames: Iterable[ClipFrame], info: ClipInfo, *, quality: int = 18) -> int:
    """Encode frames with H.264, keeping their time stamps, and return their number; atomic.

    Even sizes are written as yuv420p, which every player reads; odd ones as yuv444p, which keeps their size.
    """
    temporary, count = path.with_suffix(".part"), 0
    with av.open(str(temporary), "w", format="nut") as container:
        # Half of the default preset's time, for an eighth more bytes at the same likeness.
        options = {"crf": str(quality), "bf": "0", "preset": "faster"}
        stream = container.add_stream("libx264", rate=info.rate, options=options)
        stream.pix_fmt = "yuv420p" if info.width % 2 == info.height % 2 == 0 else "yuv444p"
        stream.width, stream.height = info.width, info.height
        stream.time_base = stream.codec_context.time_base = info.time_base
        for item in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.asarray(item.image)), format="rgb24")
            frame.pts, frame.time_base = item.pts, info.time_base
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
    os.replace(temporary, path)
    return count


def _segment_packets(container: av.container.OutputContainer, segments: Sequence[Path]) -> Iterator[av.Packet]:
    """Yield the packets of all segments for one output stream, made like that of the first."""
    target = None
    for path in segments:
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            target = target or container.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = target
                    yield packet


def _sound_packets(container: av.container.OutputContainer, clip: Path) -> Iterator[av.Packet]:
    """Yield the packets of a clip's first sound track: as they are where MP4 can hold them, else encoded as AAC."""
    with av.open(str(clip)) as source:
        stream = source.streams.audio[0]
        copied = stream.codec_context.name in COPIED_SOUND
        if copied:
            target = container.add_stream_from_template(stream)
        else:
            target = container.add_stream("aac", rate=stream.rate or 44100)
        yield None  # the stream is there; packets follow when all streams are
        try:
            for packet in source.demux(stream):
                if packet.dts is None:
                    continue
                if copied:
                    packet.stream = target
                    yield packet
                else:
                    for frame in packet.decode():
                        frame.pts = None if frame.pts is None else frame.pts
                        yield from target.encode(frame)
        except (av.error.FFmpegError, EOFError):
            pass  # a truncated clip: its sound ends where it can no longer be read
        if not copied:
            yield from target.encode(None)


def assemble(path: Path, segments: Sequence[Path], clip: Path | None) -> None:
    """Write segments, and the sound of ``clip`` if given, into one MP4, atomically; nothing is encoded again but odd sound."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container:
            pictures = _segment_packets(container, segments)
            first = next(pictures)
            streams = [itertools.chain([first], pictures)]
            if clip is not None:
                sound = _sound_packets(container, clip)
                next(sound)
                streams.append(sound)
            for packet in heapq.merge(*streams, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
                container.mux(packet)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
