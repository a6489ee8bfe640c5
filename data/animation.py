"""Animated files from frames."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def _save_mp4(path: Path, frames: Sequence[Image.Image], fps: int) -> None:
    import av

    # The yuv420p format of common players needs even sides.
    width, height = (side - side % 2 for side in frames[0].size)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "16"}
        # BT.709 (1 in ITU-T H.273), and said so, or players take it for what the size suggests.
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        for frame in frames:
            pixels = np.asarray(frame.convert("RGB"))[:height, :width]
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            for packet in stream.encode(picture.reformat(format="yuv420p", dst_colorspace=1, dst_color_range=1)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _common_palette(frames: Sequence[Image.Image]) -> Image.Image:
    """Return one palette for all frames, which keeps colours from flickering."""
    small = [frame.convert("RGB").resize([max(1, side // 2) for side in frame.size]) for frame in frames]
    strip = np.concatenate([np.asarray(frame) for frame in small], axis=1)
    return Image.fromarray(strip).quantize(colors=255)


def save_animation(path: Path, frames: Sequence[Image.Image], *, fps: int = 12) -> None:
    """Write frames of one size as a looping GIF or an H.264 MP4, by the suffix of ``path``, atomically.

    Raises:
        ValueError: for another suffix or no frames.
    """
    if not frames or path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"expected frames and a .gif or .mp4 path, got {len(frames)} frames and {path.name}")
    temporary = path.with_name(f".{path.name}.part")
    try:
        if path.suffix == ".mp4":
            _save_mp4(temporary, frames, fps)
        else:
            palette = _common_palette(frames)
            indexed = [frame.convert("RGB").quantize(palette=palette) for frame in frames]
            indexed[0].save(temporary, "GIF", save_all=True, append_images=indexed[1:], duration=1000 // fps, loop=0)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
