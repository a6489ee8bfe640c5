"""Blend a restyled face back into the photo it was cut from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.ndimage
import torch
from PIL import Image, ImageDraw
from skimage.color import lab2rgb, rgb2lab
from torch.nn import functional as F

from data.landmarks68 import EYES, REGIONS
from faces.align import crop_map
from models.window import window_mean

COLOURS = ("style", "photo")
# The blended region, in fractions of the crop: a rounded rectangle that ends inside the crop on every side.
CENTRE = (0.5, 0.5)
RADII = (0.485, 0.49)
ROUNDNESS = 3.0
FEATHER = 0.3
# Around a face's outline: how far it is blended fully, and over what width it then fades, in fractions of the crop.
GROW = 0.03
SOFT = 0.08
# The forehead reaches this far above the brows, in distances from the chin to the eyes.
FOREHEAD = 0.55
CHIN = 8
OUTLINE_SIDE = 256
BLURRED_SIDE = 256
STRIP_ROWS = 256


def feather(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the weight of the face at crop coordinates: 1 inside, exactly 0 near and beyond the crop's border.

    A superellipse ((|u - cu| / ru)^p + (|v - cv| / rv)^p)^(1/p) = r; the weight falls smoothly from r = 0.7 to r = 1.

    Args:
        u, v: horizontal and vertical place as fractions of the crop's side, of one shape.
    """
    radius = (np.abs((u - CENTRE[0]) / RADII[0]) ** ROUNDNESS + np.abs((v - CENTRE[1]) / RADII[1]) ** ROUNDNESS)
    t = np.clip((1.0 - radius ** (1.0 / ROUNDNESS)) / FEATHER, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def outline_weight(outlines: Sequence[np.ndarray], side: int, *, background: np.ndarray | None = None) -> np.ndarray:
    """Return the weight [side, side] of the faces' outlines: 1 on them, falling smoothly to exactly 0 around them.

    An outline is the jaw closed by the brows, which are raised to the top of the forehead. With the outlines of the
    photo's face and of the drawn one both are covered, so that nothing of a face that shrank stays visible.

    Args:
        outlines: landmarks [68, 2] as fractions of the crop's side.
        side: of the result in px.
        background: [G, G], how far what is drawn there is background, from 0 to 1. Around the outlines it weighs nothing: a
            drawing's own background would be a halo in the photo's.
    """
    canvas = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(canvas)
    for points in outlines:
        eyes = np.mean([points[eye].mean(axis=0) for eye in EYES], axis=0)
        forehead = points[REGIONS["brows"]][::-1] + FOREHEAD * (eyes - points[CHIN])
        polygon = np.concatenate([points[REGIONS["jaw"]], forehead]) * side
        draw.polygon([tuple(point) for point in polygon.tolist()], fill=255)
    distance = scipy.ndimage.distance_transform_edt(np.asarray(canvas) == 0) / side
    t = np.clip((GROW + SOFT - distance) / SOFT, 0.0, 1.0)
    weight = t * t * (3.0 - 2.0 * t)
    if background is not None:
        drawn = Image.fromarray(background.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
        weight *= 1.0 - np.clip(distance / GROW, 0.0, 1.0) * np.asarray(drawn)
    return weight.astype(np.float32)


def matched_colours(face: np.ndarray, original: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Give a face the mean and the spread of the original's colours in Lab (Reinhard et al. 2001).

    Args:
        face, original: [S, S, 3] in 0..1.
        weight: [S, S], where colours are counted.
    """
    source, target = rgb2lab(face), rgb2lab(original)
    total = weight.sum()
    for channel in range(3):
        means = [(lab[..., channel] * weight).sum() / total for lab in (source, target)]
        spreads = [np.sqrt(((lab[..., channel] - mean) ** 2 * weight).sum() / total)
                   for lab, mean in zip((source, target), means)]
        ratio = np.clip(spreads[1] / max(spreads[0], 1e-3), 0.5, 2.0)
        source[..., channel] = (source[..., channel] - means[0]) * ratio + means[1]
    return np.clip(lab2rgb(source), 0.0, 1.0)


def harmonised(
    face: Image.Image, original: Image.Image, *, colour: str = "style", mask: Image.Image | None = None,
) -> Image.Image:
    """Bring a face's border to the photo's tones, so that no frame shows, and keep its middle.

    The difference of the two crops, blurred over an eighth of the side, is added with a weight that grows from 0 in the
    middle to 1 where the blending begins.

    Args:
        face: the restyled crop, square RGB.
        original: the photo's crop.
        colour: "style" keeps the middle's colours, "photo" gives it those of the photo.
        mask: what is blended, from 0 to 1, of any side; none blends the whole crop.
    """
    side = face.width
    parts = [np.asarray(face.convert("RGB"), np.float32) / 255.0,
             np.asarray(original.convert("RGB").resize(face.size, Image.Resampling.LANCZOS), np.float32) / 255.0]
    place = (np.arange(side) + 0.5) / side
    weight = feather(*np.meshgrid(place, place))
    if mask is not None:
        way = Image.Resampling.BOX if side < mask.width else Image.Resampling.BILINEAR
        weight = weight * np.asarray(mask.resize(face.size, way))
    if colour == "photo":
        parts[0] = matched_colours(parts[0], parts[1], weight)
    difference = _blurred(parts[1] - parts[0])
    middle = np.clip(weight * 1.25 - 0.25, 0.0, 1.0)[..., None]
    mixed = parts[0] + (1.0 - middle) * difference
    return Image.fromarray((np.clip(mixed, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))


def _blurred(image: np.ndarray) -> np.ndarray:
    """Return an image [S, S, 3] blurred by a Gaussian of a sixteenth of its side, larger ones by way of a smaller copy."""
    maps = torch.from_numpy(image).permute(2, 0, 1)[None]
    side = maps.shape[3]
    small = maps if side <= BLURRED_SIDE else F.interpolate(maps, size=(BLURRED_SIDE, BLURRED_SIDE), mode="area")
    blurred = window_mean(small.contiguous(), small.shape[3] / 16)
    if side > BLURRED_SIDE:
        blurred = F.interpolate(blurred, size=(side, side), mode="bicubic", align_corners=False)
    return blurred[0].permute(1, 2, 0).numpy()


def paste_back(
    photo: Image.Image, face: Image.Image, corners: np.ndarray, *, original: Image.Image | None = None,
    colour: str = "style", outlines: Sequence[np.ndarray] = (), background: np.ndarray | None = None, in_place: bool = False,
) -> Image.Image:
    """Blend a restyled crop into its photo at the photo's resolution.

    The crop is mapped by the inverse of the alignment and weighted by ``feather`` and ``outline_weight``; pixels of
    weight 0 stay as they are to the bit. Works on strips, so that beside the result the memory does not grow with the
    photo.

    Args:
        photo: RGB photo of any size.
        face: restyled crop, square.
        corners: the crop's corners in the photo, see ``faces.align.photo_corners``.
        original: the crop before restyling, to which the border's tones are matched; None leaves the face's tones.
        colour: "style" or "photo", see ``harmonised``; "photo" needs ``original``.
        outlines: landmarks [68, 2] as fractions of the crop's side, of the photo's face and of the drawn one; only what
            they enclose is blended, so that hair and background stay the photo's. None blends the whole crop.
        background: [G, G], where the restyled crop shows background, see ``outline_weight``.
        in_place: change ``photo`` itself, which saves a copy.

    Returns:
        RGB image of the photo's size.

    Raises:
        ValueError: for corners of another shape, a colour that is not known, or "photo" without ``original``.
    """
    corners = np.asarray(corners, np.float64)
    if corners.shape != (4, 2) or colour not in COLOURS:
        raise ValueError(f"expected corners [4, 2] and a colour of {COLOURS}, got {corners.shape} and {colour!r}")
    if original is None and colour == "photo":
        raise ValueError('colour "photo" needs the original crop')
    if in_place and photo.mode != "RGB":
        raise ValueError(f"only an RGB photo can be changed in place, got {photo.mode}")
    mask = Image.fromarray(outline_weight(outlines, OUTLINE_SIDE, background=background)) if outlines else None
    if original is not None:
        face = harmonised(face, original, colour=colour, mask=mask)
    length = float(np.hypot(*(corners[3] - corners[0])))
    if length < face.width:
        # Bicubic interpolation alone would alias where the photo is coarser than the crop.
        side = max(8, int(np.ceil(length)))
        face = face.resize((side, side), Image.Resampling.LANCZOS)
    result = photo if in_place else photo.convert("RGB") if photo.mode != "RGB" else photo.copy()
    ends = corners if mask is None else _around(mask, corners)
    low = np.clip(np.floor(ends.min(axis=0)).astype(int), 0, photo.size)
    high = np.clip(np.ceil(ends.max(axis=0)).astype(int), 0, photo.size)
    matrix = crop_map(corners)
    for top in range(low[1], high[1], STRIP_ROWS):
        _blend_strip(result, face, matrix, mask, (low[0], top, high[0], min(top + STRIP_ROWS, high[1])))
    return result


def _around(mask: Image.Image, corners: np.ndarray) -> np.ndarray:
    """Return the corners [4, 2] in the photo of what part of a crop a mask shows, and a pixel of the mask around it."""
    left, top, right, bottom = np.array(mask.getbbox() or (0, 0, 0, 0)) / mask.width + np.array([-1, -1, 1, 1]) / mask.width
    across, down = corners[3] - corners[0], corners[1] - corners[0]
    return corners[0] + np.array([u * across + v * down for u in (left, right) for v in (top, bottom)])


def _blend_strip(
    result: Image.Image, face: Image.Image, matrix: np.ndarray, mask: Image.Image | None,
    box: tuple[int, int, int, int],
) -> None:
    """Blend the part of the face that lies in ``box`` (left, top, right, bottom) into the image in place."""
    left, top, right, bottom = box
    if right <= left:
        return
    x, y = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
    u, v = ((matrix[row, 0] * x + matrix[row, 1] * y + matrix[row, 2]).astype(np.float32) for row in (0, 1))
    weight = feather(u, v)
    # Pillow maps the middle of an output pixel to continuous coordinates of the input.
    rows = np.concatenate([matrix[:, :2], (matrix[:, :2] @ [left, top] + matrix[:, 2])[:, None]], axis=1).flatten()
    size, affine = (right - left, bottom - top), Image.Transform.AFFINE
    if mask is not None:
        places = torch.from_numpy(np.stack([u, v], axis=2) * 2.0 - 1.0)[None]
        weight *= F.grid_sample(torch.from_numpy(np.array(mask))[None, None], places, align_corners=False)[0, 0].numpy()
    drawn = face.transform(size, affine, rows * face.width, Image.Resampling.BICUBIC)
    under = np.asarray(result.crop(box), np.float32)
    mixed = under + weight[..., None] * (np.asarray(drawn, np.float32) - under)
    result.paste(Image.fromarray((mixed + 0.5).astype(np.uint8)), (left, top))
