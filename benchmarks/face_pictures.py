"""Pictures for ``benchmarks.faces``: things without a face, faces drawn with known warps, and parts that are known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from data.images import read_image, to_tensor
from data.looks import LOOKS
from data.random_drawings import drawing
from data.warps import backward_grid
from faces.parts import PARTS

CONTOURS = Path(__file__).with_name("contours.json")
PAINTINGS = Path(__file__).parent.parent / "data" / "portraits"
SIDE = 512
# Pictures of scikit-image without a face, all in its wheel, and those of which halves are looked at too.
THINGS = ("brick", "cell", "checkerboard", "chelsea", "clock", "coffee", "coins", "colorwheel", "grass", "gravel", "horse",
          "hubble_deep_field", "immunohistochemistry", "logo", "microaneurysms", "moon", "page", "retina", "rocket",
          "shepp_logan_phantom", "stereo_motorcycle", "text")
HALVES = ("chelsea", "coffee", "hubble_deep_field", "retina", "rocket", "stereo_motorcycle")
# Parts of the astronaut's picture beside and below the face.
BESIDE = ((0, 0, 120, 300), (350, 0, 512, 300), (0, 230, 512, 512), (230, 240, 512, 512))


def bundled(name: str) -> Image.Image:
    """Return a picture of scikit-image as RGB, enlarged to 400 px where it is smaller."""
    pixels = getattr(skimage.data, name)()
    pixels = pixels[0] if isinstance(pixels, tuple) else pixels
    picture = Image.fromarray(pixels if pixels.dtype == np.uint8 else np.uint8(255.0 * pixels)).convert("RGB")
    factor = max(1.0, 400.0 / min(picture.size))
    return picture.resize([round(side * factor) for side in picture.size], Image.Resampling.BICUBIC)


def patterns() -> list[Image.Image]:
    """Return twelve patterns drawn by code: waves, rings, chessboards, clouds of noise, and discs and bars at random places."""
    y, x = np.indices((SIDE, SIDE)) / SIDE
    rng = np.random.default_rng(0)
    grey = [np.sin(40.0 * (x + 0.3 * y)), np.sin(90.0 * np.hypot(x - 0.5, y - 0.5)), np.sign(np.sin(30.0 * x) * np.sin(30.0 * y)),
            np.sin(60.0 * np.arctan2(y - 0.5, x - 0.5))]
    for cells in (8, 24, 64, 256):
        noise = Image.fromarray(rng.uniform(-1.0, 1.0, (cells, cells)).astype(np.float32))
        grey.append(np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    made = [Image.fromarray(np.uint8(127.5 * (np.clip(each, -1.0, 1.0) + 1.0))).convert("RGB") for each in grey]
    for shape in ("ellipse", "rectangle") * 2:
        picture = Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(0, 256, 3).tolist()))
        draw = ImageDraw.Draw(picture)
        for _ in range(60):
            place, size = rng.uniform(0, SIDE, 2), rng.uniform(5, 90, 2)
            getattr(draw, shape)((*(place - size), *(place + size)), fill=tuple(rng.integers(0, 256, 3).tolist()))
        made.append(picture)
    return made


def things() -> list[Image.Image]:
    """Return 50 pictures without a face: of scikit-image, some in halves, parts of its astronaut beside the face, patterns."""
    found = [bundled(name) for name in THINGS]
    for name in HALVES:
        picture = bundled(name)
        middle = picture.width // 2
        found += [picture.crop((0, 0, middle, picture.height)), picture.crop((middle, 0, *picture.size))]
    return found + [Image.fromarray(skimage.data.astronaut()).crop(box) for box in BESIDE] + patterns()


def drawn(photo: Image.Image, points: np.ndarray, seed: int, look: str | None = None) -> tuple[Tensor, Image.Image, np.ndarray]:
    """Draw a face in a look and a deformation by a seed.

    Args:
        photo: square.
        points: its landmarks [68, 2] as fractions of the side.
        seed: of all that is random.
        look: one of ``LOOKS``; by the seed where not given.

    Returns:
        Where each pixel was in the photo, as a grid for ``grid_sample``, the drawing of the photo's size, its landmarks in px.
    """
    chosen = LOOKS[look or sorted(LOOKS)[seed % len(LOOKS)]]
    picture, moved = drawing(to_tensor(photo, photo.width), points, chosen, seed=seed)
    grid = torch.as_tensor(backward_grid(points, moved, photo.width)).float()
    return grid, Image.fromarray(np.uint8(picture * 255.0 + 0.5)), moved * photo.width


def contours(photos: Path) -> Iterator[tuple[str, Image.Image, np.ndarray]]:
    """Yield pictures of 512 px whose parts were outlined by hand: name, picture, part of each pixel [512, 512].

    ``contours.json`` has polygons (part, x0, y0, x1, y1 ... in px of 512), later ones over earlier ones: outlines of
    ``face_parts`` that were looked at one by one and corrected where they were wrong, ``photo_00061`` from nothing.

    Args:
        photos: folder of FFHQ's ``photo_*``.
    """
    for name, polygons in json.loads(CONTOURS.read_text()).items():
        if name == "astronaut":
            picture = Image.fromarray(skimage.data.astronaut()).crop((80, 0, 380, 300))
        else:
            picture = read_image((photos if name.startswith("photo_") else PAINTINGS) / f"{name}.jpg")
        mask = Image.new("L", (SIDE, SIDE))
        for part, polygon in polygons:
            ImageDraw.Draw(mask).polygon(polygon, fill=PARTS.index(part))
        yield name, picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.asarray(mask)


def drawn_contours(outlined: Sequence[tuple[Image.Image, np.ndarray, np.ndarray]], count: int
                   ) -> Iterator[tuple[Image.Image, np.ndarray]]:
    """Yield oil paintings of outlined photos (picture, parts, landmarks in px), deformed, with their parts deformed alike.

    The other looks paint a ground of their own where they take it to be, so the photo's parts are not theirs.
    """
    for seed in range(count):
        picture, parts, landmarks = outlined[seed % len(outlined)]
        grid, drawing_of_it, _ = drawn(picture, (landmarks + 0.5) / SIDE, seed, "oil")
        moved = F.grid_sample(torch.from_numpy(parts.astype(np.float32))[None, None], grid, mode="nearest",
                              padding_mode="reflection", align_corners=False)
        yield drawing_of_it, moved[0, 0].numpy().astype(np.uint8)
