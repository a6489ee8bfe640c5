"""What a photo's file says beside its colours, and how it goes into the file that is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from data.colour import ProfileError, from_srgb, profile_mode, to_srgb

# What of a camera's data is of the photo and not of the file that holds it; sizes, offsets and the thumbnail are not.
KEPT_TAGS = (ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software,
             ExifTags.Base.DateTime, ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTimeDigitized, ExifTags.Base.Artist,
             ExifTags.Base.Copyright, ExifTags.Base.Rating)
SIZE_TAGS = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight, ExifTags.IFD.Interop)
WHITE = 255.0
STRIP_ROWS = 256


@dataclass(frozen=True)
class Origin:
    """What was in a photo's file.

    Attributes:
        pixels: the upright photo as it is in the file, RGB or RGBA, where ``read_photo`` gave it in other colours or on white;
            None where it gave it as it is.
        profile: its RGB colour profile.
        exif: date, camera, place and the like; orientation 1, for photos are read upright.
        xmp: its XMP packet.
        dpi: dots per inch, horizontal and vertical.
        notes: what should be known of the reading, half a line each.
    """

    pixels: Image.Image | None = None
    profile: bytes | None = None
    exif: bytes = b""
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def restored(self, image: Image.Image) -> Image.Image:
        """Return a picture of the photo's size in the photo's own colours and transparency.

        Pixels that are as ``read_photo`` gave them become what they were in the file, to the bit.

        Raises:
            ValueError: if the picture has another size.
        """
        if self.pixels is None:
            return image
        if image.size != self.pixels.size:
            raise ValueError(f"expected a picture of the photo's {self.pixels.size} px, got {image.size}")
        result = self.pixels.copy()
        for top in range(0, image.height, STRIP_ROWS):
            box = (0, top, image.width, min(top + STRIP_ROWS, image.height))
            result.paste(self._strip(self.pixels.crop(box), image.crop(box)), box[:2])
        return result

    def _strip(self, own: Image.Image, drawn: Image.Image) -> Image.Image:
        changed = (np.asarray(shown(own, self.profile)) != np.asarray(drawn)).any(axis=2)  # [H, W]
        pixels = np.array(own)
        colours = np.asarray(drawn, np.float32)
        if own.mode == "RGBA":
            cover = np.maximum(pixels[..., 3:].astype(np.float32) / WHITE, 1.0 / WHITE)
            colours = WHITE - (WHITE - colours) / cover  # what lies on white so as to look as drawn
        colours = Image.fromarray((np.clip(colours, 0.0, WHITE) + 0.5).astype(np.uint8))
        colours = from_srgb(colours, self.profile) if self.profile else colours
        pixels[..., :3][changed] = np.asarray(colours)[changed]
        return Image.fromarray(pixels)

    def options(self, kind: str) -> dict[str, Any]:
        """Return what Pillow's ``save`` takes for a file of ``kind`` PNG or JPEG."""
        options: dict[str, Any] = {"icc_profile": self.profile}
        if self.exif:
            options["exif"] = self.exif
        if self.dpi:
            options["dpi"] = self.dpi
        if self.xmp and kind == "JPEG":
            options["xmp"] = self.xmp
        elif self.xmp:
            options["pnginfo"] = PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", self.xmp.decode("utf-8", "replace"))
        return options


def shown(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return an RGB or RGBA image as sRGB on white; ``profile`` is that of its colours, None for sRGB."""
    colours = image.convert("RGB") if image.mode == "RGBA" else image  # drops the transparency
    colours = to_srgb(colours, profile) if profile else colours
    if image.mode != "RGBA":
        return colours
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(colours, mask=image.getchannel("A"))
    return canvas


def usable_profile(profile: bytes | None, mode: str) -> tuple[bytes | None, tuple[str, ...]]:
    """Return a profile if it can be used for an image of a mode, and else None with a note that says why."""
    try:
        if profile and profile_mode(profile) == mode:
            to_srgb(Image.new(mode, (1, 1)), profile)
            return profile, ()
        return None, (f"its colour profile is not one for {mode}, so it was left aside",) if profile else ()
    except ProfileError as error:
        return None, (f"{error}, so its colours were taken for sRGB",)


def kept_exif(exif: Image.Exif) -> bytes:
    """Return date, camera, place and the like of an upright photo, with orientation 1; empty where there is nothing."""
    kept = Image.Exif()
    for tag in KEPT_TAGS:
        if tag in exif:
            kept[tag] = exif[tag]
    for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        values = {tag: value for tag, value in exif.get_ifd(part).items() if tag not in SIZE_TAGS}
        if values:
            kept[part] = values
    if not len(kept):
        return b""
    kept[ExifTags.Base.Orientation] = 1
    return kept.tobytes()


def kept_dpi(info: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the dots per inch of Pillow's ``info``, or None where they make no sense."""
    try:
        x, y = (float(value) for value in info.get("dpi", ()))
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if all(math.isfinite(v) and 1.0 <= v <= 65535.0 for v in (x, y)) else None
