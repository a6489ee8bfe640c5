"""Reading and writing of image files; everything inside the project is sRGB, float32 NCHW RGB in [-1, 1]."""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from data.colour import MODES, is_srgb, to_srgb
from data.listing import IMAGE_SUFFIXES, Listing, list_folder
from data.origin import Origin, kept_dpi, kept_exif, shown, usable_profile

# Pillow would otherwise hand a file that begins as PostScript to an interpreter, whatever it is called.
FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM"]
if features.check("avif"):
    FORMATS.append("AVIF")
with contextlib.suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener()
    FORMATS.append("HEIF")
# Formats whose files may hold several pictures of which the first is the photo.
MOVING = ("PNG", "WEBP", "AVIF", "GIF", "TIFF")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
MAX_PIXELS = 100_000_000
MAX_SIDE = 20_000
# A picture whose longer side is longer than the other by more than this factor is no aligned face, and would be squeezed.
MAX_ASPECT = 1.02


class ImageError(ValueError):
    """An image cannot be read or written; the message is one line that names the file and the remedy."""


class WriteError(ImageError):
    """An output cannot be written: the folder or the disk is at fault, not the input."""


def _is_file(path: Path) -> bool:
    """Tell whether a file is there; a name that no file can have is one that is not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def list_images(path: str | Path, *, recursive: bool = False) -> list[Path]:
    """Return the image files of a folder in natural order, or the one file itself; hidden files are left out.

    Raises:
        ImageError: if there is nothing at ``path`` or no image in the folder.
    """
    path = Path(path)
    if _is_file(path):
        return [path]
    found = listed(path, recursive=recursive).images
    if not found:
        raise ImageError(f"{path}: holds no images; supported are {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found


def listed(path: Path, *, recursive: bool = False, without: Path | None = None) -> Listing:
    """Return what ``list_folder`` does; raises ImageError where it cannot be read."""
    try:
        if not path.is_dir():
            raise ImageError(f"{str(path)[:200]}: not found; check the path")
        return list_folder(path, recursive=recursive, without=without)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{str(path)[:200]}: cannot be read ({reason}); check the path") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """Convert greys of more than 8 bit to mode L."""
    # float32 holds 16 bits exactly; the rest works in place, for a photo of 100 megapixels is 400 MB here.
    values = np.nan_to_num(np.array(image, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0, copy=False)
    # Modes I and F have no fixed range: 16-bit files come as I;16 or I, 8-bit data may hide in either.
    most = values.max(initial=0.0)
    top = 65535.0 if image.mode.startswith("I;16") or most > 255.0 else 255.0
    if image.mode == "F" and most <= 1.0:
        top = 1.0
    values *= 255.0 / top
    values += 0.5
    return Image.fromarray(np.clip(values, 0, 255, out=values).astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, Origin]:
    """Return any image as sRGB on white, and how its colours were in the file."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit(image)
    alpha = None
    if image.mode in ("RGBA", "LA", "La", "PA", "RGBa") or "transparency" in image.info:
        grey = image.mode in ("LA", "La")
        image = image.convert("LA") if image.mode == "La" else image
        alpha = image.convert("RGBA").getchannel("A")
        image = image.convert("RGBA").convert("L" if grey else "RGB")
    if image.mode not in MODES.values():
        image = image.convert("L" if image.mode == "1" else "RGB")
    profile, notes = usable_profile(profile, image.mode)
    if image.mode != "RGB":
        image, profile = to_srgb(image, profile) if profile else image.convert("RGB"), None
    if alpha is not None:
        image = image.copy()
        image.putalpha(alpha)
    elif profile is None or is_srgb(profile):
        return image, Origin(profile=profile, notes=notes)
    return shown(image, profile), Origin(pixels=image, profile=profile, notes=notes)


def read_image(path: str | Path) -> Image.Image:
    """Return the photo of ``read_photo`` alone."""
    return read_photo(path)[0]


def read_photo(path: str | Path) -> tuple[Image.Image, Origin]:
    """Read a photo upright, as sRGB on white, and what else is in its file.

    CMYK, 16-bit, greyscale, palette and transparent files are converted, colours by their profile. Size is checked in the
    header, so that a huge file costs no memory.

    Raises:
        ImageError: if the file is missing, empty, no image, damaged or too large.
    """
    path = Path(path)
    if not _is_file(path):
        folder = len(str(path)) < 4096 and path.is_dir()
        raise ImageError(f"{str(path)[:200]}: " + ("is a folder; name one image file" if folder else
                                                   "not found; check the path"))
    try:
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: is empty; copy or download it again")
        with warnings.catch_warnings():
            # The limit below takes the place of Pillow's warning; of damaged EXIF data it says several lines.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
                    raise ImageError(f"{path}: {image.width} x {image.height} px is too large; shrink it to at most "
                                     f"{MAX_SIDE} px per side and {MAX_PIXELS // 1_000_000} megapixels")
                image.load()
                return _upright(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: is too large to be opened safely; shrink it to at most {MAX_SIDE} px per side"
                         ) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: {_other_kind(path)}") from error
    except PermissionError as error:
        raise ImageError(f"{path}: no permission to read it; change its permissions") from error
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, MemoryError,
            OverflowError, ArithmeticError, AssertionError, RuntimeError, struct.error) as error:
        reason = str(error).split("\n")[0][:100]
        raise ImageError(f"{path}: is damaged ({reason}); get it again or re-save it in an image program") from error


def _upright(opened: Image.Image) -> tuple[Image.Image, Origin]:
    """Return a loaded file as ``read_photo`` does."""
    frames, exif, info = 1, b"", opened.info
    if opened.format in MOVING:
        with contextlib.suppress(Exception):  # what follows the first picture may be damaged
            frames = opened.n_frames
    with contextlib.suppress(Exception):  # a camera's data may be damaged in any way, which says nothing of the photo
        exif = kept_exif(opened.getexif())
    upright = ImageOps.exif_transpose(opened)
    xmp = upright.info.get("xmp") or upright.info.get("XML:com.adobe.xmp") or b""
    image, origin = _in_srgb(upright, info.get("icc_profile"))
    image.info = {}
    if origin.pixels is not None:
        origin.pixels.info = {}
    notes = origin.notes + (f"holds {frames} pictures, of which the first was taken",) * (frames > 1)
    return image, replace(origin, exif=exif, xmp=xmp.encode() if isinstance(xmp, str) else xmp, dpi=kept_dpi(info), notes=notes)


def _other_kind(path: Path) -> str:
    """Say what a file is that no image reader takes, and what to do."""
    with open(path, "rb") as file:
        head = file.read(189)
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    if brand in HEIC_BRANDS and "HEIF" not in FORMATS:
        return "is a HEIC photo, whose reader is not installed; pip install pillow-heif, or convert it to JPEG"
    if brand in (b"avif", b"avis") and "AVIF" not in FORMATS:
        return "is an AVIF photo, which this Pillow cannot read; pip install -U pillow, or convert it to PNG"
    if brand in (*HEIC_BRANDS, b"avif", b"avis"):
        return "is damaged; get it again or re-save it in an image program"
    streams = head[:1] == b"G" and head[188:189] == b"G"
    if brand or streams or head[:4] in (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"OggS", b"FLV\1") or head[8:12] == b"AVI ":
        return "is a video by its content; rename it so that it ends in .mp4, .mkv or what it is"
    return "is not an image that can be read; convert it to PNG or JPEG"


def to_tensor(image: Image.Image, size: int) -> Tensor:
    """Return an RGB image as [1, 3, size, size] in [-1, 1], resized with Lanczos."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1.0  # [S, S, 3] -> [1, 3, S, S]


def squeezed(name: str, size: tuple[int, int], *, remedy: str = "use --align, or cut it to a square") -> str:
    """Return a line on a picture of (width, height) px that is taken as aligned and is not square, or nothing."""
    if max(size) <= MAX_ASPECT * min(size):
        return ""
    return f"{name}: is {size[0]} x {size[1]} px and would be squeezed to a square; {remedy}"


def aligned_tensor(image: Image.Image, size: int, *, name: str | Path, **words: str) -> Tensor:
    """Return what ``to_tensor`` does of a picture that is taken as aligned.

    Raises:
        ImageError: naming it, where it is not square; ``words`` are those of ``squeezed``.
    """
    if line := squeezed(str(name), image.size, **words):
        raise ImageError(line)
    return to_tensor(image, size)


def image_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as [1, 3, H, W] in [-1, 1], at its own size."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1.0  # [H, W, 3] -> [1, 3, H, W]


def to_pil(image: Tensor) -> Image.Image:
    """Return [3, H, W] or [1, 3, H, W] in [-1, 1] as an 8-bit RGB image; values outside are clamped."""
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"expected an image [3, H, W] or [1, 3, H, W], got {list(image.shape)}")
    pixels = ((image.detach().float().cpu() + 1.0) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())  # [3, H, W] -> [H, W, 3]


def save_image(path: str | Path, image: Image.Image | Tensor, *, origin: Origin | None = None) -> None:
    """Write a PNG, or a JPEG by suffix, atomically; parents are made.

    Args:
        path: where.
        image: sRGB.
        origin: of the photo that this is a picture of, of the same size: its colour profile, transparency, date, camera and
            resolution go into the file.

    Raises:
        WriteError: if it cannot be written.
    """
    path = Path(path)
    picture = image if isinstance(image, Image.Image) else to_pil(image)
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    kind = "JPEG" if jpeg else "PNG"
    options = origin.options(kind) if origin else {}
    picture = origin.restored(picture) if origin else picture
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        if jpeg:
            picture = picture.convert("RGB")  # JPEG has no transparency
        with os.fdopen(handle, "wb") as file:
            picture.save(file, kind, **options, **({"quality": 95} if jpeg else {}))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise WriteError(f"{str(path)[:200]}: cannot be written ({error.strerror or error}); free space or choose "
                         "another folder") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
