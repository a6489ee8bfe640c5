"""Families of looks that nothing was ever trained on or tuned to: fourteen ways to draw a face, for measuring alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter, zoom
from scipy.spatial import cKDTree

from data.drawing import blur, coherent_lines, edge_flow, grey, lay, paper_grain, palette_of, recoloured, smoothed
from data.looks import LOOKS

Draw = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
PAPER, BLACK = (0.97, 0.95, 0.90), (0.05, 0.05, 0.06)


def _cells(side: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return number and centre of each pixel's Voronoi cell, and how far it is from the border, as a fraction of the side."""
    grid = (np.stack(np.indices((side, side))[::-1], axis=-1) + 0.5) / side
    lattice = int(np.sqrt(count))
    points = (np.stack(np.meshgrid(*[np.arange(lattice)] * 2), axis=-1).reshape(-1, 2) + rng.random((lattice**2, 2))) / lattice
    gaps, numbers = cKDTree(points).query(grid, k=2)
    return numbers[..., 0], points, gaps[..., 1] - gaps[..., 0]


def _means(picture: np.ndarray, numbers: np.ndarray, count: int) -> np.ndarray:
    sizes = np.maximum(np.bincount(numbers.ravel(), minlength=count), 1)
    means = np.stack([np.bincount(numbers.ravel(), picture[..., c].ravel(), minlength=count) / sizes for c in range(3)], axis=1)
    return means[numbers]


def _lines(picture: np.ndarray, width: float = 0.004) -> np.ndarray:
    light = grey(smoothed(picture, 0.008, epsilon=0.006))
    return np.clip(coherent_lines(light, edge_flow(light, 0.008), width=width, threshold=-0.004), 0.0, 1.0)


def _blocks(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture shrunk to ``side`` px by means."""
    step = len(picture) // side
    return picture[:side * step, :side * step].reshape(side, step, side, step, 3).mean(axis=(1, 3))


def mosaic(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Small tiles of one colour with pale joints."""
    numbers, centres, gap = _cells(len(picture), 2500, rng)
    tiles = _means(recoloured(picture, saturation=1.4), numbers, len(centres))
    tiles = tiles * (1.0 + 0.08 * rng.standard_normal(len(centres))[numbers][..., None])
    return lay(np.broadcast_to((0.80, 0.78, 0.72), picture.shape), tiles, np.clip(gap * 300.0, 0.0, 1.0))


def stained_glass(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Large panes in glowing colours between black leads."""
    numbers, centres, gap = _cells(len(picture), 420, rng)
    panes = _means(recoloured(picture, saturation=2.2, contrast=1.3), numbers, len(centres))
    return lay(np.broadcast_to(BLACK, picture.shape), panes, np.clip(gap * 140.0 - 0.4, 0.0, 1.0))


def pointillism(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dots of pure colours beside each other on white."""
    numbers, centres, _ = _cells(len(picture), 3600, rng)
    grid = (np.stack(np.indices(numbers.shape)[::-1], axis=-1) + 0.5) / len(picture)
    dots = _means(recoloured(picture, saturation=1.8, light=0.05), numbers, len(centres))
    dots = np.clip(dots + 0.13 * rng.standard_normal((len(centres), 3))[numbers], 0.0, 1.0)
    inside = np.clip((0.0085 - np.linalg.norm(grid - centres[numbers], axis=2)) * 500.0, 0.0, 1.0)
    return lay(np.broadcast_to(PAPER, picture.shape), dots, inside)


def woodcut(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Black block with carved white lines that grow with the light."""
    side, light = len(picture), grey(smoothed(picture, 0.008))
    y, x = np.indices((side, side)) / side
    wave = 0.5 + 0.5 * np.cos(2.0 * np.pi * (y + 0.03 * np.sin(9.0 * x) + 0.08 * light) / 0.022)
    cut = np.clip((wave - 1.15 + 1.2 * light) * 6.0, 0.0, 1.0)
    return lay(np.broadcast_to(BLACK, picture.shape), PAPER, cut * (1.0 - _lines(picture)))


def engraving(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Banknote: fine sepia lines in two directions, broader in the shade."""
    side, light = len(picture), grey(smoothed(picture, 0.006))
    y, x = np.indices((side, side)) / side
    cover = np.zeros((side, side))
    for angle, level in ((0.35, 0.95), (-0.6, 0.5)):
        wave = 0.5 + 0.5 * np.cos(2.0 * np.pi * (x * np.sin(angle) + y * np.cos(angle) + 0.05 * light) / 0.017)
        cover = np.maximum(cover, np.clip((wave - 0.3 - light / level * 0.75) * 5.0, 0.0, 1.0))
    return lay(np.broadcast_to((0.93, 0.90, 0.80), picture.shape), (0.28, 0.20, 0.12), np.maximum(cover, 0.8 * _lines(picture)))


def blueprint(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """White lines and a grid on blue."""
    side = len(picture)
    y, x = np.indices((side, side)) / side
    net = 0.18 * ((x % 0.0625 < 0.006) | (y % 0.0625 < 0.006))
    shade = 0.25 * np.clip(grey(picture) * 1.5 - 0.6, 0.0, 1.0)
    return lay(np.broadcast_to((0.07, 0.22, 0.55), picture.shape), (0.95, 0.97, 1.0),
               np.clip(np.maximum(_lines(picture, 0.005), net + shade), 0.0, 1.0))


def newsprint(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Coarse black dots on yellowed paper."""
    side, light = len(picture), np.clip((grey(picture) - 0.5) * 1.3 + 0.5, 0.0, 1.0)
    y, x = np.indices((side, side)) / side
    u, v = (x + y) / np.sqrt(2.0) / 0.021, (x - y) / np.sqrt(2.0) / 0.021
    dots = 0.5 + 0.25 * (np.cos(2.0 * np.pi * u) + np.cos(2.0 * np.pi * v))
    return lay(np.broadcast_to((0.92, 0.89, 0.78), picture.shape), BLACK, np.clip((dots - light) * 7.0 + 0.5, 0.0, 1.0))


def neon(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Glowing outlines in the dark."""
    side, lines = len(picture), _lines(picture, 0.004)
    y = np.indices((side, side))[0][..., None] / side
    tint = np.array([1.0, 0.2, 0.7]) * (1.0 - y) + np.array([0.1, 0.9, 1.0]) * y
    glow = gaussian_filter(lines, 0.012 * side) * 3.0
    return np.clip(0.12 * picture + (lines + glow)[..., None] * tint, 0.0, 1.0)


def pixels(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A game's sprite: 42 px a side, sixteen colours."""
    small = _blocks(recoloured(picture, saturation=1.5, contrast=1.3), 42)
    palette = palette_of(small.reshape(-1, 3), 16, rng=rng)
    small = palette[np.linalg.norm(small[:, :, None] - palette, axis=3).argmin(axis=2)]
    return np.clip(zoom(small, (len(picture) / 42, len(picture) / 42, 1), order=0), 0.0, 1.0)


def embroidery(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cross stitch on linen."""
    side, count = len(picture), 64
    small = zoom(_blocks(recoloured(picture, saturation=1.3), count), (side / count, side / count, 1), order=0)[:side, :side]
    y, x = (np.indices((side, side)) * count / side) % 1.0
    cross = np.clip(1.3 - 4.5 * np.minimum(np.abs(x - y), np.abs(x + y - 1.0)), 0.0, 1.0)
    thread = np.clip(small * (0.7 + 0.4 * cross[..., None]), 0.0, 1.0)
    return lay(np.broadcast_to((0.88, 0.83, 0.72), picture.shape), thread, np.clip(2.0 * cross, 0.0, 1.0))


def risograph(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Two grainy inks that do not quite meet."""
    side, light = len(picture), grey(picture)
    result = np.broadcast_to(PAPER, picture.shape)
    for ink, shift, level in (((1.0, 0.28, 0.38), 2, 0.75), ((0.0, 0.38, 0.45), -2, 0.45)):
        cover = np.clip((level - np.roll(light, shift, axis=1)) * 2.2, 0.0, 1.0)
        cover = np.clip(cover * 1.2 - 0.25 * np.abs(paper_grain(side, rng=rng)) * (cover > 0.02), 0.0, 1.0)
        result = result * (1.0 - cover[..., None] * (1.0 - np.array(ink)))
    return result


def charcoal(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smudged black chalk on rough beige paper."""
    side, light = len(picture), grey(blur(picture, 0.006 * len(picture)))
    pressure = np.clip(1.15 - 1.35 * light, 0.0, 1.0) + 0.6 * _lines(picture, 0.006)
    cover = np.clip(pressure - 0.16 * paper_grain(side, rng=rng, width=0.003), 0.0, 1.0)
    return lay(np.broadcast_to((0.80, 0.73, 0.62), picture.shape), (0.10, 0.09, 0.09), 0.92 * cover)


def _look(name: str) -> Draw:
    look = LOOKS[name]

    def draw(picture: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return look.draw(picture, points, seed=int(rng.integers(2**31)), **look.options)

    return draw


FAMILIES: dict[str, Draw] = {
    **{draw.__name__: draw for draw in (mosaic, stained_glass, pointillism, woodcut, engraving, blueprint, newsprint, neon,
                                        pixels, embroidery, risograph, charcoal)},
    **{name: _look(name) for name, look in LOOKS.items() if look.held_out},
}


def drawn(name: str, picture: np.ndarray, points: np.ndarray, *, seed: int) -> np.ndarray:
    """Return a face [S, S, 3] in 0..1 with landmarks [68, 2] (fractions of the side) as a family draws it; 256 px suit."""
    return np.clip(FAMILIES[name](picture, points, np.random.default_rng(seed)), 0.0, 1.0)
