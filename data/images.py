"""Reading and writing of image files; everything inside the project is float32 NCHW RGB in [-1, 1]."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".jpe", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
# Pillow would otherwise hand a file that begins as PostScript to an interpreter, whatever it is called.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
MAX_PIXELS = 100_000_000
MAX_SIDE = 20_000


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
    """Return the image files of a folder by name, or the one file itself; hidden files are left out.

    Raises:
        ImageError: if there is nothing at ``path`` or no image in the folder.
    """
    path = Path(path)
    if _is_file(path):
        return [path]
    try:
        if not path.is_dir():
            raise ImageError(f"{str(path)[:200]}: not found; check the path")
        entries = path.rglob("*") if recursive else path.iterdir()
        found = sorted(p for p in entries if p.suffix.lower() in SUFFIXES and _is_file(p)
                       and not any(part.startswith(".") for part in p.relative_to(path).parts))
    except OSError as error:
        raise ImageError(f"{str(path)[:200]}: cannot be read ({error.strerror}); check the path") from error
    if not found:
        raise ImageError(f"{path}: holds no images; supported are {', '.join(sorted(SUFFIXES))}")
    return found


def _flatten(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB: deep greys scaled to 8 bit, transparency on white."""
    if image.mode.startswith("I") or image.mode == "F":
        # float32 holds 16 bits exactly; the rest works in place, for a photo of 100 megapixels is 400 MB here.
        values = np.nan_to_num(np.array(image, dtype=np.float32), nan=0.0, posinf=0.0, neginf=0.0, copy=False)
        # Modes I and F have no fixed range: 16-bit files come as I;16 or I, 8-bit data may hide in either.
        most = values.max(initial=0.0)
        top = 65535.0 if image.mode.startswith("I;16") or most > 255.0 else 255.0
        if image.mode == "F" and most <= 1.0:
            top = 1.0
        values *= 255.0 / top
        values += 0.5
        image = Image.fromarray(np.clip(values, 0, 255, out=values).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(canvas, image)
    return image if image.mode == "RGB" else image.convert("RGB")  # a photo of 100 megapixels takes 400 MB


def read_image(path: str | Path) -> Image.Image:
    """Read a photo as RGB with its EXIF rotation applied; an RGB file's colour profile stays in ``info``.

    CMYK, 16-bit, greyscale, palette and transparent files are converted. Size is checked in the header, so that a
    huge file costs no memory.

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
                # A profile of another kind of colour would be wrong for the result.
                profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA", "P") else None
                result = _flatten(ImageOps.exif_transpose(image))
                result.info = {"icc_profile": profile} if profile else {}
                return result
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: is too large to be opened safely; shrink it to at most {MAX_SIDE} px per side"
                         ) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: is not an image that can be read; convert it to PNG or JPEG") from error
    except PermissionError as error:
        raise ImageError(f"{path}: no permission to read it; change its permissions") from error
    except (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, MemoryError,
            OverflowError, ArithmeticError, AssertionError) as error:
        reason = str(error).split("\n")[0][:100]
        raise ImageError(f"{path}: is damaged ({reason}); get it again or re-save it in an image program") from error


def to_tensor(image: Image.Image, size: int) -> Tensor:
    """Return an RGB image as [1, 3, size, size] in [-1, 1], resized with Lanczos."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1.0  # [S, S, 3] -> [1, 3, S, S]


def to_pil(image: Tensor) -> Image.Image:
    """Return [3, H, W] or [1, 3, H, W] in [-1, 1] as an 8-bit RGB image; values outside are clamped."""
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"expected an image [3, H, W] or [1, 3, H, W], got {list(image.shape)}")
    pixels = ((image.detach().float().cpu() + 1.0) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())  # [3, H, W] -> [H, W, 3]


def save_image(path: str | Path, image: Image.Image | Tensor) -> None:
    """Write a PNG, or a JPEG by suffix, atomically; parents are made.

    Raises:
        WriteError: if it cannot be written.
    """
    path = Path(path)
    picture = image if isinstance(image, Image.Image) else to_pil(image)
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
        if jpeg:
            picture = picture.convert("RGB")  # JPEG has no transparency
        with os.fdopen(handle, "wb") as file:
            picture.save(file, "JPEG" if jpeg else "PNG", icc_profile=picture.info.get("icc_profile"),
                         **({"quality": 95} if jpeg else {}))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise WriteError(f"{str(path)[:200]}: cannot be written ({error.strerror or error}); free space or choose "
                         "another folder") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
