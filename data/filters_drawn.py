"""Drawn looks of a face: each turns a picture [S, S, 3] in 0..1 and its landmarks [68, 2] (fractions) into a drawing.

All are deterministic by ``seed`` and alike at every size; ``points`` say where eyes, brows, nose and mouth are drawn.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2lab

from data.drawing import (
    along,
    blur,
    coherent_lines,
    edge_flow,
    flattened,
    grey,
    hatching,
    lay,
    lit,
    painted_strokes,
    paper_grain,
    recoloured,
    smoothed,
)
from data.features import (
    Eyes,
    Pen,
    draw_brows,
    draw_eyes,
    draw_jaw,
    draw_mouth,
    draw_nose,
    face_hull,
    head_mask,
)

INK = (0.08, 0.06, 0.08)


def border(head: np.ndarray, width: float) -> np.ndarray:
    """Return the outline [S, S] of a mask as a line of one width, a fraction of the side."""
    inside = (head > 0.5).astype(np.float64)
    sigma = width * len(head)
    return np.clip(gaussian_filter(inside, sigma) * gaussian_filter(1.0 - inside, sigma) * 12.0 - 1.2, 0.0, 1.0)


def outlines(picture: np.ndarray, head: np.ndarray, *, width: float, threshold: float) -> np.ndarray:
    """Return the ink [S, S] of a head's own edges and of its outline; the background gives none."""
    light = grey(picture)
    flow = edge_flow(light, 0.006)
    ink = coherent_lines(light, flow, width=width, threshold=threshold) * np.clip(gaussian_filter(head, 2.0) * 2.0 - 0.5, 0, 1)
    return np.maximum(ink, border(head, 1.2 * width))


def skin_mask(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the face's inside [S, S] with a soft border."""
    cover = Pen(picture).shape(face_hull(points, brow_lift=0.12))
    return gaussian_filter(cover, 0.012 * len(picture))


def hair_mask(picture: np.ndarray, points: np.ndarray, head: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Return where a head is more of the colour above its forehead than of its skin, [S, S] with round borders."""
    side, eyes_y, chin = len(picture), points[36:48, 1].mean(), points[8, 1]
    y = (np.indices((side, side))[0] + 0.5) / side
    lab = rgb2lab(picture)
    above = (head > 0.9) & (y < max(eyes_y - 0.7 * (chin - eyes_y), 0.08))
    if not above.any():
        return np.zeros((side, side))
    own, other = (np.linalg.norm(lab - np.median(lab[part], axis=0), axis=2) for part in (above, skin > 0.9))
    member = ((own < other) & (y < points[48:68, 1].mean())).astype(np.float64) * (1.0 - skin)
    return np.clip((gaussian_filter(member, 0.008 * side) - 0.5) * 8.0 + 0.5, 0.0, 1.0)


def flat(picture: np.ndarray, points: np.ndarray, *, seed: int = 0, colours: int = 8, saturation: float = 1.5,
         ground: tuple[float, float, float] = (0.98, 0.80, 0.42)) -> np.ndarray:
    """Draw in few flat colours with dark contours on a plain ground.

    Args:
        picture, points, seed: see the module.
        colours: how many.
        saturation: factor on the chroma.
        ground: colour behind the head.
    """
    rng = np.random.default_rng(seed)
    head = head_mask(picture, points)
    base = smoothed(picture, 0.012, epsilon=0.01, passes=3)
    vivid = recoloured(base, saturation=saturation, contrast=1.25, light=0.06)
    result = lay(np.broadcast_to(ground, picture.shape), flattened(vivid, colours, width=0.008, rng=rng), head)
    result = lay(result, INK, outlines(base, head, width=0.0035, threshold=-0.004))
    pen = Pen(result)
    draw_jaw(pen, points, INK, width=0.010)
    draw_nose(pen, points, INK, width=0.008)
    draw_mouth(pen, points, lips=(0.80, 0.25, 0.24), line=INK, width=0.008)
    draw_brows(pen, points, INK, width=0.022)
    draw_eyes(pen, points, Eyes(iris=(0.25, 0.40, 0.50), width=0.013))
    return pen.result


def ink(picture: np.ndarray, points: np.ndarray, *, seed: int = 0, colour: tuple[float, float, float] = INK,
        paper: tuple[float, float, float] = (0.99, 0.985, 0.97), shade: float = 0.75) -> np.ndarray:
    """Draw ink lines on paper, with hatching in the shades and dark hair in solid strokes.

    Args:
        picture, points, seed: see the module.
        colour: of the ink.
        paper: its colour.
        shade: strength of the hatching.
    """
    rng, side = np.random.default_rng(seed), len(picture)
    head = head_mask(picture, points)
    base = smoothed(picture, 0.008, epsilon=0.006, passes=2)
    light = grey(base)
    skin = skin_mask(picture, points)
    tone = light / np.median(light[skin > 0.5])
    lines = outlines(base, head, width=0.003, threshold=-0.005)
    strokes = np.zeros_like(light)
    for angle, level in ((0.8, 0.80), (-0.7, 0.62), (0.15, 0.45)):
        depth = np.clip((level - tone) * 5.0, 0.0, 1.0) * head
        waves = hatching(side, angle=angle, spacing=0.014, wobble=0.25, rng=rng)
        strokes = np.maximum(strokes, np.clip((waves - 1.0 + 0.55 * depth) * 8.0, 0.0, 1.0) * (depth > 0.0))
    strokes *= 1.0 - 0.75 * skin
    solid = np.clip((0.30 - tone) * 10.0, 0.0, 1.0) * head
    result = lay(np.broadcast_to(paper, picture.shape), colour, np.clip(np.maximum(strokes * shade, solid), 0, 1))
    result = lay(result, colour, lines)
    pen = Pen(result)
    draw_jaw(pen, points, colour, width=0.007)
    draw_nose(pen, points, colour)
    draw_mouth(pen, points, lips=colour, line=colour, cover=0.22, teeth=paper)
    draw_brows(pen, points, colour, width=0.018)
    draw_eyes(pen, points, Eyes(iris=tuple(0.4 + 0.6 * c for c in colour), line=colour, white=paper))
    return pen.result


def oil_features(picture: np.ndarray, points: np.ndarray, *, cover: float) -> np.ndarray:
    """Return a picture with mouth, brows and eyes laid on in the colours of an oil painting."""
    pen = Pen(picture)
    dark = (0.22, 0.08, 0.06)
    draw_nose(pen, points, dark, cover=0.6 * cover)
    draw_mouth(pen, points, lips=(0.74, 0.20, 0.18), line=dark, cover=0.7 * cover, teeth=(0.94, 0.90, 0.83))
    draw_brows(pen, points, (0.16, 0.09, 0.06), cover=cover)
    draw_eyes(pen, points, Eyes(iris=(0.26, 0.30, 0.22), line=(0.12, 0.06, 0.05), white=(0.93, 0.89, 0.82)))
    return pen.result


def oil(picture: np.ndarray, points: np.ndarray, *, seed: int = 0, saturation: float = 1.9, relief: float = 0.5) -> np.ndarray:
    """Paint with brush strokes that follow the forms, from broad to fine, in strong colours.

    Args:
        picture, points, seed: see the module.
        saturation: factor on the chroma.
        relief: strength of the light on the strokes.
    """
    rng, side = np.random.default_rng(seed), len(picture)
    base = smoothed(picture, 0.006, epsilon=0.004)
    vivid = recoloured(base, saturation=saturation, contrast=1.35)
    model = oil_features(vivid, points, cover=0.8)
    flow = edge_flow(grey(blur(base, 0.004 * side)), 0.012)
    edges = np.clip(gaussian_filter(np.abs(grey(model) - grey(blur(model, 0.012 * side))), 0.006 * side) * 14.0, 0.0, 1.0)
    face = skin_mask(picture, points)
    height = np.full((side, side), 0.5)
    canvas = blur(model, 0.03 * side)
    layers = ((0.045, 0.16, 0.07, None, 3.0), (0.022, 0.10, 0.05, None, 2.5),
              (0.011, 0.06, 0.04, np.clip(0.25 + edges + 0.45 * face, 0, 1), 2.0),
              (0.006, 0.035, 0.02, np.clip(edges * (0.4 + 0.6 * face), 0.0, 1.0), 2.0))
    for width, length, jitter, where, density in layers:
        canvas, rough = painted_strokes(canvas, model, flow, width=width, length=length, jitter=jitter, rng=rng,
                                        where=where, density=density)
        height = np.where(np.abs(rough - 128 / 255) > 0.01, rough, height)
    canvas = oil_features(canvas, points, cover=0.75)
    bristle = along(rng.standard_normal((side, side)), flow, 0.012)
    return lit(canvas, 0.12 * height + 0.06 * bristle, strength=relief * (1.0 - 0.5 * face))


def pastel(picture: np.ndarray, points: np.ndarray, *, seed: int = 0, grain: float = 0.35,
           paper: tuple[float, float, float] = (0.97, 0.93, 0.90)) -> np.ndarray:
    """Draw with soft chalk on rough paper in pale colours; the paper shows at the borders.

    Args:
        picture, points, seed: see the module.
        grain: how much of the paper's tooth stays bare.
        paper: its colour.
    """
    rng, side = np.random.default_rng(seed), len(picture)
    head = head_mask(picture, points)
    base = smoothed(picture, 0.012, epsilon=0.008, passes=2)
    pale = recoloured(base, saturation=1.35, contrast=0.75, light=0.20)
    pen = Pen(pale)
    for cheek in (points[[2, 31, 48]].mean(axis=0), points[[14, 35, 54]].mean(axis=0)):
        blush = gaussian_filter(pen.disc(cheek, 0.055), 0.025 * side)
        pen.lay((0.96, 0.55, 0.55), 0.5 * blush)
    draw_mouth(pen, points, lips=(0.90, 0.48, 0.50), line=(0.58, 0.30, 0.34), cover=0.8)
    draw_brows(pen, points, (0.50, 0.38, 0.36), cover=0.7)
    draw_nose(pen, points, (0.70, 0.45, 0.42), cover=0.7)
    draw_eyes(pen, points, Eyes(iris=(0.42, 0.55, 0.66), line=(0.36, 0.27, 0.31)))
    chalk = pen.result
    tooth = paper_grain(side, rng=rng)
    strokes = hatching(side, angle=0.9, spacing=0.02, wobble=0.6, rng=rng)
    flow = edge_flow(grey(base), 0.01)
    drag = along(rng.standard_normal((side, side)), flow, 0.010)
    y, x = (np.indices((side, side)) + 0.5) / side - 0.5
    fade = np.clip((0.62 - np.hypot(x, y * 0.95)) * 6.0, 0.0, 1.0)
    pressure = (0.55 + 0.45 * head) * (0.35 * head + 0.65 * fade) + 0.10 * (strokes - 0.5) + 0.06 * drag / drag.std()
    cover = np.clip(pressure * 1.35 - grain * (0.5 + 0.35 * tooth) + 0.05, 0.0, 1.0)
    return lay(np.broadcast_to(paper, picture.shape), chalk, cover)


def cartoon(picture: np.ndarray, points: np.ndarray, *, seed: int = 0, saturation: float = 1.55) -> np.ndarray:
    """Draw as an animated film: smooth skin, clear colours, big bright eyes, a soft ground of one colour.

    Args:
        picture, points, seed: see the module.
        saturation: factor on the chroma.
    """
    side = len(picture)
    head = head_mask(picture, points)
    skin = skin_mask(picture, points)
    base = smoothed(picture, 0.010, epsilon=0.004, passes=2)
    result = recoloured(base, saturation=saturation, contrast=1.2, light=0.12)
    # Hair and clothes in few tones; skin stays smooth.
    tones = flattened(result, 6, width=0.012, rng=np.random.default_rng(seed))
    result = lay(result, tones, 0.8 * (1.0 - skin))
    y = (np.indices((side, side))[0] + 0.5) / side
    ground = np.array([0.45, 0.78, 0.92]) + (np.array([0.80, 0.94, 0.96]) - [0.45, 0.78, 0.92]) * y[..., None]
    result = lay(ground, result, head)
    pen = Pen(result)
    tone = np.median(result[skin > 0.9], axis=0)
    pen.lay(tone, 0.65 * skin)
    for cheek in (points[[2, 31, 48]].mean(axis=0), points[[14, 35, 54]].mean(axis=0)):
        pen.lay((1.0, 0.50, 0.45), 0.45 * gaussian_filter(pen.disc(cheek, 0.045), 0.02 * side))
    dark = tone * 0.5 * np.array([1.0, 0.75, 0.75])
    pen.lay((0.20, 0.12, 0.14), 0.85 * border(head, 0.004))
    draw_jaw(pen, points, dark, width=0.006, cover=0.6)
    draw_nose(pen, points, dark, cover=0.75)
    draw_mouth(pen, points, lips=(0.88, 0.36, 0.38), line=(0.40, 0.12, 0.14))
    draw_brows(pen, points, (0.22, 0.13, 0.10), width=0.02)
    draw_eyes(pen, points, Eyes(iris=(0.20, 0.55, 0.62), width=0.014, open=1.3, size=0.30))
    return pen.result


def caricature(picture: np.ndarray, points: np.ndarray, *, seed: int = 0, ruddy: float = 0.5) -> np.ndarray:
    """Draw as a magazine caricature: strong modelling, ruddy nose and cheeks, warm brown pencil lines on cream.

    Args:
        picture, points, seed: see the module.
        ruddy: strength of the red.
    """
    rng, side = np.random.default_rng(seed), len(picture)
    head = head_mask(picture, points)
    base = smoothed(picture, 0.008, epsilon=0.005, passes=2)
    shaped = base + 0.9 * (base - blur(base, 0.03 * side))
    warm = recoloured(shaped, saturation=1.4, contrast=1.3, light=0.05) * np.array([1.06, 0.98, 0.86])
    pen = Pen(np.clip(warm, 0.0, 1.0))
    for spot, radius in ((points[[2, 31, 48]].mean(axis=0), 0.055), (points[[14, 35, 54]].mean(axis=0), 0.055),
                         (points[33] + [0.0, -0.02], 0.035), (points[8] + [0.0, -0.04], 0.03)):
        pen.lay((0.86, 0.28, 0.20), ruddy * gaussian_filter(pen.disc(spot, radius), 0.018 * side))
    flow = edge_flow(grey(base), 0.008)
    pencil = along(rng.standard_normal((side, side)), flow, 0.010)
    drawn = np.clip(pen.result * (1.0 + 0.055 * (pencil / pencil.std())[..., None]), 0.0, 1.0)
    result = lay(np.broadcast_to((0.95, 0.90, 0.78), picture.shape), drawn, head)
    brown = (0.25, 0.12, 0.07)
    result = lay(result, brown, 0.8 * outlines(base, head, width=0.003, threshold=-0.004))
    pen = Pen(result)
    draw_jaw(pen, points, brown, width=0.007, cover=0.7)
    draw_nose(pen, points, brown, width=0.007)
    draw_mouth(pen, points, lips=(0.74, 0.30, 0.26), line=brown, cover=0.7)
    draw_brows(pen, points, (0.20, 0.11, 0.07), width=0.022, cover=0.85)
    draw_eyes(pen, points, Eyes(iris=(0.35, 0.22, 0.12), line=brown, width=0.009))
    return pen.result


def comic(picture: np.ndarray, points: np.ndarray, *, seed: int = 0, spacing: float = 0.0165,
          ground: tuple[float, float, float] = (0.20, 0.62, 0.88)) -> np.ndarray:
    """Draw as a printed comic: bold black, plain colours, and dots of a halftone screen in the shades.

    Args:
        picture, points, seed: see the module; nothing is drawn by chance.
        spacing: of the dots, as a fraction of the side.
        ground: colour behind the head.
    """
    side = len(picture)
    head = head_mask(picture, points)
    base = smoothed(picture, 0.012, epsilon=0.01, passes=3)
    light, skin = grey(base), skin_mask(picture, points)
    tone = light / np.median(light[skin > 0.5])
    y, x = np.indices((side, side)) / side
    u, v = (x + y) / np.sqrt(2.0) / spacing, (x - y) / np.sqrt(2.0) / spacing
    dots = 0.5 + 0.25 * (np.cos(2.0 * np.pi * u) + np.cos(2.0 * np.pi * v))
    lab_skin = np.array([1.0, 0.86, 0.72])
    shade = np.clip((1.02 - tone) * 2.2, 0.0, 0.75)
    result = lay(np.broadcast_to(lab_skin, picture.shape), (0.90, 0.36, 0.30), np.clip((dots - 1.0 + shade) * 6.0 + 0.5, 0, 1))
    hair = np.maximum(hair_mask(base, points, head, skin), np.clip((0.55 - tone) * 10.0, 0.0, 1.0) * (1.0 - skin))
    result = lay(result, (0.16, 0.13, 0.30), hair)
    back = lay(np.broadcast_to(ground, picture.shape), (0.75, 0.90, 0.98), np.clip((dots - 1.25 + y) * 6.0, 0.0, 1.0))
    result = lay(back, result, head)
    result = lay(result, INK, outlines(base, head, width=0.0045, threshold=-0.004))
    pen = Pen(result)
    draw_jaw(pen, points, INK, width=0.011)
    draw_nose(pen, points, INK, width=0.009)
    draw_mouth(pen, points, lips=(0.85, 0.12, 0.15), line=INK, width=0.009)
    draw_brows(pen, points, INK, width=0.024)
    draw_eyes(pen, points, Eyes(iris=(0.15, 0.35, 0.70), width=0.015))
    return pen.result
