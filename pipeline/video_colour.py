"""Colours of clips: the matrix, range and transfer that a stream is coded with, to RGB and back, and HDR to SDR."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation
from PIL import Image

from pipeline.cli import UserError

# Code points of ITU-T H.273, as streams carry them.
UNSPECIFIED = 2
BT709, SMPTE170M = 1, 6
LIMITED, FULL = 1, 2
PQ, HLG = 16, 18
# H.273 matrix -> the one that swscale knows it by.
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
EXACTLY = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
# Luminance in cd/m^2 of white in SDR pictures and of graphics in HDR ones (ITU-R BT.2408), and of the HLG display meant.
WHITE, HLG_PEAK, PQ_PEAK = 203.0, 1000.0, 10000.0
DISPLAY_GAMMA = 2.4  # ITU-R BT.1886
LEVELS = 1 << 16
NOMINAL = 255 * 256  # what swscale makes of full signal in 16 bit
# Linear BT.2020 to linear BT.709 (ITU-R BT.2087).
NARROW = np.array([[1.66049, -0.58764, -0.07285], [-0.12455, 1.13290, -0.00835], [-0.01815, -0.10058, 1.11873]], np.float32)
LUMA_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
# What half a code of 8 bit of Y', C'b and C'r makes in R', G' and B' (BT.2020).
HALF_CODES = np.array([[1 / 219, 1 / 219, 1 / 219], [0, -0.16455 / 224, 1.8814 / 224], [1.4746 / 224, -0.57135 / 224, 0]]) / 2


@dataclass(frozen=True)
class Colours:
    """How the numbers of a stream mean colours: code points of H.273, 2 where the stream does not say (range: 0).

    Attributes:
        matrix, primaries, transfer, range: as the stream says.
        coding: the matrix that it is read and written with; where the stream says nothing, the one that players take.
        rgb: the stream holds RGB, not Y'CbCr.
    """

    matrix: int = BT709
    primaries: int = BT709
    transfer: int = BT709
    range: int = LIMITED
    coding: int = BT709
    rgb: bool = False

    @property
    def hdr(self) -> str | None:
        """Name of the HDR transfer, or None."""
        return {PQ: "PQ", HLG: "HLG"}.get(self.transfer)

    @property
    def scale(self) -> int:
        """Range that the stream is read and written with."""
        return FULL if self.range == FULL else LIMITED

    def written(self) -> Colours:
        """Return the colours of what is made of the stream: BT.709 of HDR and RGB, else the same."""
        return SDR if self.hdr or self.rgb else self

    def stated(self) -> Colours:
        """Return the same with the matrix said, for pictures of another size, for which players would take another one."""
        return replace(self, matrix=self.coding)


SDR = Colours()


class Coded(NamedTuple):
    """A frame as it is coded: its planes [H, W] and twice [H/2, W/2], upright, and the RGB picture that was read from it."""

    planes: tuple[np.ndarray, np.ndarray, np.ndarray]
    image: Image.Image


def colours_of(frame: av.VideoFrame, *, name: object) -> Colours:
    """Return how a frame's numbers mean colours.

    Where a stream does not name its matrix, players take BT.709 for more than 576 rows or 1280 columns and up, and BT.601
    below.

    Raises:
        UserError: naming the clip, for a matrix that cannot be read.
    """
    if frame.format.is_rgb or frame.format.name.startswith(("pal8", "gray", "mono")):
        return Colours(rgb=True)
    large = frame.width >= 1280 or frame.height > 576
    matrix = int(frame.colorspace)
    coding = (BT709 if large else SMPTE170M) if matrix in (0, 3, UNSPECIFIED) else matrix
    if coding not in MATRICES:
        raise UserError(f"{name}: its colours are coded in a way that cannot be read (matrix {matrix} of H.273); convert it to "
                        "BT.709")
    full = frame.format.name.startswith("yuvj")
    return Colours(matrix, int(frame.color_primaries), int(frame.color_trc), FULL if full else int(frame.color_range), coding)


def read_rgb(frame: av.VideoFrame, colours: Colours) -> np.ndarray:
    """Return a frame as RGB [H, W, 3] of 8 bit, HDR toned down to SDR, transparency on white."""
    if colours.rgb and frame.format.name in ("bgra", "rgba", "argb", "abgr", "pal8", "gbrap"):
        pixels = frame.to_ndarray(format="rgba").astype(np.uint16)
        cover = pixels[..., 3:]
        return ((pixels[..., :3] * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)
    if colours.rgb:
        return frame.to_ndarray(format="rgb24")
    kind = "gbrp16le" if colours.hdr else "rgb24"  # swscale gives wrong colours in packed 16 bit with whole chroma
    shown = frame.reformat(format=kind, src_colorspace=MATRICES[colours.coding], interpolation=EXACTLY,
                           src_color_range=colours.scale, dst_color_range=FULL)
    pixels = shown.to_ndarray()
    return toned_down(pixels, colours.transfer, bits=frame.format.components[0].bits) if colours.hdr else pixels


def read_planes(frame: av.VideoFrame, colours: Colours) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the planes of a frame of even sides in 4:2:0 with 8 bit, or None for RGB, HDR, and odd sides."""
    if colours.rgb or colours.hdr or frame.width % 2 or frame.height % 2:
        return None
    if frame.format.name not in ("yuv420p", "yuvj420p"):
        space, scale = MATRICES[colours.coding], colours.scale
        frame = frame.reformat(format="yuv420p", src_colorspace=space, dst_colorspace=space, interpolation=EXACTLY,
                               src_color_range=scale, dst_color_range=scale)
    return tuple(np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, :plane.width].copy()
                 for plane in frame.planes)


def coded_frame(image: Image.Image, colours: Colours, kind: str, before: Coded | None = None) -> av.VideoFrame:
    """Return an RGB picture as a frame to encode, tagged with its colours.

    Args:
        image: the picture.
        colours: of the stream that it becomes part of.
        kind: yuv420p or yuv444p.
        before: where the picture is what was read from this, the planes stay to the bit (yuv420p only).
    """
    pixels = np.ascontiguousarray(np.asarray(image))
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format=kind, dst_colorspace=MATRICES[colours.coding], interpolation=EXACTLY, src_color_range=FULL,
        dst_color_range=colours.scale)
    if before is not None and before.image.size == image.size and kind == "yuv420p":
        changed = (pixels != np.asarray(before.image)).any(axis=2)  # [H, W]
        halves = changed.reshape(changed.shape[0] // 2, 2, -1, 2).any(axis=(1, 3))  # [H, W] -> [H/2, 2, W/2, 2] -> [H/2, W/2]
        new = read_planes(frame, replace(colours, rgb=False, transfer=UNSPECIFIED))
        planes = [np.where(mask, drawn, kept) for mask, drawn, kept in zip((changed, halves, halves), new, before.planes)]
        frame = av.VideoFrame.from_ndarray(np.concatenate([plane.reshape(-1, image.width) for plane in planes]),
                                           format="yuv420p")
    frame.colorspace, frame.color_range = colours.matrix, colours.range
    return frame


@functools.lru_cache(maxsize=2)
def _scene_light(transfer: int) -> np.ndarray:
    """Return linear light [65536] of signal levels: of PQ in cd/m^2 on the display, of HLG from 0 to 1 in the scene (BT.2100),
    and its slope per unit of signal."""
    signal = np.minimum(np.arange(LEVELS) / NOMINAL, 1.0)
    if transfer == PQ:
        power = signal ** (1.0 / 78.84375)
        light = PQ_PEAK * (np.maximum(power - 0.8359375, 0.0) / (18.8515625 - 18.6875 * power)) ** (1.0 / 0.1593017578125)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3.0, (np.exp((signal - c) / a) + b) / 12.0)
    return np.stack([light, np.gradient(light) * NOMINAL]).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _display_signal() -> np.ndarray:
    """Return 8-bit signal levels [65536] of display light from 0 to 1, by BT.1886."""
    return (np.linspace(0.0, 1.0, LEVELS) ** (1.0 / DISPLAY_GAMMA) * 255.0 + 0.5).astype(np.uint8)


def toned_down(pixels: np.ndarray, transfer: int, *, bits: int = 10) -> np.ndarray:
    """Return HDR as SDR: light as on a display, its white of 203 cd/m^2 (BT.2408) the white of SDR, in BT.709.

    What is brighter, and colours beyond BT.709, end at the border, with the hue kept: E / max(1, max_rgb(E)). In a vivid
    colour, one code more or less of the stream makes up to 25 of 255 in its darkest channel; where no light would have had
    the same codes, there is none.

    Args:
        pixels: [H, W, 3], R'G'B' of BT.2020 from 0 to 65280.
        transfer: PQ or HLG.
        bits: of the stream's codes.
    """
    light, slope = (table[pixels] for table in _scene_light(transfer))
    narrow = light @ NARROW.T
    unsure = sum(abs(slope @ (NARROW * half).T) for half in (HALF_CODES / 2 ** (bits - 8)).astype(np.float32))
    narrow[narrow <= unsure] = 0.0
    if transfer == HLG:
        # The system gamma of 1.2 for a display of 1000 cd/m^2: F = L_w Y_s^0.2 E.
        luma = light @ LUMA_2020
        narrow *= (HLG_PEAK * np.maximum(luma, 1e-6) ** 0.2)[..., None]
    narrow /= WHITE
    narrow /= np.maximum(narrow.max(axis=2, keepdims=True), 1.0)
    return _display_signal()[(narrow * (LEVELS - 1) + 0.5).astype(np.uint16)]
