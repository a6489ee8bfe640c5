"""Looks drawn at random: the taught looks with other options and colours, and looks put together from what they are made of."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from data import filters_drawn as drawn
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
from data.features import head_mask
from data.random_drawings import recoloured_at_random

# A picture [S, S, 3] in 0..1, landmarks [68, 2] as fractions and a seed -> the drawing.
Draw = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
# How often strokes are painted beside the others: they take ten times as long.
OIL = 0.5
# Chances: of a taught look in place of one put together, of other colours for it, of each part of the others.
TAUGHT, RECOLOURED = 0.5, 0.7
PARTS = {"lines": 0.55, "hatching": 0.35, "grain": 0.4, "relief": 0.35, "palette": 0.3, "ground": 0.4, "stipple": 0.2}


def random_look(seed: int) -> Draw:
    """Return a look by its seed; light lines on dark paper are never among them."""
    rng = np.random.default_rng([seed, 7])
    return _taught(rng) if rng.random() < TAUGHT else _made(rng)


def _bright(rng: np.random.Generator) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.0, 0.75), rng.uniform(0.75, 1.0))


def _paper(rng: np.random.Generator) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.0, 0.22), rng.uniform(0.85, 1.0))


def _dark(rng: np.random.Generator) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.0, 0.9), rng.uniform(0.05, 0.5))


def _taught(rng: np.random.Generator) -> Draw:
    filters = {
        drawn.flat: {"colours": int(rng.integers(4, 14)), "saturation": rng.uniform(0.8, 1.9), "ground": _bright(rng)},
        drawn.ink: {"colour": _dark(rng), "paper": _paper(rng), "shade": rng.uniform(0.3, 0.95)},
        drawn.oil: {"saturation": rng.uniform(0.8, 2.2), "relief": rng.uniform(0.2, 0.9)},
        drawn.pastel: {"grain": rng.uniform(0.15, 0.55), "paper": _paper(rng)},
        drawn.cartoon: {"saturation": rng.uniform(0.9, 1.9)},
        drawn.caricature: {"ruddy": rng.uniform(0.1, 0.8)},
        drawn.comic: {"spacing": rng.uniform(0.0165, 0.04), "ground": _bright(rng)},
    }
    weights = np.array([OIL if draw is drawn.oil else 1.0 for draw in filters])
    draw, options = list(filters.items())[rng.choice(len(filters), p=weights / weights.sum())]
    colours = int(rng.integers(2**31)) if rng.random() < RECOLOURED else None

    def look(picture: np.ndarray, points: np.ndarray, seed: int) -> np.ndarray:
        result = np.clip(draw(picture, points, seed=seed, **options), 0.0, 1.0)
        return result if colours is None else recoloured_at_random(result, np.random.default_rng(colours))

    return look


def _made(rng: np.random.Generator) -> Draw:
    smooth, passes, epsilon = rng.uniform(0.003, 0.014), int(rng.integers(1, 4)), rng.uniform(0.002, 0.012)
    tone = {"saturation": rng.choice([0.0, rng.uniform(0.3, 2.0)], p=[0.2, 0.8]), "contrast": rng.uniform(0.7, 1.6),
            "light": rng.uniform(-0.12, 0.2)}
    medium = rng.choice(["none", "flat", "strokes"], p=[0.35, 0.3, 0.35])
    count, broad = int(rng.integers(3, 15)), rng.uniform(0.02, 0.045)
    has = {name: rng.random() < chance for name, chance in PARTS.items()}
    ink, width, threshold = _dark(rng), rng.uniform(0.002, 0.006), -rng.uniform(0.002, 0.008)
    angles, spacing, level = rng.uniform(-1.5, 1.5, int(rng.integers(1, 4))), rng.uniform(0.012, 0.04), rng.uniform(0.4, 0.9)
    strength, grain = rng.uniform(0.3, 0.9), rng.uniform(0.03, 0.15)
    relief, share, ground = rng.uniform(0.2, 0.9), rng.uniform(0.5, 1.0), _bright(rng)
    colours = sorted([_dark(rng), _bright(rng), _paper(rng)], key=lambda colour: sum(colour))

    def look(picture: np.ndarray, points: np.ndarray, seed: int) -> np.ndarray:
        own, side = np.random.default_rng(seed), len(picture)
        base = smoothed(picture, smooth, epsilon=epsilon, passes=passes)
        result, head = recoloured(base, **tone), head_mask(picture, points)
        flow = edge_flow(grey(base), 0.009)
        if medium == "flat":
            result = flattened(result, count, width=0.006, rng=own)
        elif medium == "strokes":
            canvas = blur(result, broad * side)
            for brush, density in ((broad, 2.5), (broad / 2.0, 1.2)):
                canvas, _ = painted_strokes(canvas, result, flow, width=brush, length=4.0 * brush, jitter=0.05, rng=own,
                                            density=density)
            result = 0.8 * canvas + 0.2 * result
        if has["palette"]:
            light = np.clip(grey(result), 0.0, 1.0)[..., None] * 2.0
            low, middle, high = (np.array(colour) for colour in colours)
            result = result + share * (low + (middle - low) * np.minimum(light, 1.0)
                                       + (high - middle) * np.maximum(light - 1.0, 0.0) - result)
        if has["ground"]:
            result = lay(np.broadcast_to(ground, picture.shape), result, head)
        if has["hatching"]:
            for number, angle in enumerate(angles):
                depth = np.clip((level * 0.7**number - grey(base)) * 5.0, 0.0, 1.0)
                waves = hatching(side, angle=angle, spacing=spacing, wobble=0.3, rng=own)
                result = lay(result, ink, strength * np.clip((waves - 1.0 + 0.6 * depth) * 6.0, 0.0, 1.0) * (depth > 0.0))
        if has["stipple"]:
            dots = gaussian_filter(own.standard_normal((side, side)), 0.0035 * side)
            result = lay(result, ink, strength * np.clip((dots / dots.std() - 3.0 * grey(base)) * 3.0, 0.0, 1.0))
        if has["lines"]:
            result = lay(result, ink, np.clip(coherent_lines(grey(base), flow, width=width, threshold=threshold), 0.0, 1.0))
        if has["grain"]:
            result = result * (1.0 + grain * paper_grain(side, rng=own, width=0.003)[..., None])
        if has["relief"]:
            bristle = along(own.standard_normal((side, side)), flow, 0.012)
            result = lit(result, 0.12 * bristle / bristle.std(), strength=relief)
        return np.clip(result, 0.0, 1.0)

    return look
