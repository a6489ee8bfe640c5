"""A face's parts from its 68 landmarks: masks of head and skin, and drawn eyes, brows, nose, mouth and jaw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab
from skimage.segmentation import random_walker

Colour = tuple[float, float, float]
SUPERSAMPLE = 3
WALK_SIDE = 96
RIGHT_EYE, LEFT_EYE = (36, 37, 38, 39, 40, 41), (45, 44, 43, 42, 47, 46)  # outer corner, upper lid, inner corner, lower lid
BROWS = ((17, 18, 19, 20, 21), (26, 25, 24, 23, 22))  # outer to inner end


def curve(points: np.ndarray, count: int = 40) -> np.ndarray:
    """Return ``count`` points [count, 2] on a smooth curve through points [K, 2]."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    where = np.concatenate([[0.0], np.cumsum(np.maximum(steps, 1e-6))])
    return CubicSpline(where, points, axis=0)(np.linspace(0.0, where[-1], count))


class Pen:
    """Draws smooth shapes with anti-aliasing on a picture [S, S, 3] in 0..1; points are fractions of the side.

    Args:
        picture: what is drawn on; it is left alone, see ``result``.
    """

    def __init__(self, picture: np.ndarray) -> None:
        self.picture, self.side = picture.copy(), len(picture)

    def _cover(self, draw: Callable[[ImageDraw.ImageDraw, float], None]) -> np.ndarray:
        big = self.side * SUPERSAMPLE
        layer = Image.new("L", (big, big), 0)
        draw(ImageDraw.Draw(layer), float(big))
        return np.asarray(layer.resize((self.side, self.side), Image.Resampling.BOX), dtype=np.float64) / 255.0

    def shape(self, points: np.ndarray) -> np.ndarray:
        """Return the cover [S, S] of a polygon."""
        return self._cover(lambda pen, big: pen.polygon([tuple(p) for p in points * big], fill=255))

    def disc(self, centre: np.ndarray, radius: float, *, squash: float = 1.0) -> np.ndarray:
        """Return the cover [S, S] of an ellipse of height radius and width radius * squash."""
        half = np.array([radius * squash, radius])
        return self._cover(lambda pen, big: pen.ellipse((*(centre - half) * big, *(centre + half) * big), fill=255))

    def stroke(self, points: np.ndarray, width: float, *, taper: tuple[float, float] = (0.15, 0.15)) -> np.ndarray:
        """Return the cover [S, S] of a stroke along points [K, 2].

        Args:
            points: that it passes.
            width: in the middle, a fraction of the side.
            taper: width at either end as a share.
        """
        path = curve(points)
        tangent = np.gradient(path, axis=0)
        normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / (np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9)
        t = np.linspace(0.0, 1.0, len(path))
        ends = taper[0] * (1.0 - t) + taper[1] * t
        half = 0.5 * width * (ends + (1.0 - ends) * np.sin(np.pi * t) ** 0.6)[:, None]
        return self.shape(np.concatenate([path + half * normal, (path - half * normal)[::-1]]))

    def lay(self, colour: Sequence[float] | np.ndarray, cover: np.ndarray) -> None:
        """Lay a colour over the picture where ``cover`` [S, S] is 1."""
        self.picture += (np.asarray(colour) - self.picture) * cover[..., None]

    @property
    def result(self) -> np.ndarray:
        """The picture with what was drawn."""
        return self.picture


def face_hull(points: np.ndarray, *, brow_lift: float = 0.0) -> np.ndarray:
    """Return a closed outline [K, 2] of jaw and brows; ``brow_lift`` raises the brows by that share of the face's height."""
    lift = np.array([0.0, brow_lift * np.ptp(points[:27, 1])])
    return curve(np.concatenate([points[:17], points[26:16:-1] - lift, points[:1]]), 120)


def head_mask(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return how much each pixel belongs to the head and shoulders and not to the background, [S, S] in 0..1.

    A random walk (Grady 2006) in Lab from pixels that are surely head (the face, the hair above it, the chest) and
    surely background (outside a dome over it, the sides, and the uppermost row where it is not of the colour of hair).
    """
    small = Image.fromarray((picture * 255).round().astype(np.uint8)).resize((WALK_SIDE, WALK_SIDE), Image.Resampling.BOX)
    lab = rgb2lab(np.asarray(small)) / 100.0
    y, x = (np.indices((WALK_SIDE, WALK_SIDE)) + 0.5) / WALK_SIDE
    centre_x, eyes_y = points[27, 0], points[36:48, 1].mean()
    half = np.ptp(points[:17, 0]) / 2.0
    chin, top = points[8, 1], max(0.04, eyes_y - 1.25 * half)
    pen = Pen(np.zeros((WALK_SIDE, WALK_SIDE, 3)))
    head = pen.shape(face_hull(points, brow_lift=0.25)) > 0.5
    head |= ((x - centre_x) / (0.85 * half)) ** 2 + ((y - eyes_y) / (eyes_y - top)) ** 2 < 0.8
    head |= (y > chin) & (np.abs(x - centre_x) < 0.5 * half + 1.2 * (y - chin))
    away = np.abs(x - centre_x) / half
    dome = (away / 1.65) ** 3 + (np.abs(y - eyes_y) / (1.06 * eyes_y)) ** 3 > 1.0
    back = ((away > 1.75) & (y < 0.75)) | (dome & (y < eyes_y)) | (((x < 0.03) | (x > 0.97)) & (y < 0.8))
    # Above hair that ends within the picture there is background, which the dome leaves open.
    hair, ground = (np.median(lab[part], axis=0) for part in (head & (y < top + 0.12), back & (y < eyes_y)))
    back |= (y < 1.0 / WALK_SIDE) & (np.linalg.norm(lab - ground, axis=2) < np.linalg.norm(lab - hair, axis=2))
    seeds = np.where(head, 1, np.where(back, 2, 0))
    share = random_walker(lab, seeds, beta=1500, mode="cg_j", channel_axis=-1, return_full_prob=True, prob_tol=1.0)[0]
    share = Image.fromarray(share.astype(np.float32)).resize(picture.shape[:2], Image.Resampling.BICUBIC)
    share = gaussian_filter(np.asarray(share, dtype=np.float64), 0.014 * len(picture))
    # The walk's border is steep here and soft there; a drawing's is everywhere alike.
    return gaussian_filter((share > 0.5).astype(np.float64), 0.002 * len(picture))


@dataclass(frozen=True)
class Eyes:
    """How eyes are drawn.

    Attributes:
        iris: its colour.
        line: colour of lids and lashes.
        white: colour of the eyeball.
        width: of the upper lid's line, a fraction of the side.
        open: factor on the height between the lids.
        size: of the iris, as a share of the eye's width.
    """

    iris: Colour = (0.30, 0.20, 0.13)
    line: Colour = (0.07, 0.05, 0.06)
    white: Colour = (0.97, 0.96, 0.94)
    width: float = 0.009
    open: float = 1.25
    size: float = 0.25


def draw_eyes(pen: Pen, points: np.ndarray, eyes: Eyes) -> None:
    """Draw both eyes with eyeball, iris, pupil, catchlight, lids and lashes; points [68, 2] as fractions of the side."""
    for index in (RIGHT_EYE, LEFT_EYE):
        eye = points[list(index)].copy()
        middle = eye.mean(axis=0)
        wide = np.linalg.norm(eye[3] - eye[0])
        lift = np.maximum(np.abs(eye[:, 1] - middle[1]) * eyes.open, 0.15 * wide * np.array([0, 1, 1, 0, 1, 1]))
        for i, sign in ((1, -1.0), (2, -1.0), (4, 0.85), (5, 0.85)):
            eye[i, 1] = middle[1] + sign * lift[i]
        upper, lower = curve(eye[:4]), curve(eye[[3, 4, 5, 0]])
        ball = pen.shape(np.concatenate([upper, lower]))
        pen.lay(eyes.white, ball)
        radius = eyes.size * wide
        centre = middle + np.array([0.0, -0.10 * radius])
        pen.lay(np.array(eyes.iris) * 0.45, pen.disc(centre, radius * 1.08) * ball)
        pen.lay(eyes.iris, pen.disc(centre, radius * 0.92) * ball)
        glow = pen.disc(centre + [0.0, 0.42 * radius], radius * 0.4, squash=1.3)
        pen.lay(np.array(eyes.iris) * 0.5 + 0.35, glow * ball * 0.55)
        pen.lay(eyes.line, pen.disc(centre, radius * 0.48) * ball)
        shade = pen.stroke(upper[::4] + [0.0, 0.06 * wide], 0.12 * wide) * ball
        pen.lay(eyes.line, shade * 0.35)
        pen.lay((1.0, 1.0, 1.0), pen.disc(centre + [-0.34 * radius, -0.38 * radius], radius * 0.27))
        corner = eye[0] + (eye[0] - eye[3]) * 0.10 + [0.0, -0.04 * wide]
        pen.lay(eyes.line, pen.stroke(np.concatenate([corner[None], eye[:4]]), eyes.width, taper=(0.3, 0.35)))
        pen.lay(eyes.line, pen.stroke(eye[[3, 4, 5, 0]], eyes.width * 0.4, taper=(0.2, 0.6)) * 0.7)
        pen.lay(eyes.line, pen.stroke(eye[:4] + [0.0, -0.17 * wide], eyes.width * 0.32) * 0.55)


def draw_brows(pen: Pen, points: np.ndarray, colour: Sequence[float], *, width: float = 0.018, cover: float = 1.0) -> None:
    """Draw both brows as strokes that are thick at the nose and end in a point, below their landmarks' upper edge."""
    for index in BROWS:
        pen.lay(colour, pen.stroke(points[list(index)] + [0.0, 0.5 * width], width, taper=(0.1, 0.75)) * cover)


def draw_nose(pen: Pen, points: np.ndarray, colour: Sequence[float], *, width: float = 0.006, cover: float = 0.8) -> None:
    """Draw the nose's underside, its wings and a short line of its bridge."""
    wide = points[35, 0] - points[31, 0]
    for wing, inner, sign in ((31, 32, -1.0), (35, 34, 1.0)):
        side = np.array([points[wing] + [0.16 * sign * wide, -0.30 * wide], points[wing] + [0.22 * sign * wide, -0.10 * wide],
                         points[wing] + [0.08 * sign * wide, 0.06 * wide]])
        pen.lay(colour, pen.stroke(side, width * 0.8) * cover)
        hole = np.array([points[wing] + [0.1 * -sign * wide, 0.02 * wide], points[inner] + [0.0, -0.03 * wide],
                         points[inner] + [0.14 * -sign * wide, 0.03 * wide]])
        pen.lay(colour, pen.stroke(hole, width * 1.3) * cover)
    pen.lay(colour, pen.stroke(points[[32, 33, 34]] + [0.0, 0.05 * wide], width * 0.7) * cover)


def draw_mouth(
    pen: Pen, points: np.ndarray, *, lips: Sequence[float], line: Sequence[float], width: float = 0.006, cover: float = 1.0,
    teeth: Sequence[float] = (0.98, 0.97, 0.95),
) -> None:
    """Draw lips, teeth where the mouth is open, and the line between the lips; ``cover`` of the lips' colour."""
    outer = curve(points[[*range(48, 60), 48]], 80)
    pen.lay(lips, pen.shape(outer) * cover)
    opening = (points[65:68, 1] - points[61:64][::-1, 1]).mean()
    wide = points[54, 0] - points[48, 0]
    if opening > 0.03 * wide:
        pen.lay(teeth, pen.shape(curve(points[[60, 61, 62, 63, 64, 65, 66, 67, 60]], 60)))
        pen.lay(line, pen.stroke(points[[60, 67, 66, 65, 64]], width * 0.7))
    pen.lay(line, pen.stroke(points[[48, 60, 61, 62, 63, 64, 54]], width, taper=(0.7, 0.7)))
    under = points[[58, 57, 56]] + [0.0, 0.01]
    pen.lay(line, pen.stroke(under, width * 0.7) * 0.6)


def draw_jaw(pen: Pen, points: np.ndarray, colour: Sequence[float], *, width: float = 0.007, cover: float = 0.85) -> None:
    """Draw the outline of cheeks and chin."""
    pen.lay(colour, pen.stroke(points[1:16], width, taper=(0.2, 0.2)) * cover)
