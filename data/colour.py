"""Colour profiles of photos (ICC), by littleCMS: from a photo's own colours to sRGB and back."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

# What a profile of each colour space describes, and Pillow's mode of such pixels.
MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
ERRORS = (ImageCms.PyCMSError, OSError, ValueError, TypeError)


class ProfileError(ValueError):
    """A profile that cannot be used; the message is half a line that says why."""


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str, *, back: bool = False) -> ImageCms.ImageCmsTransform:
    try:
        own, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        ends = (srgb, own, "RGB", mode) if back else (own, srgb, mode, "RGB")
        return ImageCms.buildTransform(*ends, renderingIntent=INTENT, flags=FLAGS)
    except ERRORS as error:
        raise ProfileError("its colour profile is damaged") from error


@functools.lru_cache(maxsize=8)
def profile_mode(profile: bytes) -> str:
    """Return Pillow's mode of the pixels that a profile describes: RGB, L or CMYK; raises ProfileError."""
    try:
        space = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space
    except ERRORS as error:
        raise ProfileError("its colour profile is damaged") from error
    if space not in MODES:
        raise ProfileError(f"its colour profile is of a kind that photos do not have ({space.strip()})")
    return MODES[space]


@functools.lru_cache(maxsize=8)
def is_srgb(profile: bytes) -> bool:
    """Tell whether a profile leaves colours as they are, to one of 255; raises ProfileError."""
    if profile_mode(profile) != "RGB":
        return False
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    seen = np.asarray(to_srgb(Image.fromarray(cube), profile), int)
    return bool(abs(seen - cube).max() <= 1)


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an image of mode RGB, L or CMYK as sRGB.

    Relative colorimetric with black point compensation, as image programs do by default; sRGB cannot hold the most vivid
    colours of wider spaces, which end at its border.

    Args:
        image: its mode must be the profile's.
        profile: the bytes of the photo's ICC profile.

    Raises:
        ProfileError: if the profile is damaged or of another mode.
    """
    if profile_mode(profile) != image.mode:
        raise ProfileError(f"its colour profile is one for {profile_mode(profile)}, its colours are {image.mode}")
    return ImageCms.applyTransform(image, _transform(profile, image.mode))


def from_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return an sRGB image in the colours of an RGB profile; raises ProfileError."""
    return ImageCms.applyTransform(image, _transform(profile, "RGB", back=True))
