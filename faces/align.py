"""FFHQ alignment: an oriented square crop from 68 landmarks (Karras et al. 2019, appendix C of the StyleGAN paper)."""

from __future__ import annotations

import numpy as np
import scipy.ndimage
from PIL import Image

from data.landmarks68 import EYES


def ffhq_quad(landmarks: np.ndarray) -> np.ndarray:
    """Return the crop's corners [4, 2] (top left, bottom left, bottom right, top right) in px.

    x = eye_to_eye - rot90(eye_to_mouth), scaled to max(2 |eye_to_eye|, 1.8 |eye_to_mouth|); the centre lies a tenth of
    the way from the eyes to the mouth.

    Raises:
        ValueError: unless the landmarks are [68, 2] and finite.
    """
    points = np.asarray(landmarks, dtype=np.float64)
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise ValueError(f"expected finite landmarks [68, 2], got {list(points.shape)}")
    left, right = (points[eye].mean(axis=0) for eye in EYES)
    eyes = (left + right) * 0.5
    eye_to_eye = right - left
    eye_to_mouth = (points[48] + points[54]) * 0.5 - eyes
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    length = np.hypot(*x)
    if length == 0:
        raise ValueError("the landmarks coincide, so they span no face")
    x = x / length * max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8)
    y = np.flipud(x) * [-1, 1]
    centre = eyes + eye_to_mouth * 0.1
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def photo_corners(landmarks: np.ndarray, image_size: tuple[int, int], *, output_size: int = 1024) -> np.ndarray:
    """Return where the corners of ``align_face``'s result lie in the photo, [4, 2] in continuous px, order of ffhq_quad.

    Pixel i covers i to i + 1. ``align_face`` cuts large faces out of a copy that is smaller by a whole factor, and its
    half pixel is one of that copy; this is taken into account.

    Args:
        landmarks: [68, 2] in px of the photo.
        image_size: (width, height) of the photo.
        output_size: side of the result in px.
    """
    quad = ffhq_quad(landmarks)
    shrink = shrink_factor(quad, output_size)
    if shrink <= 1:
        return quad + 0.5
    scale = [side / int(np.rint(side / shrink)) for side in image_size]
    return (quad / shrink + 0.5) * scale


def crop_map(corners: np.ndarray) -> np.ndarray:
    """Return the [2, 3] affine map from a photo's continuous coordinates to fractions of the crop.

    Args:
        corners: [4, 2] as of ``photo_corners``: top left, bottom left, bottom right, top right.
    """
    origin, across, down = corners[0], corners[3] - corners[0], corners[1] - corners[0]
    inverse = np.linalg.inv(np.stack([across, down], axis=1))
    return np.concatenate([inverse, -(inverse @ origin)[:, None]], axis=1)


def in_crop(points: np.ndarray, landmarks: np.ndarray, image_size: tuple[int, int], *, output_size: int = 1024) -> np.ndarray:
    """Return points [K, 2] in px of a photo in px of the crop that ``align_face`` cuts by its landmarks [68, 2]."""
    matrix = crop_map(photo_corners(landmarks, image_size, output_size=output_size))
    return ((points + 0.5) @ matrix[:, :2].T + matrix[:, 2]) * output_size - 0.5


def shrink_factor(quad: np.ndarray, output_size: int) -> int:
    """Return the whole factor by which a photo is made smaller before its crop, 1 or less for none."""
    return int(np.floor(float(np.hypot(*(quad[3] - quad[0]))) / output_size * 0.5))


def _pad_softly(image: Image.Image, pad: np.ndarray, size: float) -> Image.Image:
    """Extend by reflection that fades into a blur and then into the median colour; pad is (left, top, right, bottom)."""
    pixels = np.pad(np.float32(image), ((pad[1], pad[3]), (pad[0], pad[2]), (0, 0)), "reflect")
    height, width = pixels.shape[:2]
    y, x, _ = np.ogrid[:height, :width, :1]
    mask = np.maximum(
        1.0 - np.minimum(np.float32(x) / pad[0], np.float32(width - 1 - x) / pad[2]),
        1.0 - np.minimum(np.float32(y) / pad[1], np.float32(height - 1 - y) / pad[3]),
    )
    blur = size * 0.02
    blurred = scipy.ndimage.gaussian_filter(pixels, [blur, blur, 0])
    pixels += (blurred - pixels) * np.clip(mask * 3.0 + 1.0, 0.0, 1.0)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(mask, 0.0, 1.0)
    return Image.fromarray(np.uint8(np.clip(np.rint(pixels), 0, 255)))


def align_face(
    image: Image.Image, landmarks: np.ndarray, *, output_size: int = 1024, enable_padding: bool = True
) -> Image.Image:
    """Crop a face as FFHQ does.

    Args:
        image: RGB photo.
        landmarks: [68, 2] in px of the photo.
        output_size: side of the result in px.
        enable_padding: extend the photo where the crop leaves it.

    Returns:
        RGB image of ``output_size``; ``photo_corners`` tells where its corners lie in the photo.

    Raises:
        ValueError: for landmarks as in ``ffhq_quad``, or when their crop lies outside the photo.
    """
    quad = ffhq_quad(landmarks)
    size = float(np.hypot(*(quad[3] - quad[0])))
    shrink = shrink_factor(quad, output_size)
    if shrink > 1:
        smaller = tuple(int(np.rint(side / shrink)) for side in image.size)
        image = image.resize(smaller, Image.Resampling.LANCZOS)
        quad, size = quad / shrink, size / shrink
    border = max(int(np.rint(size * 0.1)), 3)
    low, high = np.floor(quad.min(axis=0)).astype(int), np.ceil(quad.max(axis=0)).astype(int)
    limits = np.array(image.size)
    start, end = np.maximum(low - border, 0), np.minimum(high + border, limits)
    if (end <= start).any():
        raise ValueError(f"the face's crop {low.tolist()} to {high.tolist()} lies outside the {image.size} px photo")
    if (end - start < limits).any():
        image = image.crop((*start, *end))
        quad = quad - start
    low, high = np.floor(quad.min(axis=0)).astype(int), np.ceil(quad.max(axis=0)).astype(int)
    pad = np.maximum(np.concatenate([border - low, high - np.array(image.size) + border]), 0)
    if enable_padding and pad.max() > border - 4:
        pad = np.maximum(pad, int(np.rint(size * 0.3)))
        image = _pad_softly(image, pad, size)
        quad = quad + pad[:2]
    corners = (quad + 0.5).flatten()
    return image.transform((output_size, output_size), Image.Transform.QUAD, corners, Image.Resampling.BILINEAR)
