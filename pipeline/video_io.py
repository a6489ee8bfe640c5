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

from data.listing import is_clip
from pipeline.cli import UserError
from pipeline.video_colour import SDR, Coded, Colours, coded_frame, colours_of, read_planes, read_rgb

__all__ = ["ClipFrame", "ClipInfo", "assemble", "clip_info", "is_clip", "open_clip", "read_frames", "write_segment"]
COPIED_SOUND = {"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"}
MAX_SIDE = 8192


@dataclass(frozen=True)
class ClipInfo:
    """What a clip is.

    Attributes:
        width, height: in square px, upright.
        rate: mean frames per second.
        time_base: seconds per unit of time stamps.
        frames: number of frames, 0 if unknown.
        sound: whether it has any.
        colours: of what is made of it.
        notes: what is changed beside the faces, half a line each.
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    frames: int
    sound: bool
    colours: Colours = SDR
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClipFrame:
    """One frame: its number, its time stamp and its duration (0: unknown) in units of the clip's time base, the upright RGB
    image, and what it was read from, if it was read."""

    number: int
    pts: int
    image: Image.Image
    duration: int = 0
    coded: Coded | None = None


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
        colours, aspect = colours_of(first, name=path), _aspect(stream)
        width, height = _square((first.width, first.height), aspect)
        if max(width, height) > MAX_SIDE:
            raise UserError(f"{path}: is {width} x {height} px, more than {MAX_SIDE} px per side; make it smaller")
        width, height = (height, width) if first.rotation % 180 else (width, height)
        notes = (f"HDR ({colours.hdr}) was toned down to SDR, BT.709",) * bool(colours.hdr)
        notes += (f"pixels of {aspect.numerator}:{aspect.denominator} became square",) * (aspect != 1)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        return ClipInfo(width, height, Fraction(rate), Fraction(stream.time_base), stream.frames,
                        bool(container.streams.audio), colours.written(), notes)


def _aspect(stream: av.VideoStream) -> Fraction:
    """Return width over height of a clip's pixels."""
    aspect = Fraction(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
    return aspect if Fraction(1, 8) <= aspect <= 8 else Fraction(1)


def _square(size: tuple[int, int], aspect: Fraction) -> tuple[int, int]:
    """Return the size in square px of a picture, enlarged along its narrow side, with an even side there."""
    width, height = size
    return (2 * round(width * aspect / 2), height) if aspect > 1 else \
        (width, 2 * round(height / aspect / 2)) if aspect < 1 else size


def _start(container: av.container.InputContainer) -> Fraction:
    """Return the second at which a clip begins; broadcasts and cameras do not begin at 0."""
    return max(Fraction(container.start_time or 0, av.time_base), Fraction(0))


def _decoded(container: av.container.InputContainer) -> Iterator[av.VideoFrame]:
    """Yield frames until the end or the first damage; what comes after damage is not trusted."""
    try:
        yield from container.decode(video=0)
    except (av.error.FFmpegError, EOFError):
        return


def read_frames(path: Path, *, start: int = 0) -> Iterator[ClipFrame]:
    """Yield the frames of a clip from number ``start`` on, upright, in square px, one at a time.

    Earlier frames are decoded and dropped, because seeking is not exact in every format. Frames without a time stamp
    follow the one before at the clip's rate. Time begins at the clip's beginning.
    """
    with open_clip(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        step = max(1, round(1 / (rate * stream.time_base)))
        offset, aspect = round(_start(container) / stream.time_base), _aspect(stream)
        last = size = colours = None
        for number, frame in enumerate(_decoded(container)):
            pts = max(0, frame.pts - offset) if frame.pts is not None else 0 if last is None else last + step
            # A stamp that does not grow cannot be written.
            pts = pts if last is None or pts > last else last + 1
            last = pts
            if colours is None:
                colours, size = colours_of(frame, name=path), _square((frame.width, frame.height), aspect)
            if number >= start:
                image, coded = _upright(frame, colours, size)
                yield ClipFrame(number, pts, image, frame.duration or step, coded)


def _upright(frame: av.VideoFrame, colours: Colours, size: tuple[int, int]) -> tuple[Image.Image, Coded | None]:
    """Return a decoded frame as an RGB picture of ``size`` px, turned upright, and its planes where they fit it."""
    image, turns = Image.fromarray(read_rgb(frame, colours)), frame.rotation // 90 % 4
    planes = read_planes(frame, colours) if image.size == size else None
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    image = image.rotate(90 * turns, expand=True) if turns else image
    return image, planes and Coded(tuple(np.rot90(plane, turns) for plane in planes), image)


def write_segment(path: Path, frames: Iterable[ClipFrame], info: ClipInfo, *, quality: int = 18) -> tuple[int, int]:
    """Encode frames with H.264, keeping time stamps and colours; atomic.

    Even sizes are written as yuv420p, which every player reads; odd ones as yuv444p, which keeps their size.

    Returns:
        The number of frames, and the time at which the last one ends, in units of the clip's time base.
    """
    temporary, count, end, colours = path.with_suffix(".part"), 0, 0, info.colours
    with av.open(str(temporary), "w", format="nut") as container:
        # Half of the default preset's time, for an eighth more bytes at the same likeness.
        options = {"crf": str(quality), "bf": "0", "preset": "faster"}
        stream = container.add_stream("libx264", rate=info.rate, options=options)
        stream.pix_fmt = "yuv420p" if info.width % 2 == info.height % 2 == 0 else "yuv444p"
        stream.width, stream.height = info.width, info.height
        stream.time_base = stream.codec_context.time_base = info.time_base
        context = stream.codec_context
        context.colorspace, context.color_range = colours.matrix, colours.range
        context.color_primaries, context.color_trc = colours.primaries, colours.transfer
        for item in frames:
            frame = coded_frame(item.image, colours, stream.pix_fmt, item.coded)
            frame.pts, frame.time_base = item.pts, info.time_base
            container.mux(stream.encode(frame))
            count, end = count + 1, item.pts + item.duration
        container.mux(stream.encode(None))
    os.replace(temporary, path)
    return count, end


def _segment_packets(
    container: av.container.OutputContainer, segments: Sequence[Path], end: Fraction,
) -> Iterator[av.Packet]:
    """Yield the packets of all segments for one output stream, made like the first's; the last one lasts to second ``end``."""
    target = last = None
    for path in segments:
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            target = target or container.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is None:
                    continue
                if last is not None:
                    yield last
                packet.stream = target
                last = packet
    left = round(end / last.time_base) - last.pts
    if left > 0:
        last.duration = left
    yield last


def _sound_packets(container: av.container.OutputContainer, clip: Path) -> Iterator[av.Packet]:
    """Yield the packets of a clip's first sound track: as they are where MP4 can hold them, else encoded as AAC."""
    with av.open(str(clip)) as source:
        stream = source.streams.audio[0]
        offset = round(_start(source) / stream.time_base)
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
                    packet.dts, packet.pts = packet.dts - offset, None if packet.pts is None else packet.pts - offset
                    packet.stream = target
                    yield packet
                else:
                    for frame in packet.decode():
                        frame.pts = None if frame.pts is None else frame.pts - offset
                        yield from target.encode(frame)
        except (av.error.FFmpegError, EOFError):
            pass  # a truncated clip: its sound ends where it can no longer be read
        if not copied:
            yield from target.encode(None)


def assemble(path: Path, segments: Sequence[Path], clip: Path | None, *, end: Fraction = Fraction(0)) -> None:
    """Write segments, and the sound of ``clip`` if given, into one MP4, atomically; nothing is encoded again but odd sound.

    Args:
        path: the MP4.
        segments: of ``write_segment``.
        clip: whose sound goes along, or None.
        end: second at which the last frame ends; 0 if unknown.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container:
            pictures = _segment_packets(container, segments, end)
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
